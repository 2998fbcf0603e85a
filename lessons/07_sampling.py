"""Lesson 07: sampling.

Turned on: what a request can ask of the sampler. Penalties, min-p, biases, forbidden words, a seed, log probabilities,
stop strings, several answers at once, an answer that must be JSON: each is a small change to the scores [V] of one row,
or a look at them, between the model and the token. One request may ask for all of it; its neighbours ask for nothing.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import quantiles

import torch

from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=7,
    title="Sampling",
    turns_on="penalties, min_p, seed, logprobs, stop, n, structured_outputs (settings of a request)",
    buys="answers that can be steered, repeated, cut and parsed",
    breaks="sampler.penalties,sampler.mask,request.grammar",
)
FLAT = '\n    """'  # begins a docstring, and many words may come next
SEED = 7
STOP = "so that"
SCHEMA = {
    "type": "object",
    "properties": {
        "term": {"type": "string", "pattern": "^[a-z ]{3,12}$"},
        "part": {"enum": ["cache", "scheduler", "sampler"]},
        "tokens": {"type": "integer", "minimum": 0, "maximum": 4096},
    },
    "required": ["term", "part", "tokens"],
    "additionalProperties": False,
}
BATCH, STEPS, REPEATS = 16, 24, 5  # of what is timed: requests at once, steps, and how often


def main() -> None:
    llm = lesson.llm()
    engine = llm.engine

    lesson.part("A flat and a peaked distribution")
    two_distributions(engine)

    lesson.part("What was said already: penalties")
    penalties(engine)

    lesson.part("Rules about single tokens")
    rules(engine)

    lesson.part("The same seed, in any batch")
    same_seed(engine)

    lesson.part("Which token was a surprise?")
    log_probabilities(engine)

    lesson.part("Four answers, one prompt")
    four_answers()

    lesson.part("A stop string across tokens")
    stop_string(engine)

    lesson.part("An answer that must be JSON")
    structured(engine)

    lesson.part("What it costs")
    price(engine)

    lesson.end(
        """Stop where penalties meet the scores: [bold]--break sampler.penalties[/]. Look at [bold]counts.sum()[/], then
        at [bold]logits.topk(5)[/] and [bold]after.topk(5)[/].""",
        "Stop where a grammar leaves one token: [bold]--break request.grammar --break-when 'matcher.taken == 2'[/].",
        "Before you run it, say what STOP = 'so far' does to the stream. Then change it in this file.",
        "Ask for temperature=3 without min_p, and with min_p=0.3. Which text would you rather read?",
    )


def ask(engine, prompt_ids: list[int], **settings):
    """One request, run to its end."""
    from minillm import SamplingParams

    (request,) = ask_all(engine, [(prompt_ids, SamplingParams(**settings))])
    return request


def ask_all(engine, wanted: list[tuple]) -> list:
    """Requests that run together, to the end of all."""
    requests = [engine.add_request(prompt_ids, params) for prompt_ids, params in wanted]
    while engine.has_requests:
        engine.step()
    return requests


def the_question(engine) -> list[int]:
    from minillm.learn.example import QUESTION, question

    return question(engine.tokenizer, lesson.options.prompt or QUESTION)


def unmarked(engine, token_ids: list[int]):
    """A text of the model's in quotes, for a line or a table's cell of its own."""
    from rich.text import Text

    return Text(shown(engine.tokenizer.decode(token_ids)))


def the_code(engine, more: str = "") -> list[int]:
    from minillm.learn.example import CODE

    return engine.tokenizer.encode(CODE + more)


def shown(text: object) -> str:
    """Text of the model's in quotes: it may hold anything."""
    return ascii(text) if lesson.options.plain else repr(text)


def marked(text: str) -> str:
    """For `lesson.say`: bold, with nothing in it that rich would take for markup."""
    from rich.markup import escape

    return f"[bold]{escape(text)}[/]"


@contextmanager
def noting(name: str, fits: Callable[[Event], bool] = lambda event: True) -> Iterator[list[dict]]:
    """Copies of a probe's tensors, of each event that fits: what a probe shows is live."""
    found: list[dict] = []

    def note(event: Event) -> None:
        if fits(event):
            found.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in event.values.items()})

    with listen(name, note):
        yield found


