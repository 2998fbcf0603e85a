"""The views show what the live objects hold, fit the console, and lose nothing without colour or Unicode."""

import io
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console, RenderableType
from tiny import Oracle
from workload import make_engine

from minillm.debug.views.batch_table import batch_table, pending, phase
from minillm.debug.views.candidates import probabilities, top_tokens
from minillm.debug.views.compare import Row, bar, before_after, sparkline
from minillm.debug.views.gather import gather_map
from minillm.debug.views.page_map import page_map
from minillm.debug.views.page_tables import free_list, page_tables
from minillm.debug.views.prefix_hit import prefix_hit
from minillm.debug.views.radix_tree import radix_tree, remember
from minillm.debug.views.slots_table import slots_table
from minillm.debug.views.spread import as_much, spread
from minillm.debug.views.step_times import step_times
from minillm.debug.views.tensors import shape, stats, tensor_summary
from minillm.debug.views.theme import legend, letter, make_console
from minillm.debug.views.tokens import pieces, shortened, token_stream, token_table
from minillm.debug.views.units import amount, counted, number, percent, ranges
from minillm.debug.views.waste import waste, waste_bars
from minillm.engine.engine import Engine
from minillm.kvcache.pages import PagePool, slot_of
from minillm.kvcache.radix import RadixCache
from minillm.probe import listen
from minillm.request import Place, Request, SamplingParams
from minillm.scheduler.plan import Joining, PlanRow, StepPlan
from minillm.text.tokenizer import Tokenizer

WIDTHS = (40, 80, 120)


@dataclass
class Scene:
    """An engine in the middle of its work, and what the probes of its last step saw."""

    engine: Engine
    requests: list[Request]
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> list[Request]:
        return self.engine.scheduler.running


@pytest.fixture(params=[4, 16, 128], scope="module")
def scene(request: pytest.FixtureRequest, oracle: Oracle) -> Scene:
    return make_scene(oracle, request.param)


@pytest.fixture(scope="module")
def tokenizer(oracle: Oracle) -> Tokenizer:
    return Tokenizer(oracle.folder)


