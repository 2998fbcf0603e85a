"""Lesson 02: the KV cache.

Turned on: ``reuse_kv=True``. A token's key and value never change once computed, so they are kept, and a step computes
only what is new. The cache is the simple one of older engines: one page a request, as long as a request can ever
become. It makes steps cheap, and it wastes most of its memory.
"""

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=2,
    title="The KV cache",
    turns_on="reuse_kv=True, page_size='max_model_len'",
    buys="steps whose cost hardly grows with the text",
    breaks="kv.store,kv.gather",
)

from minillm import SamplingParams
from minillm.debug.views.batch_table import batch_table
from minillm.debug.views.compare import before_after
from minillm.debug.views.page_map import page_map
from minillm.debug.views.step_times import step_times
from minillm.debug.views.tensors import tensor_summary
from minillm.debug.views.theme import letter
from minillm.debug.views.tokens import token_stream
from minillm.debug.views.waste import waste, waste_bars
from minillm.learn.asking import answered, ask, finish
from minillm.learn.example import CODE, QUESTION, question, running_example
from minillm.learn.timing import in_rounds, steps_in_turns
from minillm.probe import Event, listen

CONTIGUOUS = {"page_size": "max_model_len", "num_pages": 8, "attention_backend": "reference"}
LATE = 16  # steps at an answer's end


def main() -> None:
    llm = lesson.llm(**CONTIGUOUS)
    engine = llm.engine
    prompt_ids = question(engine.tokenizer, lesson.options.prompt or QUESTION)

    lesson.part("Prefill, then decode")
    prefill_and_decode(engine, prompt_ids)

    lesson.part("Where keys and values go")
    where_they_go(engine, prompt_ids)

    lesson.part("What a step costs now")
    cost_with_and_without(engine)

    lesson.part("What it takes: the memory formula")
    memory_formula(engine)

    lesson.part("What is reserved, and never used")
    reserved(engine)

    lesson.end(
        "Watch keys and values go in, in the first layer only: [bold]--break kv.store --break-when 'layer == 0'[/].",
        "Before you run it with max_tokens=320 instead of 160: how much longer will the whole answer take, each way?",
        "Any model's numbers, from its config alone: [bold]python -m minillm memory nano-llama[/].",
        "Lesson 03 cuts the cache into pages.",
    )


def prefill_and_decode(engine, prompt_ids: list[int]) -> None:
    """Three steps of one request, as the scheduler plans them."""
    lesson.say("""The engine has no two phases, it has pending tokens: known, but without keys and values. At first that
        is the whole prompt, which one step computes together: prefill. After that there is exactly one, the token
        chosen last: decode.""")
    request = engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=48))
    budget = engine.config.max_num_batched_tokens
    with listen("scheduler.plan", lambda event: lesson.show(batch_table(event.plan, [request], budget))):
        for _ in range(2):
            engine.step()
    finish(engine)
    lesson.show(token_stream(request.prompt_ids, request.output_ids, engine.tokenizer))


def where_they_go(engine, prompt_ids: list[int]) -> None:
    """The tensors of one decode step around the cache, and the cache itself."""
    lesson.say("""In a decode step each layer makes one query, one key and one value. The key and the value go into the
        cache; the query meets all the keys that are there, and takes a share of each value:""")
    request = engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=8))
    engine.step()
    seen = []

    def keep(event: Event) -> None:
        if event.layer == 0 and event.name == "kv.store":
            seen.append(("q", event.q.clone(), "T H D", "the new token's query"))
            seen.append(("k", event.k.clone(), "T Hkv D", "its key, to be stored"))
            seen.append(("slots", event.slots.clone(), "T", "where in the cache"))
        elif event.layer == 0:
            cache = event.batch.kv_cache[0].tensor
            keys = cache[request.pages[0], : request.num_tokens, 0]
            seen.append(("keys", keys.clone(), "C Hkv D", "all that the query meets"))

    with listen(["kv.store", "kv.gather"], keep):
        engine.step()
    lesson.show(tensor_summary(seen))
    lesson.say(f"""The whole cache, one box a request. This one, the second of this lesson, is {letter(request.id)}: it
        holds what it needs, and reserves what it might:""")
    lesson.show(page_map(engine.pool, engine.scheduler.running))
    engine.abort(request.id)