def two_distributions(engine) -> None:
    """The next token of the question and of a docstring's beginning; then how many tokens each cut leaves of them."""
    from minillm.debug.views.candidates import top_tokens
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table
    from minillm.sampling.sampler import keep_min_p, keep_top

    lesson.say(
        """Lesson 01 drew from a distribution. How it should be cut depends on its shape, and that changes from token to
        token. Here are the candidates for the first token of the answer to the question:"""
    )
    rows = {}
    for name, ids in (("the question", the_question(engine)), ("the docstring", the_code(engine, FLAT))):
        with noting("sampler.logits") as seen:
            ask(engine, ids, temperature=0, max_tokens=1)
        rows[name] = seen[0]["logits"][0]
        lesson.show(top_tokens(rows[name], engine.tokenizer, k=5))
        if name == "the question":
            sure = float(rows[name].softmax(-1).max()) > 0.5
            said = "The model is sure: peaked" if sure else "The model is not sure of your prompt: rather flat"
            lesson.say(f"{said}. And what may come first in the docstring of our piece of code:")
    lesson.say(
        """Nobody could be sure here: flat. A cut must suit both. top_k counts tokens. top_p counts until a share of the
        probability is reached. min_p asks for a share of the likeliest token's own probability, so its bar is high when
        the model is sure and low when it is not. Tokens that can still be drawn, at temperature t:"""
    )
    V = len(rows["the question"])
    everything = torch.tensor([V])
    cuts = {
        "top_k=40": lambda p: keep_top(p, torch.tensor([40]), torch.ones(1)),
        "top_p=0.9": lambda p: keep_top(p, everything, torch.tensor([0.9])),
        "min_p=0.1": lambda p: keep_min_p(p, torch.tensor([0.1])),
    }
    shapes = [f"{shape}, t={t}" for shape in ("peaked", "flat") for t in (1, 2)]
    columns = [Col(""), *(Col(shape, "right") for shape in shapes)]
    cells = []
    for setting, cut in cuts.items():
        probs = [(logits / t).softmax(dim=-1)[None] for logits in rows.values() for t in (1, 2)]  # [1, V] each
        cells.append([setting, *(f"{int((cut(p) > 0).sum()):,}" for p in probs)])
    lesson.show(Drawing(lambda canvas: table(canvas, columns, cells)))
    lesson.say(
        f"""Temperature 2 flattens everything. The {V:,} tokens have a long tail, each next to nothing, together much:
        top_p lets it in, since it only adds up. min_p does not. That is why people who want high temperatures use
        min_p."""
    )


def penalties(engine) -> None:
    """The step at which a repetition penalty changes the choice, and the text under each kind of penalty."""
    from minillm.debug.views.controls import changed
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    code = the_code(engine)
    plain = ask(engine, code, temperature=0, max_tokens=32, ignore_eos=True)
    lesson.say(
        """Greedy text likes to repeat itself. A repetition penalty makes what stands in prompt or answer less likely: a
        score above 0 is divided by it, any other is multiplied. Our piece of code goes on, and this is the first step
        in which repetition_penalty=1.2 changes the choice:"""
    )
    with noting("sampler.penalties", lambda event: event.before.argmax() != event.after.argmax()) as seen:
        ask(engine, code, temperature=0, max_tokens=32, ignore_eos=True, repetition_penalty=1.2)
    for event in seen[:1]:
        lesson.show(changed(event["before"][0], event["after"][0], engine.tokenizer))
    lesson.say(
        """The other two look at the answer alone, and are taken off the score: frequency_penalty once for each time
        that the token was said, presence_penalty once if it was said at all. The same prompt, greedy:"""
    )
    settings = {"repetition_penalty": 1.2, "frequency_penalty": 2.0, "presence_penalty": 2.0}
    texts = {"none": plain.output_ids}
    for name, value in settings.items():
        made = ask(engine, code, temperature=0, max_tokens=32, ignore_eos=True, **{name: value})
        texts[f"{name}={value}"] = made.output_ids
    columns = [Col("penalty", wraps=True), Col("different tokens", "right"), Col("text", wraps=True)]
    cells = [[name, f"{len(set(ids))} of {len(ids)}", unmarked(engine, ids)] for name, ids in texts.items()]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, cells)))


