"""Lesson 08: attention kernels.

Turned on: ``attention_backend="triton"``. Until now decode gathered a request's pages into one piece, and a softmax
looked at all scores at once. A kernel does neither: it walks the page table, looks at a block of tokens, keeps a
running maximum and a running sum, and lets the block go. Long contexts are cut into splits, which are put together at
the end. All of this is seen here in numbers, first in plain torch, then in the GPU's own kernel, which Triton's
interpreter runs on a CPU, line by line. On a machine with a GPU the kernel is compiled, and timed; nobody can step
through it there unless the GPU is hidden from the program (``CUDA_VISIBLE_DEVICES=""``).
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from rich.markup import escape

from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen, unheard

lesson = Lesson(
    number=8,
    title="Attention kernels",
    turns_on='attention_backend="triton"',
    buys="each key is read once, where it lies, and scores are never kept",
    breaks="kernel.scores,kernel.softmax,kernel.merge",
)
GROWS = 4  # how often the maximum grows in the head that is shown
BLOCK = 16  # tokens that the first table looks at together
SPLITS = 4  # into how many parts the kernel's context is cut, on the stage of part 4
LENGTHS = 128, 512, 2048  # tokens of the contexts that are timed
REPEATS = 20
ON_CPU = 'CUDA_VISIBLE_DEVICES=""'  # before a command: the same on a machine with a GPU


@dataclass
class Query:
    """One token's query in one layer, with all that attention needs for it.

    q [1, H, D]; batch: a `ForwardBatch` of this one request.
    """

    q: Any
    batch: Any
    layer: int

    @property
    def shape(self) -> Any:
        """The model's attention: what backends are made for."""
        return self.batch.backend.shape

    @property
    def scale(self) -> float:
        return self.shape.scale

    @property
    def length(self) -> int:
        return self.batch.context_lens[0]

    @property
    def cache(self) -> Any:
        """``[P * S, 2 * Hkv * D]``."""
        return self.batch.kv_cache[self.layer].slots

    @property
    def heads(self) -> Any:
        """The query heads by the key/value head that they share: ``[Hkv, G, D]``."""
        return self.q.view(self.shape.num_kv_heads, -1, self.q.shape[-1]).float()


def main() -> None:
    lesson.part("One query, and all that it looks at")
    engine, query, seen = one_decode_step()

    lesson.part("Softmax, a block at a time")
    block_by_block(query)

    lesson.part("The walk through the page table, and the splits")
    walk(engine, query, seen)
    put_together(query, seen)

    lesson.part("The GPU's kernel, line by line")
    ran = the_kernel(query)

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
    from minillm import SamplingParams
    from minillm.learn.example import question, running_example

    engine = lesson.llm(attention_backend="blockwise", page_size=8, num_pages=64, prefix_cache="none").engine
    prompts = running_example(engine.tokenizer)
    if lesson.options.prompt:
        prompts["a question"] = question(engine.tokenizer, lesson.options.prompt)
    talk = prompts.pop("a long talk")
    for i, prompt_ids in enumerate(prompts.values()):
        engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=24 + 16 * i, ignore_eos=True))
    while engine.has_requests:
        engine.step()
    engine.add_request(talk, SamplingParams(temperature=0, max_tokens=32, ignore_eos=True))
    engine.step()
    seen, caught = Seen(), []
    with listen("attention.*", seen.note), listen("attention.attend", lambda event: caught.append(keep(event))):
        engine.step()
    query = min(caught, key=lambda one: int((growing(one) - GROWS).abs().min()))
    seen.layer = query.layer
    config = engine.model_config
    lesson.say(
        f"""Three requests of the running example have been served, and their pages went back to the pool in any order.
        Now comes the long talk, and takes them. One decode step, and in it one layer (layer {query.layer}): the newest
        token has a query for each of {config.num_attention_heads} heads, of {config.head_dim} numbers. The cache has a
        key and a value for each of {query.length} tokens and {config.num_key_value_heads} key/value heads."""
    )
    lesson.say(
        f"""Attention needs, for each query head: {query.length} scores (query times key, times {query.scale:.4g}),
        their softmax, and the sum of {query.length} values with these weights. It looks as if softmax needed all scores
        before it can give the first weight, because it divides by their sum."""
    )
    return engine, query, seen


