"""Lesson 01: the first token.

Nothing is turned on but the engine itself. We follow one question from its text to the first token of the answer, with
every shape on the way, then let it write on with ``reuse_kv=False``: each step forgets all it computed and starts over.
The answer is right. The cost of a step grows with every token, and that is what the next lesson mends.
"""

from collections import Counter
from functools import partial
from statistics import median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=1,
    title="The first token",
    turns_on="nothing (reuse_kv=False)",
    buys="a right answer, at the highest price",
    breaks="model.embed,sampler.logits",
)

import torch
from rich.markup import escape

from minillm import SamplingParams
from minillm.debug.views.candidates import top_tokens
from minillm.debug.views.compare import before_after
from minillm.debug.views.step_times import step_times
from minillm.debug.views.tensors import tensor_summary
from minillm.debug.views.tokens import quoted, token_stream, token_table
from minillm.learn.asking import finish
from minillm.learn.example import CODE, QUESTION, question
from minillm.learn.timing import ROUNDS, in_turns, time_steps
from minillm.probe import Event, listen
from minillm.sampling.sampler import keep_top

OPEN = "The engine"  # a text that may go on in many ways
TEMPERATURE, TOP_K = 2.0, 4
FEW = 8  # steps that are timed again, at the beginning and at the end of an answer


def main() -> None:
    llm = lesson.llm(reuse_kv=False, attention_backend="reference")
    engine, tokenizer = llm.engine, llm.engine.tokenizer
    prompt_ids = question(tokenizer, lesson.options.prompt or QUESTION)

    lesson.part("Text becomes tokens")
    lesson.say(f"""A model reads numbers. The tokenizer cuts the text into pieces that it knows, one of
        {engine.model_config.vocab_size:,} each, and the model gets the piece's number. The marks in angle brackets are
        the chat template: they say who speaks.""")
    lesson.show(token_table(prompt_ids, tokenizer))

    lesson.part("One step: from tokens to logits")
    lesson.say("""A step runs all tokens through the model at once. T is the number of tokens in the step. Each becomes
        a vector of `hidden` numbers, and every layer adds something to it. Only the last token's vector is needed at
        the end: it says what comes next. The other letters: H query heads, Hkv heads of keys and values, D numbers in
        each head, R requests, V tokens in the vocabulary. [title]Spread[/] is a small histogram, from the smallest
        number to the largest:""")
    request = engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=48))
    logits = one_step_seen(engine)

    lesson.part("Logits become a token")
    lesson.say("Softmax turns scores into probabilities. Greedy decoding (temperature=0) takes the likeliest:")
    if logits is not None:
        lesson.show(top_tokens(logits, tokenizer, k=6, chosen=request.output_ids[-1]))

    lesson.part("Token by token")
    lesson.say("""The chosen token is appended and the model asked again, until it says that it is done. Prompt first,
        then what the model wrote:""")
    while engine.has_requests:
        engine.step()
    lesson.show(token_stream(request.prompt_ids, request.output_ids, tokenizer))

    lesson.part("Or a token is drawn")
    draw(engine)

    lesson.part("What a step costs")
    cost_of_forgetting(engine)

    lesson.end(
        """Stop where the logits are made: [bold]--break sampler.logits[/], then look at [bold]logits.shape[/] and
        [bold]logits.argmax()[/].""",
        "Ask something else: [bold]--prompt 'What is a token?'[/]. Then something that the model was not taught.",
        "Lesson 02 keeps what was computed.",
    )


def one_step_seen(engine):
    """Run one step, and show each tensor that a probe has shown us; the logits [V] of its last token, if one has."""
    seen = []  # (name, tensor, names of its dimensions, meaning)

    def keep(event: Event) -> None:
        first, last = (
            event.values.get("layer") == 0,
            event.values.get("layer") == engine.model_config.num_hidden_layers - 1,
        )
        if event.name == "model.embed":
            seen.append(("input_ids", event.input_ids.clone(), "T", "which token"))
            seen.append(("positions", event.positions.clone(), "T", "where it stands"))
        elif event.name == "layer.attention" and first:  # what a probe shows is live, and layers work in place: so copy
            seen.append(("stream", event.stream.clone(), "T hidden", "embedding: one row a token"))
        elif event.name == "kv.store" and first:
            seen.append(("q", event.q.clone(), "T H D", "layer 0: what each token looks for"))
            seen.append(("k", event.k.clone(), "T Hkv D", "layer 0: what each token offers"))
            seen.append(("v", event.v.clone(), "T Hkv D", "layer 0: what it gives when found"))
        elif event.name == "layer.mlp" and (first or last):
            seen.append(("stream", event.stream.clone(), "T hidden", f"layer {event.layer}: attention has added"))
        elif event.name == "model.logits":
            seen.append(("hidden", event.hidden.clone(), "R hidden", "the last token's row, normalised"))
        elif event.name == "sampler.logits":
            seen.append(("logits", event.logits.clone(), "R V", "a score for every token there is"))

    with listen(["model.*", "layer.*", "kv.store", "sampler.logits"], keep):
        engine.step()
    lesson.show(tensor_summary(seen))
    return next((tensor[0] for name, tensor, *_ in seen if name == "logits"), None)