def rules(engine) -> None:
    """logit_bias and bad_words, at the docstring's first token."""
    from minillm.debug.views.controls import changed

    ids = the_code(engine, FLAT)
    first = engine.tokenizer.encode("Return", add_special_tokens=False)[0]
    for words, settings in (
        (
            f"""logit_bias adds to the score of a token, here -3 to that of token {first}, 'Return'. The softmax shares
            what it loses among all others:""",
            {"logit_bias": {first: -3.0}},
        ),
        (
            """bad_words takes it out altogether, its score becomes -inf. A word of several tokens is forbidden at its
            last one, when the others have been said; that is why a request's latest tokens are kept on the device:""",
            {"bad_words": ["Return"]},
        ),
    ):
        lesson.say(words)
        with noting("sampler.mask") as seen:
            made = ask(engine, ids, temperature=0, max_tokens=12, **settings)
        lesson.show(changed(seen[0]["before"][0], seen[0]["after"][0], engine.tokenizer, k=4))
        lesson.say("Greedy, the docstring now goes on like this:")
        lesson.show(unmarked(engine, made.output_ids))


def same_seed(engine) -> None:
    """A seed's text alone, in a batch of strangers, and beside its twin; then another seed's."""
    from minillm import SamplingParams
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table
    from minillm.learn.example import running_example

    mine = the_code(engine), SamplingParams(temperature=1, seed=SEED, max_tokens=20, ignore_eos=True)
    (alone,) = ask_all(engine, [mine])
    prompts = list(running_example(engine.tokenizer).values())
    strange = [SamplingParams(temperature=1.5, seed=100 + i, max_tokens=8 + 4 * i, ignore_eos=True) for i in range(5)]
    strange[1].frequency_penalty, strange[2].top_k, strange[3].min_p = 1.0, 20, 0.1
    others = [(prompts[i % 4], params) for i, params in enumerate(strange)]
    _, first, *_, twin = ask_all(engine, [others[0], mine, *others[1:], mine])
    (other,) = ask_all(engine, [(mine[0], SamplingParams(temperature=1, seed=SEED + 1, max_tokens=20))])
    lesson.say(
        f"""A draw needs one number between 0 and 1. It is a hash of the request's seed and of the position that the
        token will have, and of nothing else: not of the batch, the row, or what ran before. Temperature 1, seed
        {SEED}:"""
    )
    columns = [Col("seed", "right"), Col("where", wraps=True), Col("text", wraps=True)]
    facts = (
        (SEED, "alone", alone),
        (SEED, "in a batch of 7", first),
        (SEED, "in its last row", twin),
        (SEED + 1, "alone", other),
    )
    cells = [[str(seed), where, unmarked(engine, request.output_ids)] for seed, where, request in facts]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, cells)))
    same = alone.output_ids == first.output_ids == twin.output_ids
    lesson.say(f"The same tokens, both times: [good]{same}[/]. The neighbours had other settings and other lengths.")


def log_probabilities(engine) -> None:
    """The same text again, with what the model thought of each of its tokens."""
    from math import exp

    from minillm.debug.views.controls import Surprise, surprises

    request = ask(engine, the_code(engine), temperature=1, seed=SEED, max_tokens=12, ignore_eos=True, logprobs=1)
    token = engine.tokenizer.token
    rows = [
        Surprise(token(id), exp(logprob), rank, token(best), exp(its))
        for (id, logprob, rank), (best, its, _) in request.logprobs
    ]
    lesson.say(
        """logprobs=1 asks for the logarithm of each chosen token's probability, for its rank, and for the likeliest
        token beside it. They are the model's own, before temperature and every control. The text of seed 7 again:"""
    )
    lesson.show(surprises(rows))
    odd = min(rows, key=lambda row: row.probability)
    lesson.say(
        f"""The greatest surprise was {marked(shown(odd.text))}: {odd.rank - 1} tokens were likelier. Once it was said,
        the model took it up and went on from there. A low probability is not yet a mistake, but mistakes are often
        found there."""
    )