class Seen:
    """What attention told in one step, layer by layer: its reads, its blocks, its splits put together."""

    def __init__(self) -> None:
        self.layer, self.layers = 0, {}

    def note(self, event: Event) -> None:
        if event.name == "attention.attend":
            self._now = self.layers.setdefault(event.layer, [])
        else:
            self._now.append(event)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.layers[self.layer] if event.name == f"attention.{kind}"]


def keep(event: Event) -> Query:
    """The one request's query of an `attention.attend`, and its batch without what the next step writes over."""
    batch = replace(event.batch, page_table=event.batch.page_table.clone())
    return Query(event.q.clone(), batch, event.layer)


def blocks_of(query: Query, size: int = BLOCK) -> list[tuple]:
    """Its context in blocks: (first position, last, scores ``[Hkv, G, n]``, values ``[Hkv, n, D]``)."""
    from minillm.kernels.torch.attention import read_block

    pages, page_size = query.batch.page_table[0], query.batch.kv_cache.page_size
    spans = [(first, min(first + size, query.length)) for first in range(0, query.length, size)]
    return [(*span, *read_block(query.heads, query.cache, pages, *span, page_size, query.scale)) for span in spans]


def running(query: Query) -> list[Event]:
    """An event for each block, of `online_softmax` over the whole context."""
    from minillm.kernels.torch.attention import online_softmax

    events: list[Event] = []
    with listen("attention.block", events.append):
        online_softmax((scores, values) for _, _, scores, values in blocks_of(query))
    return events


def growing(query: Query) -> Any:
    """How often the maximum of each query head grows, from each 16 tokens to the next: ``[Hkv, G]``."""
    import torch

    with unheard():  # looking for a head to show is nobody's step
        largest = torch.stack([scores.amax(dim=-1) for _, _, scores, _ in blocks_of(query, 16)])  # [blocks, Hkv, G]
    return (largest.cummax(dim=0).values.diff(dim=0) > 0).sum(dim=0)


def head_of(query: Query) -> tuple[int, int]:
    """A head whose maximum grows a few times: its key/value head, and its place among those that share it."""
    return divmod(int((growing(query) - GROWS).abs().argmin()), query.heads.shape[1])


def block_by_block(query: Query) -> None:
    """The table of running numbers for one head, and the same all at once."""
    import torch

    from minillm.debug.views.running_softmax import Block, running_softmax

    lesson.say(
        f"""It does not. Look at {BLOCK} tokens, and keep three things: the largest score so far, the sum of
        exp(score - largest), and the values added up with these weights. Then let the block go. If a later block has a
        larger score, all that was summed is too large by one factor, exp(old - new). Multiply by that, and go on:"""
    )
    hkv, g = head_of(query)
    blocks = blocks_of(query)
    rows = [
        Block(
            first, last, *(float(x[hkv, g]) for x in (event.scores.amax(dim=-1), event.new_top, event.fix, event.total))
        )
        for (first, last, _, _), event in zip(blocks, running(query))
    ]
    if rows:
        lesson.show(running_softmax(rows))
    scores = torch.cat([scores[hkv, g] for _, _, scores, _ in blocks])
    values = torch.cat([values[hkv] for _, _, _, values in blocks])
    lesson.say(
        f"""That is query head {hkv * query.heads.shape[1] + g}. Marked rows are those where the maximum grew, and
        'correction' is the factor. All {len(scores)} scores at once have the maximum {float(scores.max()):.2f} and the
        sum {float((scores - scores.max()).exp().sum()):.3f}: what the last row says."""
    )
    if rows:
        event = running(query)[-1]
        got, whole = event.acc[hkv, g] / event.total[hkv, g], scores.softmax(dim=0) @ values
        lesson.say(
            f"""The values, added up block by block and divided by the sum, against torch's softmax over everything: the
            largest difference among {len(got)} numbers is [good]{difference(got, whole)}[/]. It is the same sum in
            another order. The maximum is there for safety: exp of a large score does not fit into a
            number, exp(score - largest) is 1 at most."""
        )