def draw(engine) -> None:
    """Let the engine draw the next token of one text for each of 64 seeds: who may be drawn, and how often who was."""
    lesson.say(f"""Greedy text is the same each time. Sampling draws the next token at random instead, and {OPEN!r} is a
        text that may go on in many ways. Temperature divides the scores first: above 1 it levels the probabilities,
        below 1 it sharpens them. top_k keeps so many tokens, top_p as many as add up to that share. 64 requests with
        this text, each with a seed of its own, ask for temperature={TEMPERATURE} and top_k={TOP_K}.""")
    settings = [SamplingParams(TEMPERATURE, top_k=TOP_K, max_tokens=1, seed=seed) for seed in range(64)]
    requests = [engine.add_request(OPEN, params) for params in settings]
    rows = []
    with listen("sampler.logits", lambda event: rows.extend(event.logits.clone())):
        finish(engine)
    if rows:
        show_candidates(rows[0], engine.tokenizer)
    drawn = Counter(engine.tokenizer.token(request.output_ids[0]) for request in requests)
    counts = ", ".join(f"{escape(quoted(token))} {count} times" for token, count in drawn.most_common())
    lesson.say(f"The engine, asked so with {len(requests)} different seeds, drew {counts}.")


def show_candidates(logits, tokenizer) -> None:
    """The likeliest tokens of one row of logits [V], as they are and after temperature and top-k."""
    lesson.say("The model's own probabilities:")
    lesson.show(top_tokens(logits, tokenizer, k=6))
    lesson.say(f"The same logits with temperature={TEMPERATURE} and top_k={TOP_K}:")
    flat = torch.softmax(logits / TEMPERATURE, dim=-1)[None]  # [1, V]
    kept = keep_top(flat, top_k=torch.tensor([TOP_K]), top_p=torch.tensor([1.0]))[0]
    lesson.show(top_tokens(kept / kept.sum(), tokenizer, k=6))


def cost_of_forgetting(engine) -> None:
    """Time every step of a longer completion; then its first steps against its last, in turns."""
    lesson.say("""Nothing is kept (reuse_kv=False), so each step computes the whole text again, from the first token on.
        Here every step of a longer completion, timed on this machine:""")
    request = engine.add_request(CODE, SamplingParams(temperature=0, max_tokens=160, ignore_eos=True))
    with lesson.bar("timing steps", total=request.max_tokens) as bar:
        times, computed = time_steps(engine, after_each=bar.move)
    lesson.show(step_times({"reuse_kv=False": times}))
    ids, made = [*request.prompt_ids, *request.output_ids], len(request.output_ids)
    lengths = len(ids) - made, len(ids) - FEW  # of the text before each of the two
    first, last = (f"steps {length - lengths[0] + 1} to {length - lengths[0] + FEW}" for length in lengths)
    lesson.say(f"""The first steps and the last once more ({first}, {last}), {len(ROUNDS)} times in turn. In brackets:
        the fastest and the slowest of these rounds.""")
    ways = {length: partial(a_few_steps, engine, ids[:length]) for length in lengths}
    seconds = in_turns(ways, lesson.each(ROUNDS, "timing steps again")).values()
    tokens = (length + (FEW - 1) / 2 for length in lengths)
    rows = [("time of a step", *seconds, "s", "lower"), ("tokens computed in it, mean", *tokens, "", "lower")]
    lesson.show(before_after(rows, before="first steps", after="last steps"))
    lesson.say(f"""To write {made} tokens after a prompt of {lengths[0]}, the model computed {computed:,} tokens:
        {computed / len(ids):.0f} times as many as there are. For a text of n tokens that grows with n squared.""")


def a_few_steps(engine, ids: list[int]) -> float:
    """The median time of the steps that write the next few tokens of a text."""
    engine.add_request(ids, SamplingParams(temperature=0, max_tokens=FEW, ignore_eos=True))
    return median(time_steps(engine)[0])


if __name__ == "__main__":
    lesson.run(main)
