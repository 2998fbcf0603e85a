"""Lesson 08: attention kernels.

Turned on: ``attention_backend="triton"``. Until now decode gathered a request's pages into one piece, and a softmax
looked at all scores at once. A kernel does neither: it walks the page table, looks at a block of tokens, keeps a
running maximum and a running sum, and lets the block go. Long contexts are cut into splits, which are put together at
the end. All of this is seen here in numbers, first in plain torch, then in the GPU's own kernel, which Triton's
interpreter runs on a CPU, line by line. On a machine with a GPU the kernel is compiled, and timed; nobody can step
through it there unless the GPU is hidden from the program (``CUDA_VISIBLE_DEVICES=""``).
"""

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=8,
    title="Attention kernels",
    turns_on='attention_backend="triton"',
    buys="each key is read once, where it lies, and scores are never kept",
    breaks="kernel.scores,kernel.softmax,kernel.merge",
)

import torch

from minillm.attention.blockwise import BLOCK as THEIRS
from minillm.attention.blockwise import BLOCKS_A_SPLIT
from minillm.debug.views.page_walk import Read, page_walk
from minillm.debug.views.running_softmax import combined, running_softmax
from minillm.debug.views.units import amount
from minillm.learn.asking import ask, finish
from minillm.learn.example import running_example
from minillm.learn.lessons.lesson_08.backends import compared, difference, timed
from minillm.learn.lessons.lesson_08.blocks import Seen, blocks_of, distance, head_of, rows_of, running, splits_of
from minillm.learn.lessons.lesson_08.kernel_steps import the_kernel
from minillm.learn.lessons.lesson_08.query import Query, kept, made_up
from minillm.probe import listen

BLOCK = 16  # tokens that the first table looks at together
LENGTHS = 128, 512, 2048  # tokens of the contexts that are timed


def main() -> None:
    lesson.part("One query, and all that it looks at")
    engine, query, seen = one_decode_step()

    lesson.part("Softmax, a block at a time")
    block_by_block(query)

    lesson.part("The walk through the page table, and the splits")
    walk(engine, query, seen)
    put_together(query, seen)

    lesson.part("The GPU's kernel, line by line")
    ran = the_kernel(lesson, query)

    lesson.part("The same numbers from every backend")
    the_same_numbers(query, ran)

    lesson.part("What time means here")
    price(engine)

    lesson.end(
        """Stop inside the kernel, at each block of scores: [bold]--break kernel.scores[/]. [bold]n[/] goes on line by
        line; look at [bold]scores.handle.data[/] and [bold]top[/].""",
        """Only where the maximum grows: [bold]--break kernel.softmax --break-when '(fix.handle.data[0] <
        1).any()'[/].""",
        """The same in plain torch, without Triton: [bold]--break attention.block --break-when '(fix < 1).any()'[/].""",
        f"""Change BLOCK = {BLOCK} to {64 if BLOCK == 16 else 16} in this file. Say first what will be different in the
        first table, and what will not in its last row.""",
    )


def one_decode_step() -> tuple:
    """Serve the running example's three short requests, then the long one, C; one decode step of it, looked at."""
    engine = lesson.llm(attention_backend="blockwise", page_size=8, num_pages=64, prefix_cache="none").engine
    prompts = running_example(engine.tokenizer, lesson.options.prompt)
    talk = prompts.pop("a long talk")
    for i, prompt_ids in enumerate(prompts.values()):
        ask(engine, prompt_ids, 24 + 16 * i)
    finish(engine)
    ask(engine, talk, 32)
    engine.step()
    seen, caught = Seen(), []
    with listen("attention.*", seen.note), listen("attention.attend", lambda event: caught.append(kept(event))):
        engine.step()
    query = min(caught, key=distance)  # of a head that shows something
    seen.layer = query.layer
    config = engine.model_config
    lesson.say(f"""Three requests of the running example have been served, and their pages went back to the pool in any
        order. Now comes the long talk, and takes them. One decode step, and in it one layer (layer {query.layer}): the
        newest token has a query for each of {config.num_attention_heads} heads, of {config.head_dim} numbers. The cache
        has a key and a value for each of {query.length} tokens and {config.num_key_value_heads} key/value heads.""")
    lesson.say(f"""Attention needs, for each query head: {query.length} scores (query times key, times
        {query.scale:.4g}), their softmax, and the sum of {query.length} values with these weights. It looks as if
        softmax needed all scores before it can give the first weight, because it divides by their sum.""")
    return engine, query, seen