def walk(engine, query: Query, seen: Seen) -> None:
    """Which pages the engine's own step read, block by block."""
    from minillm.debug.views.page_walk import Read, page_walk

    S = engine.pool.page_size
    lesson.say(
        f"""Nothing was gathered for that. attention_backend="blockwise" reads each block where it lies: position // {S}
        is the entry in the page table, that says the page, and page * {S} + position % {S} is the slot (lesson 03).
        What the engine's step read:"""
    )
    reads = [Read(event.positions.tolist(), event.slots.tolist()) for event in seen.of("read")]
    if reads:
        lesson.show(page_walk(reads, S))
    else:
        lesson.say("(Your functions have no probes here, so there is nothing to show.)")
    lesson.say(
        """The reference backend copies all these slots into one contiguous tensor first: it reads every key and value,
        writes it, and reads it again. Three times the memory traffic, for the same numbers."""
    )


def put_together(query: Query, seen: Seen) -> None:
    """The splits of the context in the engine's own step, and how they become one answer."""
    from minillm.attention.blockwise import BLOCK as THEIRS
    from minillm.attention.blockwise import BLOCKS_A_SPLIT
    from minillm.debug.views.running_softmax import Split, combined

    each = THEIRS * BLOCKS_A_SPLIT
    Hkv = query.heads.shape[0]
    lesson.say(
        f"""One thing is left that a GPU does not like: blocks come one after the other. An H200 has 132 processors, and
        this step gives it only {Hkv} things to do, one a key/value head. So a context is cut into splits. Each
        has its own maximum and sum, and knows nothing of the others. Here a split is {BLOCKS_A_SPLIT} blocks of
        {THEIRS} tokens:"""
    )
    hkv, g = head_of(query)
    for event in seen.of("combine")[:1]:
        rows = [
            Split(
                i * each,
                min((i + 1) * each, query.length),
                *(float(x[i, hkv, g]) for x in (event.tops, event.totals, event.weights)),
            )
            for i in range(len(event.tops))
        ]
        lesson.show(combined(rows))
    lesson.say(
        """Sums that belong to different maxima cannot be added. So each split's are multiplied by exp(its maximum - the
        largest one), the weight in the table. It is the correction from above, once more, for all splits at a time.
        Then sums are added, values are added, and one is divided by the other."""
    )


def the_kernel(query: Query) -> Any:
    """The query through the Triton kernel: on a GPU compiled, on a CPU in the interpreter, and line by line."""
    import torch

    lesson.say(
        """What you saw until here is plain torch, minillm/kernels/torch/attention.py. The GPU's kernel is _paged_decode
        in minillm/kernels/triton/attention.py. It is written for [bold]one program[/]: one request, one key/value head,
        one split. The GPU runs many of them at a time."""
    )
    if torch.cuda.is_available():
        lesson.say(
            f"""This machine has a GPU, so Triton compiles the kernel for it, and no debugger can stop inside. To step
            through it, hide the GPU: {ON_CPU} python3 scripts/start.py lesson 08 --break kernel.scores"""
        )
        return compiled(query)
    from minillm.kernels.triton.load import interpreter

    with interpreter() as why_not:
        if why_not:
            lesson.say(
                f"It cannot be shown here: {why_not}. No stop at kernel.* comes without it. All else is plain torch."
            )
            return None
        out = step_by_step(query)
        an_engine_on_it()
    return out


def compiled(query: Query) -> Any:
    """``[1, H * D]``, from the GPU's kernel, planned as the engine does."""
    from minillm.attention.triton import TritonAttention

    return answer(TritonAttention(query.shape), query)