def cost_with_and_without(engine) -> None:
    """The same completion with the cache and without: time of every step, tokens computed, and the same text."""
    engines = lesson.quiet_llm(reuse_kv=False, attention_backend="reference").engine, engine
    for one in engines:
        answered(one, CODE, 2)  # warm up
    requests = [ask(one, CODE, 160) for one in engines]
    with lesson.bar("timing steps, without and with the cache", total=2 * requests[0].max_tokens) as bar:
        times, computed = steps_in_turns(engines, after_each=bar.move)
    lesson.say("""The engine of lesson 01 and this one write the same answer. They take turns, a step each, so that what
        else this machine does disturbs both:""")
    lesson.show(step_times(dict(zip(("reuse_kv=False", "with KV cache"), times))))
    late = [in_rounds(seconds[-LATE:]) for seconds in times]
    whole = [sum(seconds) for seconds in times]
    rows = [
        ("time of a late step", *late, "s", "lower"),
        ("time of the whole answer", *whole, "s", "lower"),
        ("tokens computed", *computed, "", "lower"),
        ("tokens/s", *(len(seconds) / sum(seconds) for seconds in times), "", "higher"),
    ]
    lesson.show(before_after(rows, before="lesson 01", after="KV cache"))
    lesson.say(f"""Late are the last {LATE} steps; in brackets, the fastest and the slowest four of them that followed
        each other. The same tokens, both times: [good]{requests[0].output_ids == requests[1].output_ids}[/].""")


def memory_formula(engine) -> None:
    """What the formula says a token takes, and what the cache's tensor measures."""
    config, cache = engine.model_config, engine.runner.kv_cache
    L, Hkv, D, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim, cache.spec.dtype.itemsize
    formula = cache.spec.bytes_per_token
    slots = engine.pool.num_pages * engine.pool.page_size
    lesson.say(f"""A token leaves a key and a value in every layer, for every key/value head: [bold]2 * L * Hkv * D *
        bytes[/] = 2 * {L} * {Hkv} * {D} * {size} = [bold]{formula:,} bytes a token[/]. Measured: the cache's tensor is
        {list(cache.tensor.shape)}, {cache.num_bytes:,} bytes for {slots:,} tokens, which is
        [bold]{cache.num_bytes // slots:,} bytes a token[/].""")
    weights = engine.memory.weights
    lesson.say(f"""A request of full length, {engine.setup.max_model_len:,} tokens, takes
        {formula * engine.setup.max_model_len / 2**20:.0f} MiB; the whole model takes {weights / 2**20:.0f} MiB. So it
        is the cache that decides how many can be served at once.""")


def reserved(engine) -> None:
    """Four requests in the contiguous cache: what they use of what they hold."""
    for prompt_ids in running_example(engine.tokenizer).values():
        ask(engine, prompt_ids, 24)
    for _ in range(24 - 1):
        engine.step()
    numbers = waste(engine.scheduler.running, engine.pool)
    lesson.say("""Nobody knows how long an answer will be, so a contiguous cache reserves for the longest. Four
        requests, just before they end:""")
    lesson.show(waste_bars({"one page a request": numbers}))
    share = numbers["used"] / (numbers["used"] + numbers["reserved"])
    lesson.say(f"""Of what they hold they use [warn]{share:.1%}[/]. And more than {engine.pool.num_pages} requests can
        never run here at once, however short they are: there are no more pages.""")
    finish(engine)


if __name__ == "__main__":
    lesson.run(main)
