"""Lesson 07: sampling.

Turned on: what a request can ask of the sampler. Penalties, min-p, biases, forbidden words, a seed, log probabilities,
stop strings, several answers at once, an answer that must be JSON: each is a small change to the scores [V] of one row,
or a look at them, between the model and the token. One request may ask for all of it; its neighbours ask for nothing.
"""

import json

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=7,
    title="Sampling",
    turns_on="penalties, min_p, seed, logprobs, stop, n, structured_outputs (settings of a request)",
    buys="answers that can be steered, repeated, cut and parsed",
    breaks="sampler.penalties,sampler.mask,request.grammar",
)

from rich.markup import escape
from rich.text import Text

from minillm import SamplingParams
from minillm.debug.views.candidates import top_tokens
from minillm.debug.views.controls import changed, choices, surprises, surprises_of
from minillm.debug.views.table import drawn, numbers, texts
from minillm.learn.asking import answered
from minillm.learn.example import CODE, QUESTION, question
from minillm.learn.lessons.lesson_07.allowed import watched
from minillm.learn.lessons.lesson_07.company import among_strangers, ask_all
from minillm.learn.lessons.lesson_07.copies import noting
from minillm.learn.lessons.lesson_07.cuts import tokens_left
from minillm.learn.lessons.lesson_07.four_answers import four_answers
from minillm.learn.lessons.lesson_07.price import BATCH, time_kinds
from minillm.learn.lessons.lesson_07.stop_string import stop_string