def step_by_step(query: Query) -> Any:
    """``[1, H * D]``, from the interpreted kernel, with the lines of its first program, and all splits' parts."""
    import torch

    from minillm.attention.triton import TritonAttention
    from minillm.debug.kernel_lines import traced
    from minillm.debug.views.kernel_listing import kernel_listing
    from minillm.kernels.triton import attention as triton_attention

    tile = triton_attention.decode_tile(query.q.itemsize, query.q.shape[-1], few=True)
    blocks = -(-query.length // tile.tokens)
    each = -(-blocks // SPLITS)
    lengths, backend, merged = torch.tensor([query.length], dtype=torch.int32), TritonAttention(query.shape), []
    query.batch.plan = backend.plan_decode(lengths, torch.tensor([each], dtype=torch.int32), SPLITS, tile)
    lesson.say(
        f"""Triton has an interpreter, which runs a kernel as Python, on a CPU (TRITON_INTERPRET=1). So one can stop in
        it, and go from line to line. The first of its {query.heads.shape[0]} x {SPLITS} programs, for key/value head 0
        and split 0, as it runs. Its blocks have {tile.tokens} tokens, and {query.heads.shape[1]} query heads share the
        key/value head, in a matrix of {tile.rows} rows:"""
    )
    looking = nullcontext([]) if lesson.options.break_at else traced(triton_attention._paged_decode)
    with looking as lines, listen("kernel.merge", merged.append):  # who stops in there sees the lines anyway
        out = backend.attend(query.layer, query.q, query.batch)
    if lines:
        lesson.show(kernel_listing(lines))
    lesson.say(
        f"""f32[16, 32] is a matrix of float32 numbers, 16 rows and 32 columns. A kernel has no loop over tokens or
        heads: every line works on a whole block. Scores are in powers of two here (scale holds the factor 1.4427, exp2
        is faster than exp), so the numbers differ from the table above by that. The last program of a head to finish
        calls _merge, which puts {SPLITS} splits together as we did. It came by {len(merged)} times, once for each
        key/value head."""
    )
    return out


def an_engine_on_it() -> None:
    """A whole engine whose attention is the interpreted kernel, for a few tokens."""
    from minillm import SamplingParams
    from minillm.learn.example import QUESTION, question

    lesson.say("And a whole engine on it:")
    engine = lesson.llm(attention_backend="triton", num_pages=8).engine
    other = lesson.quiet_llm(num_pages=8, attention_backend="reference").engine
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    tokens = []
    for one in (engine, other):
        request = one.add_request(question(one.tokenizer, lesson.options.prompt or QUESTION)[:96], params)
        while one.has_requests:
            one.step()
        tokens.append(request.output_ids)
    lesson.say(
        f"""Every layer's attention was the kernel. The answer's first {len(tokens[0])} tokens are
        {marked(engine.tokenizer.decode(tokens[0]))}; with the reference backend the same tokens, both times:
        [good]{tokens[0] == tokens[1]}[/]."""
    )


def marked(text: str) -> str:
    """In quotes, and safe from rich's markup."""
    return escape(repr(text))


def difference(one: Any, other: Any) -> str:
    """The largest, as the next power of ten above it: its digits depend on the machine."""
    from math import ceil, log10

    largest = float((one.float() - other.float()).abs().max())
    return f"below {10.0 ** max(ceil(log10(largest)), -5):g}" if largest else "none"


def backends(query: Query) -> dict[str, tuple[Any, str]]:
    """Every backend that this machine has but Triton's, and how it reads."""
    from minillm.attention.blockwise import BlockwiseAttention
    from minillm.attention.gather import GatherAttention
    from minillm.kernels.cpu import kernels as cpu

    found: dict[str, tuple[Any, str]] = {
        "reference": (GatherAttention(query.shape), "gathers, then torch"),
        "blockwise": (BlockwiseAttention(query.shape), "in place, plain torch"),
    }
    kernels = cpu.load(query.q.dtype) if query.q.device.type == "cpu" else None
    if kernels:
        from minillm.attention.cpu import CpuAttention

        found["cpu"] = CpuAttention(query.shape, kernels), "in place, compiled C++"
    return found


def answer(backend: Any, query: Query) -> Any:
    """``[1, H * D]``."""
    query.batch.plan = backend.prepare(query.batch)
    return backend.attend(query.layer, query.q, query.batch)


def the_same_numbers(query: Query, ran: Any) -> None:
    """One query through every backend: the largest difference from the reference, and the bytes read."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table
    from minillm.debug.views.units import amount

    found = backends(query)
    answers = {name: (answer(backend, query), how) for name, (backend, how) in found.items()}
    if ran is not None:
        on = "compiled by Triton" if ran.device.type == "cuda" else "in place, interpreted"
        answers["triton"] = ran, on
    right = answers["reference"][0]
    kv = query.length * query.cache.shape[1] * query.cache.element_size()
    columns = [
        Col("backend"),
        Col("how", wraps=True, spare=1),
        Col("largest difference", "right"),
        Col("keys and values moved", "right"),
    ]
    rows = [
        [
            name,
            how,
            difference(out, right),
            amount(float(3 * kv if name == "reference" else kv), "B"),
        ]
        for name, (out, how) in answers.items()
    ]
    lesson.say(
        f"""The query of layer {query.layer}, through every backend that runs here. The answer is {right.shape[1]}
        numbers; the difference is from the reference:"""
    )
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    H, Hkv = query.q.shape[1], query.heads.shape[0]
    lesson.say(
        f"""Differences of this size come from the order of the sums, and from rounding. {amount(float(kv), "B")} is
        {query.length} tokens times {query.cache.shape[1]} numbers times {query.cache.element_size()} bytes: every key
        and value once. That takes a kernel which lets the {H // Hkv} query heads of a group share what was read. A
        program for each query head would read {amount(float(H // Hkv * kv), "B")}. Decode computes little with each
        number that it reads, so on a GPU the bytes are the time."""
    )


def price(engine) -> None:
    """Decode attention of one query, timed over contexts of several lengths, with each backend but the interpreter."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table
    from minillm.debug.views.units import amount

    queries = [made_up(engine, length) for length in LENGTHS]
    names = list(backends(queries[0]))
    on_gpu = queries[0].q.device.type == "cuda"
    times: dict[str, list[float]] = {name: [] for name in [*names, *(["triton"] if on_gpu else [])]}
    for query in lesson.each(queries, "timing attention"):
        found = {name: backend for name, (backend, _) in backends(query).items()}
        if on_gpu:
            from minillm.attention.triton import TritonAttention

            found["triton"] = TritonAttention(query.shape)
        for name, backend in found.items():
            times[name].append(timed(backend, query))
    columns = [
        Col("backend"),
        *(Col(f"{length:,} tokens", "right") for length in LENGTHS),
        Col("GB/s, longest", "right", spare=1),
    ]
    longest = queries[-1]
    size = longest.length * longest.cache.shape[1] * longest.cache.element_size()
    rows = [
        [name, *(amount(seconds, "s") for seconds in took), f"{size / took[-1] / 1e9:.2f}"]
        for name, took in times.items()
    ]
    lesson.say(
        """One query of one layer again, over contexts of several lengths, timed on this machine (medians). GB/s are the
        bytes of all keys and values, by the time:"""
    )
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    if on_gpu:
        lesson.say(
            """These are times of a GPU, waited for each time. A single query is far too little for it: the launch is
            most of the time. The engine has many requests in a step, and python -m minillm bench measures those."""
        )
    else:
        lesson.say(
            """On a CPU the compiled backend is the fast one, and blockwise is slow: each of its small steps is a call
            into torch. The interpreter is missing from this table, because its time means nothing. It runs a program
            after the other, each line through Python and numpy; on a GPU they run side by side, compiled. What it does
            tell is what the kernel computes, and where it reads. For time, one needs the GPU: there this lesson
            compiles the kernel, and times it."""
        )


def made_up(engine, length: int) -> Query:
    """A query of one request with ``length`` tokens, in a cache of its own; its numbers are random."""
    import torch

    from minillm.attention.batch import ForwardBatch
    from minillm.attention.blockwise import BlockwiseAttention
    from minillm.kvcache.storage import KVCache

    own = engine.runner.backend.shape
    shape = replace(own, windows=(None,), kv=replace(own.kv, num_layers=1))
    cache = KVCache(shape.kv, -(-length // 16), 16, shape.device)
    torch.manual_seed(length)
    cache.tensor.normal_()
    q = torch.randn(1, shape.num_heads, shape.head_dim, dtype=shape.dtype, device=shape.device)
    table = torch.randperm(cache.num_pages, device=q.device)[None]
    some = torch.zeros(1, dtype=torch.int64, device=q.device)
    batch = ForwardBatch(some, some, some, table, [length], [1], 1, None, cache, BlockwiseAttention(shape))
    return Query(q, batch, 0)


def timed(backend: Any, query: Query) -> float:
    """Seconds of one attention, the median of several; planning, which all layers share, is left out."""
    import torch

    query.batch.plan = backend.prepare(query.batch)
    seconds = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        backend.attend(query.layer, query.q, query.batch)
        if query.q.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])


if __name__ == "__main__":
    lesson.run(main)