def four_answers() -> None:
    """n=4 on a long prompt: tokens computed, the pages that all four hold; then their texts, with min-p and without."""
    from minillm import SamplingParams
    from minillm.debug.views.page_map import page_map
    from minillm.learn.example import running_example

    engine = lesson.llm(num_pages=48).engine
    prompt = running_example(engine.tokenizer)["a long talk"]
    params = SamplingParams(temperature=3, min_p=0.02, seed=5, n=4, max_tokens=20, ignore_eos=True)
    lesson.say(
        f"""n=4 asks for four answers to one prompt. They are four requests whose seeds count up, and their prompt is
        the same. So they share its pages, as lesson 06 had it, from the step that fills them. For the long talk, with
        {len(prompt)} tokens:"""
    )
    engine.add_request(prompt, params)
    with noting("scheduler.plan") as plans:
        engine.step()
    running = list(engine.scheduler.running)
    computed = sum(row.count for row in plans[0]["plan"].rows)
    for _ in range(12):
        engine.step()
    lesson.show(page_map(engine.pool, running))
    shared = sum(all(page in request.pages for request in running) for page in running[0].pages)
    lesson.say(
        f"""{shared} pages belong to all four (A+3). The first step computed [bold]{computed}[/] tokens: the prompt
        once, and for each of the others what lies in the prompt's last page, which is not full. Without sharing it
        would have been 4 * {len(prompt)} = {4 * len(prompt)}. What they write, with temperature=3 and min_p=0.02:"""
    )
    while engine.has_requests:
        engine.step()
    show_texts(engine, running)
    lesson.say("And the same four seeds with temperature=3 alone:")
    params.min_p = 0.0
    engine.add_request(prompt, params)
    engine.step()
    running = list(engine.scheduler.running)
    while engine.has_requests:
        engine.step()
    show_texts(engine, running)


def show_texts(engine, requests: list) -> None:
    from rich.text import Text

    lesson.show(Text("\n").join(unmarked(engine, request.output_ids) for request in requests))


def stop_string(engine) -> None:
    """A streamed answer that ends at a stop string: each token, what the stream shows, what is held back."""
    from minillm import SamplingParams
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    lesson.say(
        f"""stop='{STOP}' ends the answer where this text appears. But the model writes tokens, and a stop string begins
        and ends anywhere in them. A stream that shows each token at once would show the beginning of the string, and
        could not take it back. So text that may begin a stop string is held back until the next tokens decide. The
        end of the answer to the question, streamed:"""
    )
    rows = []

    def note(event: Event) -> None:
        made = engine.tokenizer.decode(event.request.output_ids)
        rows.append((event.request.output_ids[-1], event.delta, made[len(event.text) :]))

    params = SamplingParams(temperature=0, max_tokens=40, stop=STOP)
    request = engine.add_request(the_question(engine), params, stream=True)
    outputs = []
    with listen("request.text", note):
        while engine.has_requests:
            outputs += engine.step()
    columns = [Col("token"), Col("the stream shows"), Col("held back")]
    cells = [
        [shown(engine.tokenizer.token(token)), shown(delta), shown(rest) if rest else ""]
        for token, delta, rest in rows[-9:]
    ]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, cells)))
    answer = outputs[-1].outputs[0]
    end = """At the end the string is whole, nobody was shown any of it, and the text is cut before it."""
    lesson.say(
        f"""A tail that turned out to be something else came out with the token after it.
        {end if answer.stop_reason == STOP else "The string never came."} finish_reason is
        {marked(shown(answer.finish_reason))}, stop_reason {marked(shown(answer.stop_reason))}. token_ids has all
        {len(request.output_ids)} tokens, the text is {marked(shown(answer.text))}"""
    )