FLAT = '\n    """'  # begins a docstring, and many words may come next
SEED = 7
STOP = "so that"
PROPERTIES = {
    "term": {"type": "string", "pattern": "^[a-z ]{3,12}$"},
    "part": {"enum": ["cache", "scheduler", "sampler"]},
    "tokens": {"type": "integer", "minimum": 0, "maximum": 4096},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": [*PROPERTIES], "additionalProperties": False}
REPEATS = 4  # how often each kind of batch is timed


def main() -> None:
    engine = lesson.llm().engine
    asked = question(engine.tokenizer, lesson.options.prompt or QUESTION)
    code, docstring = (engine.tokenizer.encode(text) for text in (CODE, CODE + FLAT))

    lesson.part("A flat and a peaked distribution")
    two_distributions(engine, asked, docstring)

    lesson.part("What was said already: penalties")
    penalties(engine, code)

    lesson.part("Rules about single tokens")
    rules(engine, docstring)

    lesson.part("The same seed, in any batch")
    same_seed(engine, code)

    lesson.part("Which token was a surprise?")
    log_probabilities(engine, code)

    lesson.part("Four answers, one prompt")
    four_answers(lesson)

    lesson.part("A stop string across tokens")
    stop_string(lesson, engine, asked, STOP)

    lesson.part("An answer that must be JSON")
    structured(engine, asked)

    lesson.part("What it costs")
    price(engine, code)

    lesson.end(
        """Stop where penalties meet the scores: [bold]--break sampler.penalties[/]. Look at [bold]counts.sum()[/], then
        at [bold]logits.topk(5)[/] and [bold]after.topk(5)[/].""",
        "Stop where a grammar leaves one token: [bold]--break request.grammar --break-when 'matcher.taken == 2'[/].",
        "Before you run it, say what STOP = 'so far' does to the stream. Then change it in this file.",
        "Ask for temperature=3 without min_p, and with min_p=0.3. Which text would you rather read?",
    )


def unmarked(engine, token_ids: list[int]):
    """A text of the model's in quotes, for a line or a table's cell of its own."""
    return Text(lesson.quoted(engine.tokenizer.decode(token_ids)))


def marked(text: object) -> str:
    """For `lesson.say`: in quotes and bold, with nothing in it that rich would take for markup."""
    return f"[bold]{escape(lesson.quoted(text))}[/]"


def two_distributions(engine, asked: list[int], docstring: list[int]) -> None:
    """The next token of the question and of a docstring's beginning; then how many tokens each cut leaves of them."""
    lesson.say("""Lesson 01 drew from a distribution. How it should be cut depends on its shape, and that changes from
        token to token. Here are the candidates for the first token of the answer to the question:""")
    rows = {}
    for name, ids in (("the question", asked), ("the docstring", docstring)):
        with noting("sampler.logits") as seen:
            answered(engine, ids, 1)
        rows[name] = seen[0]["logits"][0]
        lesson.show(top_tokens(rows[name], engine.tokenizer, k=5))
        if name == "the question":
            sure = float(rows[name].softmax(-1).max()) > 0.5
            said = "The model is sure: peaked" if sure else "The model is not sure of your prompt: rather flat"
            lesson.say(f"{said}. And what may come first in the docstring of our piece of code:")
    lesson.say("""Nobody could be sure here: flat. A cut must suit both. top_k counts tokens. top_p counts until a share
        of the probability is reached. min_p asks for a share of the likeliest token's own probability, so its bar is
        high when the model is sure and low when it is not. Tokens that can still be drawn, at temperature t:""")
    lesson.show(tokens_left(rows["the question"], rows["the docstring"]))
    lesson.say(f"""Temperature 2 flattens everything. The {engine.model_config.vocab_size:,} tokens have a long tail,
        each next to nothing, together much: top_p lets it in, since it only adds up. min_p does not. That is why people
        who want high temperatures use min_p.""")


def penalties(engine, code: list[int]) -> None:
    """The step at which a repetition penalty changes the choice, and the text under each kind of penalty."""
    lesson.say("""Greedy text likes to repeat itself. A repetition penalty makes what stands in prompt or answer less
        likely: a score above 0 is divided by it, any other is multiplied. Our piece of code goes on, and this is the
        first step in which repetition_penalty=1.2 changes the choice:""")
    with noting("sampler.penalties", lambda event: event.before.argmax() != event.after.argmax()) as seen:
        answered(engine, code, 32, repetition_penalty=1.2)
    for event in seen[:1]:
        lesson.show(changed(event["before"][0], event["after"][0], engine.tokenizer))
    lesson.say("""The other two look at the answer alone, and are taken off the score: frequency_penalty once for each
        time that the token was said, presence_penalty once if it was said at all. The same prompt, greedy:""")
    settings = {"repetition_penalty": 1.2, "frequency_penalty": 2.0, "presence_penalty": 2.0}
    said = {"none": answered(engine, code, 32).output_ids}
    for name, value in settings.items():
        said[f"{name}={value}"] = answered(engine, code, 32, **{name: value}).output_ids
    cells = [[name, f"{len(set(ids))} of {len(ids)}", unmarked(engine, ids)] for name, ids in said.items()]
    lesson.show(drawn([*texts("penalty"), *numbers("different tokens"), *texts("text")], cells))


def rules(engine, docstring: list[int]) -> None:
    """logit_bias and bad_words, at the docstring's first token."""
    first = engine.tokenizer.encode("Return", add_special_tokens=False)[0]
    lesson.say(f"""logit_bias adds to the score of a token, here -3 to that of token {first}, 'Return'. The softmax
        shares what it loses among all others:""")
    with_rule(engine, docstring, logit_bias={first: -3.0})
    lesson.say("""bad_words takes it out altogether, its score becomes -inf. A word of several tokens is forbidden at
        its last one, when the others have been said; that is why a request's latest tokens are kept on the device:""")
    with_rule(engine, docstring, bad_words=["Return"])


def with_rule(engine, prompt_ids: list[int], **settings) -> None:
    """The scores of the first token before and after, and the text that comes of it."""
    with noting("sampler.mask") as seen:
        made = answered(engine, prompt_ids, 12, ignore_eos=False, **settings)
    lesson.show(changed(seen[0]["before"][0], seen[0]["after"][0], engine.tokenizer, k=4))
    lesson.say("Greedy, the docstring now goes on like this:")
    lesson.show(unmarked(engine, made.output_ids))


def same_seed(engine, code: list[int]) -> None:
    """A seed's text alone, in a batch of strangers, and beside its twin; then another seed's."""
    mine = code, SamplingParams(temperature=1, seed=SEED, max_tokens=20, ignore_eos=True)
    (alone,) = ask_all(engine, [mine])
    first, twin = among_strangers(engine, mine)
    other = answered(engine, code, 20, temperature=1, seed=SEED + 1, ignore_eos=False)
    lesson.say(f"""A draw needs one number between 0 and 1. It is a hash of the request's seed and of the position that
        the token will have, and of nothing else: not of the batch, the row, or what ran before. Temperature 1, seed
        {SEED}:""")
    rows = [(SEED, "alone", alone), (SEED, "in a batch of 7", first), (SEED, "in its last row", twin)]
    rows.append((SEED + 1, "alone", other))
    cells = [[str(seed), where, unmarked(engine, request.output_ids)] for seed, where, request in rows]
    lesson.show(drawn([*numbers("seed"), *texts("where", "text")], cells))
    same = alone.output_ids == first.output_ids == twin.output_ids
    lesson.say(f"The same tokens, both times: [good]{same}[/]. The neighbours had other settings and other lengths.")


def log_probabilities(engine, code: list[int]) -> None:
    """The same text again, with what the model thought of each of its tokens."""
    request = answered(engine, code, 12, temperature=1, seed=SEED, logprobs=1)
    rows = surprises_of(request, engine.tokenizer)
    lesson.say("""logprobs=1 asks for the logarithm of each chosen token's probability, for its rank, and for the
        likeliest token beside it. They are the model's own, before temperature and every control. The text of seed 7
        again:""")
    lesson.show(surprises(rows))
    odd = min(rows, key=lambda row: row.probability)
    lesson.say(f"""The greatest surprise was {marked(odd.text)}: {odd.rank - 1} tokens were likelier. Once it was said,
        the model took it up and went on from there. A low probability is not yet a mistake, but mistakes are often
        found there.""")


def structured(engine, asked: list[int]) -> None:
    """A JSON schema: what it leaves of the vocabulary at each token, and the answer parsed."""
    V = engine.model_config.vocab_size
    lesson.say(f"""structured_outputs=StructuredOutputsParams(json=schema) makes a grammar of a JSON schema. Before each
        token it says which of the {V:,} tokens may come next; the scores of all others become -inf. The rest is as
        ever: here greedy takes the likeliest of what is left. The schema asks for a term (3 to 12 small letters), a
        part (one of three words) and a number of tokens (0 to 4096):""")
    request, seen = watched(engine, asked, SCHEMA)
    lesson.show(choices(seen, V))
    parsed, single = json.loads(engine.tokenizer.decode(request.output_ids)), sum(one.allowed == 1 for one in seen)
    lesson.say(f"""At {single} of {len(seen)} tokens there was no choice at all. The last one says that the answer is
        complete, and may only come then. json.loads gives {marked(parsed)}. The form is sure to be right. What it says
        is not: a mask can only choose among what the model thinks.""")


def price(engine, code: list[int]) -> None:
    """The time of a step of 16 requests: plain, with one that asks for everything, all drawing, all with everything."""
    lesson.say(f"""What a request asks for is done for its own row. Steps of {BATCH} requests that each write one token,
        timed on this machine: {REPEATS} rounds, all kinds in turn in each. Of a round's steps the table takes the time
        than which a quarter was faster, since other programs disturb that least; in brackets, the rounds:""")
    lesson.show(time_kinds(engine, code, lesson.each(range(REPEATS), "timing steps")))
    lesson.say("""A step looks at a control only if somebody in it asks, and then at that somebody's rows alone: those
        who are greedy are not made to wait for a softmax or a sort of theirs. What is left is the price of each small
        operation, much the same for one row and for a few. Rows whose brackets overlap are within noise.""")


if __name__ == "__main__":
    lesson.run(main)