def block_by_block(query: Query) -> None:
    """The table of running numbers for one head, and the same all at once."""
    lesson.say(f"""It does not. Look at {BLOCK} tokens, and keep three things: the largest score so far, the sum of
        exp(score - largest), and the values added up with these weights. Then let the block go. If a later block has a
        larger score, all that was summed is too large by one factor, exp(old - new). Multiply by that, and go on:""")
    hkv, g = head_of(query)
    blocks = blocks_of(query, BLOCK)
    events = running(blocks)
    if events:
        lesson.show(running_softmax(rows_of(blocks, events, (hkv, g))))
    scores = torch.cat([scores[hkv, g] for _, _, scores, _ in blocks])
    values = torch.cat([values[hkv] for _, _, _, values in blocks])
    lesson.say(f"""That is query head {hkv * query.heads.shape[1] + g}. Marked rows are those where the maximum grew,
        and 'correction' is the factor. All {len(scores)} scores at once have the maximum {float(scores.max()):.2f} and
        the sum {float((scores - scores.max()).exp().sum()):.3f}: what the last row says.""")
    if events:
        event = events[-1]
        got, whole = event.acc[hkv, g] / event.total[hkv, g], scores.softmax(dim=0) @ values
        lesson.say(f"""The values, added up block by block and divided by the sum, against torch's softmax over
            everything: the largest difference among {len(got)} numbers is [good]{difference(got, whole)}[/]. It is the
            same sum in another order. The maximum is there for safety: exp of a large score does not fit into a number,
            exp(score - largest) is 1 at most.""")


def walk(engine, query: Query, seen: Seen) -> None:
    """Which pages the engine's own step read, block by block."""
    S = engine.pool.page_size
    lesson.say(f"""Nothing was gathered for that. attention_backend="blockwise" reads each block where it lies: position
        // {S} is the entry in the page table, that says the page, and page * {S} + position % {S} is the slot (lesson
        03). What the engine's step read:""")
    reads = [Read(event.positions.tolist(), event.slots.tolist()) for event in seen.of("read")]
    if reads:
        lesson.show(page_walk(reads, S))
    else:
        lesson.say("(Your functions have no probes here, so there is nothing to show.)")
    lesson.say("""The reference backend copies all these slots into one contiguous tensor first: it reads every key and
        value, writes it, and reads it again. Three times the memory traffic, for the same numbers.""")


def put_together(query: Query, seen: Seen) -> None:
    """The splits of the context in the engine's own step, and how they become one answer."""
    each = THEIRS * BLOCKS_A_SPLIT
    Hkv = query.heads.shape[0]
    lesson.say(f"""One thing is left that a GPU does not like: blocks come one after the other. An H200 has 132
        processors, and this step gives it only {Hkv} things to do, one a key/value head. So a context is cut into
        splits. Each has its own maximum and sum, and knows nothing of the others. Here a split is {BLOCKS_A_SPLIT}
        blocks of {THEIRS} tokens:""")
    for event in seen.of("combine")[:1]:
        lesson.show(combined(splits_of(event, each, query.length, head_of(query))))
    lesson.say("""Sums that belong to different maxima cannot be added. So each split's are multiplied by exp(its
        maximum - the largest one), the weight in the table. It is the correction from above, once more, for all splits
        at a time. Then sums are added, values are added, and one is divided by the other.""")


def the_same_numbers(query: Query, ran) -> None:
    """One query through every backend: the largest difference from the reference, and the bytes read."""
    lesson.say(f"""The query of layer {query.layer}, through every backend that runs here. The answer is
        {query.q.numel()} numbers; the difference is from the reference:""")
    lesson.show(compared(query, ran))
    H, Hkv, kv = query.q.shape[1], query.heads.shape[0], query.kv_bytes
    lesson.say(f"""Differences of this size come from the order of the sums, and from rounding. {amount(float(kv), "B")}
        is {query.length} tokens times {query.cache.shape[1]} numbers times {query.cache.element_size()} bytes: every
        key and value once. That takes a kernel which lets the {H // Hkv} query heads of a group share what was read. A
        program for each query head would read {amount(float(H // Hkv * kv), "B")}. Decode computes little with each
        number that it reads, so on a GPU the bytes are the time.""")


def price(engine) -> None:
    """Decode attention of one query, timed over contexts of several lengths, with each backend but the interpreter."""
    queries = [made_up(engine, length) for length in LENGTHS]
    lesson.say("""One query of one layer again, over contexts of several lengths, timed on this machine: three rounds,
        the backends in turn in each. In brackets are the rounds; where brackets of a column overlap, the difference is
        within noise. GB/s are the bytes of all keys and values, by the time:""")
    lesson.show(timed(lesson.each(queries, "timing attention")))
    if engine.device.type == "cuda":
        lesson.say("""These are times of a GPU, waited for each time. A single query is far too little for it: the
            launch is most of the time. The engine has many requests in a step, and python -m minillm bench measures
            those.""")
    else:
        lesson.say("""Blockwise makes many small steps, and each is a call into torch; a compiled backend, if there is a
            row of one, makes them all in C++. The interpreter is missing from this table, because its time means
            nothing. It runs a program after the other, each line through Python and numpy; on a GPU they run side by
            side, compiled. What it does tell is what the kernel computes, and where it reads. For time, one needs the
            GPU: there this lesson compiles the kernel, and times it.""")


if __name__ == "__main__":
    lesson.run(main)