def make_scene(oracle: Oracle, S: int) -> Scene:
    """Two requests decode, a third is in the middle of its prompt, a fourth has given its pages back."""
    engine = make_engine(oracle.folder, page_size=S, num_pages=512 // S, max_num_batched_tokens=24, max_model_len=128)
    ask = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    short = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    made = Scene(engine, [engine.add_request("abc", short), engine.add_request("What is it?", ask)])
    engine.step()
    engine.step()
    made.requests += [engine.add_request("Hello", ask), engine.add_request("x = 1\n" * 8, ask)]
    with listen("batch.build", lambda event: made.seen.update(event.values)):
        engine.step()
        engine.step()
    assert made.requests[0].finished and len(made.running) == 3
    return made


def show(view: RenderableType, width: int = 80, plain: bool = True, **options: Any) -> str:
    file = io.StringIO()
    make_console(plain, width, file=file, **options).print(view)
    return file.getvalue()


def views(scene: Scene) -> dict[str, RenderableType]:
    pool, running, seen = scene.engine.pool, scene.running, scene.seen
    tokenizer, logits = scene.engine.tokenizer, torch.randn(300)
    numbers = waste(running, pool)
    return {
        "page_map": page_map(pool, running, seen["batch"].slots),
        "page_tables": page_tables(running, pool.page_size),
        "free_list": free_list(pool),
        "waste": waste_bars({"a label that is rather long": numbers, "short": numbers}),
        "batch": batch_table(seen["plan"], scene.requests, 24),
        "slots": slots_table(seen["batch"], seen["rows"], tokenizer),
        "gather": gather_map(running[-1], pool, running),
        "stream": token_stream(running[0].prompt_ids, [40, 41, 42], tokenizer),
        "tokens": token_table(running[-1].prompt_ids, tokenizer),
        "top": top_tokens(logits[:258], tokenizer, chosen=5),
        "tensors": tensor_summary(
            [
                ("hidden", torch.randn(7, 48), "T hidden", "one row a token"),
                ("nan", torch.tensor([1, torch.nan]), "T", ""),
            ]
        ),
        "compare": before_after([("step", 0.04, 0.01, "s", "lower"), Row("speed", 20, 100, "tokens/s", "higher")]),
        "times": step_times({"without cache": [i / 1000 for i in range(1, 200)], "with cache": [0.002] * 199}),
        "legend": legend("filled", "new", "reserved", "free", "cached", requests=range(30)),
        "tree": radix_tree(scene.engine.scheduler.cache, running, tokenizer, before={}, order=True),
        "tree of ids": radix_tree(scene.engine.scheduler.cache),
        "hit": prefix_hit(running[0], pool.page_size, pool.page_size, tokenizer),
        "bar": bar(3, 7),
        "sparkline": sparkline([0, 1, 2]),
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_fits_and_is_plain_if_asked(scene: Scene, width: int) -> None:
    for name, view in views(scene).items():
        plain = show(view, width).replace("\ufffd", "")  # a random model's tokens are often no whole characters
        assert plain.isascii() and "\x1b" not in plain, name
        for text in (show(view, width), show(view, width, plain=False), show(view, width, False, force_terminal=True)):
            bare = re.sub(r"\x1b\[[\d;]*m", "", text)
            assert bare.strip(), name
            assert max(cell_len(line) for line in bare.splitlines()) <= width, f"{name}\n{bare}"


def test_colour_adds_nothing_but_colour(scene: Scene) -> None:
    """What stands on a screen stands in a pipe: a view's text is the same with its colours taken out."""
    for name, view in views(scene).items():
        colour = re.sub(r"\x1b\[[\d;]*m", "", show(view, 100, False, force_terminal=True, color_system="truecolor"))
        if name != "stream":
            assert colour == show(view, 100, plain=False), name


def test_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in show("[new]x[/new]", plain=False), "a pipe gets no control codes"
    assert "\x1b" in show("[new]x[/new]", plain=False, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2" not in show("[new]x[/new]", plain=False, force_terminal=True, color_system="truecolor")
    assert not make_console(plain=True, force_terminal=True).is_terminal
    assert isinstance(make_console(), Console)


def test_a_width_that_is_asked_for_holds_in_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in ("dumb", "xterm", "unknown"):
        monkeypatch.setenv("TERM", terminal)
        assert make_console(width=100, force_terminal=True).width == 100, terminal


def test_letters() -> None:
    assert [letter(i) for i in (0, 1, 25, 26, 27, 51, 52, 701, 702)] == [
        "A",
        "B",
        "Z",
        "AA",
        "AB",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]


def cells_of(text: str) -> dict[int, tuple[str, str]]:
    """A plain page map read back: page -> owner and marks."""
    found = re.findall(r"(?:^| )(\d+) ([A-Z+]+|-|~) *([#*.~]+)?(?=\s|$)", text, flags=re.MULTILINE)
    return {int(page): (owner, marks) for page, owner, marks in found}


@pytest.mark.parametrize("width", WIDTHS)
def test_page_map_shows_owner_and_fill_of_each_page(scene: Scene, width: int) -> None:
    pool, S = scene.engine.pool, scene.engine.pool.page_size
    slots = scene.seen["batch"].slots.tolist()
    text = show(page_map(pool, scene.running, slots), width)
    title = f"{pool.num_pages} pages of {S} tokens: {pool.num_used} in use, {pool.num_free} free"
    assert " ".join(text.split()).startswith(title)
    cells = cells_of(text)
    for request in scene.running:
        for index, page in enumerate(request.pages):
            owner, marks = cells[page]
            assert owner == letter(request.id)
            filled = min(request.num_computed - index * S, S)
            size = S // len(marks)
            expected = ""
            for first in range(0, S, size):
                new = any(page * S + offset in slots for offset in range(first, first + size))
                expected += "*" if new else "#" if first < filled else "."
            assert marks == expected
    held = {page for request in scene.running for page in request.pages}
    assert {page for page, (owner, _) in cells.items() if owner == "-"} <= set(range(pool.num_pages)) - held
    hidden = re.search(r"\.\.\. (\d+) more free", text)
    assert len(cells) + (int(hidden[1]) if hidden else 0) == pool.num_pages


def test_page_map_of_shared_cached_and_many_pages() -> None:
    pool = PagePool(300, 4)
    first, second = (Request(i, [1] * 8, SamplingParams(), 9, 0, place=Place(num_computed=6)) for i in range(2))
    first.place.pages = pool.allocate(2)
    second.place.pages = [first.pages[0], *pool.allocate(1)]
    pool.share(first.pages[:1])
    pool.allocate(1)  # what only a prefix tree would hold
    text = show(page_map(pool, [first, second]))
    assert cells_of(text) == {
        0: ("A+B", "####"), 1: ("A", "##.."), 2: ("B", "##.."), 3: ("~", "~~~~"),
        **dict.fromkeys(range(4, len(cells_of(text))), ("-", "")),
    }  # fmt: skip
    assert "kept by the prefix cache" in text and "A+B shared page" in text
    assert f"... {300 - len(cells_of(text))} more free" in text
    pool.allocate(200)
    assert "... 284 more, 188 of them in use" in show(page_map(pool, [first, second], max_pages=16))
    numbers = waste([first, second], pool)
    assert numbers == {"used": 8, "cached": 804, "reserved": 4, "free": 384, "total": 1200}


def grown(cache: RadixCache, *texts: list[int]) -> None:
    """Requests that computed these texts, one after the other, and are gone."""
    S = cache.page_size
    for text in texts:
        found = cache.match(text)
        cache.lock(found.node)
        pages = cache.pool.allocate(len(text) // S - len(found.pages))
        node, _ = cache.insert(found.node, text[len(found.pages) * S :], pages)
        cache.unlock(node)
        cache.pool.free(pages)


@pytest.mark.parametrize("width", WIDTHS)
def test_radix_tree_shows_runs_pages_and_whose_they_are(width: int) -> None:
    cache = RadixCache(PagePool(32, 2))
    grown(cache, [1, 2, 3, 4, 5, 6], [1, 2, 9, 9], [7, 7])
    request = Request(2, [1, 2, 9, 9, 4], SamplingParams(), 9, 0, place=Place(node=cache.match([1, 2, 9, 9]).node))
    cache.lock(request.place.node)
    text = show(radix_tree(cache, [request], order=True), width)
    assert " ".join(text.split()).startswith("4 nodes, 5 pages of 2 tokens: 2 locked, 3 can be evicted")
    found = re.findall(
        r"^([ |`-]+)'([\d .]+)' +(?:\d+ +)?([\d.]+(?:, \d+)*) +(\S+) *(\d?) *$", text, flags=re.MULTILINE
    )
    assert found == [
        ("|- ", "1 2", "0", "C", ""),
        ("|  |- ", "3 4 5 6", "1, 2", "~", "1"),
        ("|  `- ", "9 9", "3", "C", ""),
        ("`- ", "7 7", "4", "~", "2"),
    ], text
    assert "C locked: a request's path" in text and "~ kept by the tree alone" in text
    assert "1 lock" in show(radix_tree(cache), width)  # by a request that the view was not told of


def test_radix_tree_says_what_has_changed() -> None:
    cache = RadixCache(PagePool(32, 2))
    grown(cache, [7, 7, 8, 8], [1, 2, 3, 4, 5, 6])
    before = remember(cache)
    grown(cache, [1, 2, 9, 9])
    cache.evict(1)
    text = show(radix_tree(cache, before=before), 80)
    words = {line.split("'")[1]: line.split()[-1] for line in text.splitlines() if "'" in line}
    assert words == {"1 2": "split", "3 4 5 6": "split", "9 9": "new", "7 7": "shorter"}, text
    assert "... 3 more nodes" in show(radix_tree(cache, max_nodes=1))
    assert "the tree is empty" in show(radix_tree(RadixCache(PagePool(4, 2))))


def test_prefix_hit_adds_up(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("What is a page?")
    request = Request(0, ids, SamplingParams(), 9, 0, place=Place(pages=[4, 5, 6, 9]))
    text = show(prefix_hit(request, 8, 4, tokenizer), 80)
    assert re.search(r"8 taken +pages 4, 5 ", text) and re.search(rf"{len(ids) - 8} computed +pages 6, 9 ", text), text
    assert show(prefix_hit(request, 0, 4, tokenizer)).splitlines()[0].count("~") == 0


def test_short_words_for_many_numbers() -> None:
    assert ranges([]) == "" and ranges([3, 4]) == "3, 4" and ranges([3, 4, 5, 9, 8]) == "3..5, 9, 8"
    assert ranges([1, 3, 5, 7], 2) == "1, 3, ..."
    assert (counted(1, "page"), counted(0, "page")) == ("1 page", "0 pages")
    for most in (8, 20, 40):
        assert len(shortened("a text that is longer\nthan there is room", most)) <= most
    assert shortened("short", 10) == "'short'"


def test_page_map_is_of_the_moment_it_was_made(oracle: Oracle) -> None:
    scene = make_scene(oracle, 4)
    view = page_map(scene.engine.pool, scene.running)
    before = show(view)
    for _ in range(20):
        scene.engine.step()
    assert show(view) == before != show(page_map(scene.engine.pool, scene.running))


def test_page_tables_and_free_list(scene: Scene) -> None:
    pool, S = scene.engine.pool, scene.engine.pool.page_size
    text = show(page_tables(scene.running, S), 120)
    for request in scene.running:
        row = re.search(rf"^{letter(request.id)} +(\d+) +(.*?)  +(\d+) of {S} +(\d+)$", text, flags=re.MULTILINE)
        assert row, text
        chain = re.findall(r"page (\d+)", text.partition(f"\n{letter(request.id)} ")[2])[: len(request.pages)]
        assert list(map(int, chain)) == request.pages
        unused = len(request.pages) * S - request.num_computed
        assert (int(row[1]), int(row[3]), int(row[4])) == (request.num_computed, S - unused, unused)
    top = list(reversed(pool.free_pages))[:8]
    assert ", ".join(map(str, top)) in show(free_list(pool), 120)
    assert "20 more" in show(page_tables([Request(i, [1], SamplingParams(), 1, 0) for i in range(44)], 4))
    assert "empty" in show(free_list(PagePool(0, 4)))


def test_waste_adds_up(scene: Scene) -> None:
    pool = scene.engine.pool
    numbers = waste(scene.running, pool)
    assert numbers["used"] == sum(request.num_computed for request in scene.running)
    assert numbers["reserved"] == sum(len(r.pages) * pool.page_size - r.num_computed for r in scene.running)
    assert numbers["free"] == pool.num_free * pool.page_size
    assert numbers["cached"] == scene.engine.scheduler.cache.num_evictable * pool.page_size
    assert sum(numbers.values()) == 2 * numbers["total"]
    line = show(waste_bars({"now": numbers}), 100).splitlines()[0]
    assert len(line) == 5 + 60 and {"*", "x", ".", "~"} >= set(line[5:])


def test_batch_table_is_the_plan(scene: Scene) -> None:
    text = show(batch_table(scene.seen["plan"], scene.requests, 24), 100)
    plan = scene.seen["plan"]
    for row in plan.rows:
        request = scene.requests[row.request_id]
        kind = phase(row, len(request.prompt_ids))
        before, after = pending(row, request.num_tokens)
        last = row.start + row.count - 1
        span = str(last) if row.count == 1 else f"{row.start}..{last}"
        found = re.search(
            rf"^{letter(row.request_id)} +{kind} +{re.escape(span)} +{row.count} +(.*)$", text, re.MULTILINE
        )
        assert found and found[1].startswith(f"{before} -> {after} ")
        assert found[1].strip().endswith("yes" if row.samples else "not yet")
    assert f"{len(plan.rows)} requests, {plan.num_tokens} tokens of a budget of 24" in text
    assert {phase(row, len(scene.requests[row.request_id].prompt_ids)) for row in plan.rows} == {"decode", "chunk"}


def test_batch_table_says_who_was_preempted() -> None:
    text = show(batch_table(StepPlan(3, preempted=[1, 27]), []))
    assert "preempted: B, AB" in text


@pytest.mark.parametrize(
    ("start", "count", "samples", "joins", "expected"),
    [
        (0, 8, True, True, "prefill"),
        (4, 4, True, True, "prefill"),  # the first four came from the prefix cache
        (0, 4, False, True, "chunk"),
        (4, 4, True, False, "chunk"),
        (8, 1, True, False, "decode"),
        (0, 9, True, True, "recompute"),  # after preemption
        (0, 9, True, False, "recompute"),  # reuse_kv=False
        (0, 1, False, True, "chunk"),
    ],
)
def test_phases(start: int, count: int, samples: bool, joins: bool, expected: str) -> None:
    joining = Joining(SamplingParams(), 0) if joins else None
    row = PlanRow(0, 0, start, count, [], [], 1, samples, joining)
    assert phase(row, prompt_tokens=8) == expected


def test_slots_table_says_where_each_token_goes(scene: Scene) -> None:
    batch, rows = scene.seen["batch"], scene.seen["rows"]
    S = scene.engine.pool.page_size
    text = show(slots_table(batch, rows, scene.engine.tokenizer, max_rows=200), 120)
    lines = [line for line in text.splitlines() if " = " in line and line[0] != "t"]
    assert len(lines) == batch.num_tokens
    positions = iter(lines)
    for row in rows:
        request = scene.requests[row.request_id]
        for position in range(row.start, row.start + row.count):
            line = next(positions)
            slot = slot_of(request.pages, position, S)
            token = scene.engine.tokenizer.token(request.token_ids(position, 1)[0])
            assert line.startswith(letter(request.id)) and repr(token) in line
            numbers = (
                rf" {position} +{position // S} +{slot // S} +{slot % S} +{slot // S} \* {S} \+ {slot % S} = +{slot}$"
            )
            assert re.search(numbers, line), line
    assert "more" in show(slots_table(batch, rows, max_rows=4)) and "more" in show(slots_table(batch, rows, max_rows=1))


def test_gather_map_reads_pages_in_order() -> None:
    pool = PagePool(40, 4)
    others, mine = pool.allocate(5), Request(1, [1] * 10, SamplingParams(), 9, 0, place=Place(num_computed=10))
    pool.free([others[3], others[1]])
    mine.place.pages = pool.allocate(3)
    held = Place(pages=[others[i] for i in (0, 2, 4)], num_computed=12)
    other = Request(0, [1] * 12, SamplingParams(), 9, 0, place=held)
    text = show(gather_map(mine, pool, [other]))
    assert mine.pages == [1, 3, 5]
    assert re.findall(r"page (\d+)", text) == ["1", "3", "5"] and "slots 20..21" in text
    assert "0 1 2 3" in text and "8 9 - -" in text
    numbers, owners = text.splitlines()[-2:]
    assert dict(zip(numbers.split(), owners.split())) == {
        "0": "A", "1": "B[0]", "2": "A", "3": "B[1]", "4": "A", "5": "B[2]", "6": "-",
    }  # fmt: skip
    assert "nothing in the cache yet" in show(gather_map(Request(0, [1], SamplingParams(), 1, 0), pool))


def test_gather_map_shortens_long_tables() -> None:
    pool = PagePool(100, 16)
    request = Request(0, [1] * 1000, SamplingParams(), 9, 0, place=Place(num_computed=1000, pages=pool.allocate(63)))
    text = show(gather_map(request, pool, max_blocks=5))
    assert re.findall(r"tokens (\d+\.\.\d+)", text) == ["0..15", "16..31", "32..47", "992..999"]


def test_token_stream_cuts_at_token_borders(tokenizer: Tokenizer) -> None:
    prompt, output = tokenizer.encode("Hi: a\n"), tokenizer.encode("yes")
    text = show(token_stream([0, *prompt], output, tokenizer))
    assert text.startswith("<s>|H|i|:| |a|\\n\n >> y|e|[s]\n")
    assert show(token_stream(prompt, [], tokenizer, note=False)) == "H|i|:| |a|\\n\n\n"
    assert "\\t" in show(token_stream(tokenizer.encode("\t\x1b"), [], tokenizer))
    colour = show(token_stream(prompt, output, tokenizer), plain=False, force_terminal=True, color_system="truecolor")
    assert re.sub(r"\x1b\[[\d;]*m", "", colour).startswith("Hi: a\\n\nyes\n")


def test_bytes_of_one_character_are_one_piece(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é🙂!")
    assert [(piece.text, piece.tokens) for piece in pieces(ids, tokenizer)] == [("é", 2), ("🙂", 4), ("!", 1)]
    assert sum(piece.tokens for piece in pieces(ids[:-2], tokenizer)) == len(ids) - 2, "half a character at the end"


def test_token_table(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a b\nc")
    text = show(token_table(ids, tokenizer, max_rows=4))
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[:1] + rows[2:4] == [["0", "'a'", str(ids[0])], ["2", "'b'", str(ids[2])], ["3", "'\\n'", str(ids[3])]]
    assert rows[4] == ["...", "1", "more"]


def test_top_tokens(tokenizer: Tokenizer) -> None:
    logits = torch.tensor([0.0, 3.0, float("-inf"), 2.0, 1.0] + [-1.0] * 95)
    probs = logits.softmax(-1)
    text = show(top_tokens(logits, tokenizer, k=3, chosen=0), 100)
    for rank, id in enumerate((1, 3, 4), 1):
        assert re.search(rf"^ *{rank} +\S+ +{id} +{100 * probs[id]:.2f}%", text, re.MULTILINE), text
    assert re.search(rf"^ *4 +\S+ +0 +{100 * probs[0]:.2f}% .*<- chosen", text, re.MULTILINE)
    assert f"95 other tokens together {100 * probs[5:].sum():.2f}%" in text
    assert text.count("chosen") == 1
    filtered = probs.where(probs > 0.08, torch.zeros(()))  # as top-k leaves them: not adding up to one
    assert torch.allclose(probabilities(filtered), filtered / filtered.sum())
    assert torch.allclose(probabilities(logits), probs)
    assert "3 " not in show(top_tokens(torch.tensor([0.5, 0.5, 0.0]), tokenizer)).splitlines()[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool])
def test_stats_of_any_dtype(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1, 1], [0, 0, 1]]).to(dtype)
    found = stats(values)
    assert (found.low, found.mean, found.high, found.strange) == (0, 0.5, 1, 0)
    assert found.histogram == (3, 0, 0, 0, 0, 0, 0, 3)


def test_stats_of_strange_tensors() -> None:
    assert stats(torch.empty(0, 4)).low is None
    assert stats(torch.empty(3, device="meta")).mean is None
    assert stats(torch.full((2,), torch.nan)).strange == 2
    some = stats(torch.tensor([1.0, torch.inf, torch.nan, 3.0]))
    assert (some.low, some.mean, some.high, some.strange) == (1, 2, 3, 2)
    assert stats(torch.ones(3)).histogram == ()
    assert "2 NaN/inf" in show(tensor_summary([("x", torch.tensor([1.0, torch.inf, torch.nan]), "T", "")]))


def test_shapes_with_letters() -> None:
    x = torch.zeros(7, 2, 4)
    assert shape(x, "T", "2", "D") == "[T=7, 2=2, D=4]"
    assert shape(x, "T") == "[T=7, 2, 4]" and shape(torch.tensor(1.0)) == "[]"
    with pytest.raises(ValueError, match="2 names"):
        shape(torch.zeros(3), "T", "D")


def test_before_after_ratios() -> None:
    rows = [
        ("time", 0.0412, 0.0103, "s", "lower"), ("speed", 10.0, 120.0, "tokens/s", "higher"),
        ("worse", 1, 1.2, "", "lower"), ("memory", 50 * 2**20, 2**20, "B", "lower"),
        ("same", 7, 7), ("from nothing", 0, 3), ("unknown", None, 3),
    ]  # fmt: skip
    text = show(before_after(rows, "contiguous", "paged"))
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "contiguous" in text and "paged" in text
    assert lines["time"].split()[1:] == ["41.2", "ms", "10.3", "ms", "4.0x", "less"]
    assert lines["speed"].endswith("12.0x more") and lines["worse"].endswith("1.20x more")
    assert lines["memory"].split()[1:] == ["50", "MiB", "1", "MiB", "50.0x", "less"]
    assert lines["same"].endswith("the same") and lines["from nothing"].endswith("-") and lines["unknown"].endswith("-")


def test_of_several_rounds_a_ratio_within_their_spread_is_noise() -> None:
    rows = [
        ("noise", [1.0, 1.3, 1.1], [1.2, 1.25, 1.35], "s", "lower"),
        ("clear", [1.0, 1.3, 1.1], [2.0, 2.2, 2.1], "s", "lower"),
        ("apart", [10.0, 9.0, 11.0], [40.0, 38.0, 400.0], "s", "lower"),
        ("exact", [40, 40, 40], [42, 42, 42]),
        ("nearly", [1.0, 1.001], [1.04, 1.04]),
    ]
    lines = {line.split()[0]: line.rstrip() for line in show(before_after(rows)).splitlines() if line.strip("- ")}
    assert lines["noise"].endswith("1.1 s (1 to 1.3)  1.25 s (1.2 to 1.35)  within noise")
    assert lines["clear"].endswith("1.91x more") and lines["apart"].endswith("4.0x more"), (
        "one slow round hides nothing"
    )
    assert lines["exact"].endswith("1.05x more") and lines["nearly"].endswith("within noise")


def test_a_spread_is_in_the_unit_of_its_median() -> None:
    assert (
        spread([0.051, 0.054, 0.06], "s") == "54 ms (51 to 60)"
        and spread([0.9, 1.2, 0.95], "s") == "950 ms (900 to 1,200)"
    )
    assert spread(3, "s") == "3 s" and spread([7, 7]) == "7" and spread(None) == "-" and spread([], "s") == "-"
    assert spread([1024, 2048, 2048], "B") == "2 KiB (1 KiB to 2 KiB)" and spread([10, 20], "%") == "15% (10 to 20)"


def test_a_sentence_says_noise_where_there_is_noise() -> None:
    assert as_much([4.0, 4.2], [2.0, 2.1]) == "2.0 times as much as" and as_much(1.0, 4.0) == "25% as much as"
    assert as_much([4.0, 4.2], [4.1, 4.3]) == "as much as (within noise)" == as_much([1.0, 1.001], [1.04, 1.04])
    assert as_much(3.0, 2.0, "long") == "1.50 times as long as" and as_much(0, 2.0) == "not to be compared with"


def test_before_after_sets_brackets_below_where_names_would_have_no_room() -> None:
    rows = [("the device has nothing to do, between two steps", [0.011, 0.012, 0.014], [0.021, 0.022, 0.024], "s")]
    wide, narrow = show(before_after(rows), width=120), show(before_after(rows), width=80)
    assert "12 ms (11 to 14)" in wide and "nothing to do, between two steps" in wide
    assert "(11 to 14)  (21 to 24)" in narrow and "the device has nothing to do," in narrow


def test_bars_and_sparklines() -> None:
    assert show(bar(3, 6, 8)) == "####....\n" and show(bar(9, 6, 4)) == "####\n" and show(bar(0, 0, 4)) == "....\n"
    assert show(bar(0.0039, 1, 24))[:2] == ":." and show(bar(0.0208, 1, 24))[:2] == "-.", "a fifth is not as much"
    assert show(bar(1, 16, 8), plain=False).startswith("▌·")
    assert show(sparkline([0, 1, 4, 8]), plain=False) == "▁▂▅█\n"


def test_step_times_grow_or_stay() -> None:
    text = show(step_times({"grows": [0.001 * i for i in range(1, 301)], "flat": [0.02] * 300}))
    plot = text.splitlines()
    assert plot[0].lstrip().startswith("298") and "ms |" in plot[0] and plot[0].rstrip().endswith("o")
    assert "x" in plot[9] and not any("x" in line for line in plot[:9])
    assert "o grows, last 300 ms" in text and "x flat, last 20 ms" in text and "300" in plot[11]
    assert "nothing was measured" in show(step_times({"none": []}))


def test_units() -> None:
    assert [number(x) for x in (999.4, 999.6, -999.6)] == ["999", "1,000", "-1,000"]
    assert [number(x) for x in (3, 1234, 2.0, 0.00123, 1234.5, 3.14159)] == [
        "3",
        "1,234",
        "2",
        "0.00123",
        "1,234",
        "3.14",
    ]
    assert [amount(x, "B") for x in (0, 1023, 1024, 3 * 2**30)] == ["0 B", "1,023 B", "1 KiB", "3 GiB"]
    assert amount(0.5, "s") == "500 ms" and amount(2.5, "s") == "2.5 s" and amount(3) == "3"
    assert [percent(a, b) for a, b in ((1, 1000), (1, 3), (0, 5), (5, 5), (1, 0))] == ["<1%", "33%", "0%", "100%", "0%"]