def structured(engine) -> None:
    """A JSON schema: what it leaves of the vocabulary at each token, and the answer parsed."""
    from minillm import StructuredOutputsParams
    from minillm.debug.views.controls import Choice, choices

    V, counts = engine.model_config.vocab_size, []
    lesson.say(
        f"""structured_outputs=StructuredOutputsParams(json=schema) makes a grammar of a JSON schema. Before each token
        it says which of the {V:,} tokens may come next; the scores of all others become -inf. The rest is as ever: here
        greedy takes the likeliest of what is left. The schema asks for a term (3 to 12 small letters), a part (one of
        three words) and a number of tokens (0 to 4096):"""
    )

    def note(event: Event) -> None:
        counts.append(sum((int(word) & 0xFFFFFFFF).bit_count() for word in event.mask))

    with listen("request.grammar", note):
        request = ask(
            engine,
            the_question(engine),
            temperature=0,
            max_tokens=120,
            structured_outputs=StructuredOutputsParams(json=SCHEMA),
        )
    token = engine.tokenizer.token
    lesson.show(choices([Choice(count, token(id)) for count, id in zip(counts, request.output_ids)], V))
    text = engine.tokenizer.decode(request.output_ids)
    parsed = json.loads(text)
    single = sum(count == 1 for count in counts)
    lesson.say(
        f"""At {single} of {len(counts)} tokens there was no choice at all. The last one says that the answer is
        complete, and may only come then. json.loads gives {marked(shown(parsed))}. The form is sure to be right. What
        it says is not: a mask can only choose among what the model thinks."""
    )


def everything() -> dict:
    """All that one request can ask for at once."""
    from minillm import StructuredOutputsParams

    return {
        "temperature": 1.2,
        "top_p": 0.95,
        "min_p": 0.02,
        "seed": SEED,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.2,
        "logit_bias": {38: -1.0},
        "bad_words": ["Return", "page table"],
        "min_tokens": STEPS,
        "stop": ["no such text"],
        "logprobs": 5,
        "structured_outputs": StructuredOutputsParams(regex="(.|\n)*"),
    }


def price(engine) -> None:
    """The time of a step of 16 requests: plain, with one that asks for everything, all drawing, all with everything."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    plain, draws = {"temperature": 0}, {"temperature": 1, "seed": 1}
    kinds = {
        "all greedy": [plain] * BATCH,
        "one with penalties, others greedy": [{**plain, "repetition_penalty": 1.2}] + [plain] * (BATCH - 1),
        "one with everything, others greedy": [everything()] + [plain] * (BATCH - 1),
        "all draw": [draws] * BATCH,
        "all with everything": [everything()] * BATCH,
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in lesson.each(range(REPEATS), "timing steps"):
        for name, settings in kinds.items():
            times[name] += step_times(engine, settings)
    typical = {name: quantiles(seconds, n=4)[0] for name, seconds in times.items()}
    least = typical["all greedy"]
    columns = [Col(f"{BATCH} requests", wraps=True), *(Col(c, "right") for c in ("microseconds a step", "more"))]
    rows = [[name, f"{1e6 * seconds:,.0f}", f"{seconds / least - 1:+.0%}"] for name, seconds in typical.items()]
    lesson.say(
        f"""What a request asks for is done for its own row. Steps of {BATCH} requests that each write one token, timed
        on this machine. (A quarter of the steps were faster: other programs disturb that measure least.)"""
    )
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        """A step looks at a control only if somebody in it asks, and then at that somebody's rows alone: those who are
        greedy are not made to wait for a softmax or a sort of theirs. What is left is the price of each small
        operation, which is much the same for one row and for a few. Small differences between rows of the table are
        noise."""
    )


def step_times(engine, settings: list[dict]) -> list[float]:
    """The seconds of each step in which all of these requests decode."""
    from minillm import SamplingParams

    prompt, seconds = the_code(engine), []
    for one in settings:
        engine.add_request(prompt, SamplingParams(**one, max_tokens=STEPS, ignore_eos=True))
    engine.step()
    for _ in range(STEPS - 2):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    while engine.has_requests:
        engine.step()
    return seconds


if __name__ == "__main__":
    lesson.run(main)
