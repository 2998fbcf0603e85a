"""The catalogue says what the code does: every probe, every value, and every expression, tried in a running engine."""

import ast
import fnmatch
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minillm.debug.catalogue import PACKAGE, TOPICS, ProbeInfo, Site, catalogue, locations, sites
from minillm.debug.condition import Condition
from minillm.kernels.triton.comment_probes import with_probes
from minillm.probe import Event, listen

if TYPE_CHECKING:
    from tiny import Oracle

    from minillm import SamplingParams

SITES = list(sites())
each_probe = pytest.mark.parametrize("info", catalogue().values(), ids=lambda info: info.name)
each_site = pytest.mark.parametrize("site", SITES, ids=lambda site: f"{site.name} {site.file}:{site.line}")


def test_every_probe_is_in_the_catalogue_and_none_that_is_gone() -> None:
    assert {site.name for site in SITES} == set(catalogue())


def test_every_call_is_found() -> None:
    """A probe that stands where `sites` does not look (in an expression, in a match) would go undocumented."""
    calls = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(with_probes(path.read_text(encoding="utf-8")))):
            calls += isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "probe"
    assert calls == len(SITES)


@each_site
def test_the_values_are_documented(site: Site) -> None:
    assert sorted(site.values) == sorted(catalogue()[site.name].values)


@each_site
def test_a_statement_is_sure_to_come_next(site: Site) -> None:
    """A breakpoint stops on the statement after its probe, so there must be one: no end of a function or a loop."""
    assert site.stops_at > site.line


@each_site
def test_the_probe_costs_nothing_when_nobody_listens(site: Site) -> None:
    line = (PACKAGE.parent / site.file).read_text(encoding="utf-8").splitlines()[site.line - 1]
    comment = catalogue()[site.name].interpreted  # in a kernel, of which a compiler sees nothing
    assert line.strip().startswith("# probe(" if comment else "probe.on and probe(")


@each_probe
def test_an_entry_is_whole(info: ProbeInfo) -> None:
    assert info.topic in TOPICS
    assert info.what.endswith(".") and info.values and info.watch and info.must
    assert info.lesson is None or 1 <= info.lesson <= 24
    for table in (info.values, info.watch, info.must, info.conditions):
        assert all(isinstance(key, str) and isinstance(text, str) and text for key, text in table.items()), table
    for expression in (*info.watch, *info.must, *info.conditions):
        ast.parse(expression, mode="eval")


def test_locations_are_those_of_the_sites_in_the_order_of_the_catalogue() -> None:
    assert list(locations()) == list(catalogue())
    assert sorted((*place, name) for name, places in locations().items() for place in places) == sorted(
        (site.file, site.line, site.stops_at, site.name) for site in SITES
    )
    file, line, stops_at = locations()["kv.allocate"][0]
    source = Path(file if Path(file).exists() else PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()
    assert '"kv.allocate"' in source[line - 1] and source[stops_at - 1].strip()


def test_sites_of_any_code(tmp_path: Path) -> None:
    """What comes after a probe, where that is not just the next line."""
    (tmp_path / "code.py").write_text(
        "def f(x):\n"
        "    if x:\n"
        "        probe.on and probe('last.of.if', x=x)\n"
        "    elif x is None:\n"
        "        probe.on and probe('last.of.elif', x=x)\n"
        "    with x:\n"
        "        probe.on and probe('last.of.with', x=x)\n"
        "    for y in x:\n"
        "        probe.on and probe(\n"
        "            'in.loop', x=x, y=y)\n"
        "        x += y\n"
        "        probe.on and probe('last.of.loop')\n"
        "    try:\n"
        "        probe.on and probe('last.of.try')\n"
        "    except ValueError:\n"
        "        probe.on and probe('in.except')\n"
        "        raise\n"
        "    match x:\n"
        "        case 1:\n"
        "            probe.on and probe('in.match')\n"
        "            return\n"
        "    probe.on and probe('last')\n"
    )
    found = {site.name: (site.line, site.stops_at) for site in sites(tmp_path)}
    assert found == {
        "last.of.if": (3, 6),
        "last.of.elif": (5, 6),
        "last.of.with": (7, 8),
        "in.loop": (9, 11),
        "last.of.loop": (12, 0),
        "last.of.try": (14, 0),
        "in.except": (16, 17),
        "in.match": (20, 21),
        "last": (22, 0),
    }
    assert next(site for site in sites(tmp_path) if site.name == "in.loop").values == ("x", "y")


class Watcher:
    """Tries, at every probe that comes by, all that the catalogue says about it, and sees which line runs next."""

    def __init__(self) -> None:
        self.untrue: list[str] = []
        self.failing: list[str] = []
        self.next_lines: dict[tuple[str, str, int], set[int]] = defaultdict(set)
        self.conditions = {
            name: [Condition(text, (name,)) for text in info.conditions] for name, info in catalogue().items()
        }

    def __call__(self, event: Event) -> None:
        info = catalogue()[event.name]
        for expression in (*info.watch, *info.must):
            try:
                # Just as a debugger evaluates it.
                value = eval(expression, event.frame.f_globals, event.frame.f_locals)
            except Exception as error:
                self.failing.append(f"{event.name}: {expression}: {type(error).__name__}: {error}")
                continue
            if expression in info.must and not value:
                self.untrue.append(f"{event.name}: {expression}")
        for condition in self.conditions[event.name]:
            condition.holds(event)  # reports on stderr if it fails
        self._see_next_line(event)

    def _see_next_line(self, event: Event) -> None:
        frame, before = event.frame, sys.gettrace()
        file = Path(frame.f_code.co_filename).resolve().relative_to(PACKAGE.parent).as_posix()
        key = (event.name, file, frame.f_lineno)

        def tracer(_frame: Any, kind: str, _argument: Any) -> Any:
            if kind == "line":
                self.next_lines[key].add(frame.f_lineno)
                frame.f_trace = None
                sys.settrace(before)
            return tracer

        frame.f_trace = tracer
        sys.settrace(lambda *_: None)


def all_that_sampling_can_do() -> "SamplingParams":
    from minillm import SamplingParams, StructuredOutputsParams

    return SamplingParams(
        temperature=1, seed=1, max_tokens=6, min_tokens=2, repetition_penalty=1.2, logit_bias={5: 1.0},
        bad_words=["ab"], logprobs=2, prompt_logprobs=1, structured_outputs=StructuredOutputsParams(regex="[a-c]+d"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def watcher(oracle: "Oracle", tmp_path_factory: pytest.TempPathFactory) -> Watcher:
    """An engine's birth and some requests' lives, with all that can happen: chunks, waiting, preemption, abort; then
    an engine that replays, and one whose model is a mixture of experts."""
    from tiny_moe import make_moe

    from minillm import EngineConfig, SamplingParams
    from minillm.debug.profiler import recording
    from minillm.engine.engine import Engine

    seen = Watcher()
    with listen("*", seen):
        sizes = {"page_size": 4, "num_pages": 8, "max_model_len": 32, "max_num_batched_tokens": 8}
        sizes["prefix_cache"] = "radix"
        config = EngineConfig.from_settings(model=str(oracle.folder), debug_checks=True, **sizes)
        engine = Engine(config)
        for length, params in (
            (11, SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)),
            (6, SamplingParams(temperature=1, top_k=5, max_tokens=8, ignore_eos=True)),
            (5, SamplingParams(temperature=1, max_tokens=3, ignore_eos=True)),
            (4, all_that_sampling_can_do()),
            (3, SamplingParams(temperature=0, max_tokens=9, stop=[chr(33 + i) for i in range(90)], ignore_eos=True)),
        ):
            engine.add_request(list(range(2, 2 + length)), params, stream=length == 6)
        for _ in range(200):
            engine.step()
            if not engine.has_requests:
                break
        engine.abort(engine.add_request([5, 6, 7], SamplingParams()).id)
        for start in (40, 70):  # nothing in common: two that cannot both grow to their end, over what the tree has kept
            engine.add_request(list(range(start, start + 8)), SamplingParams(temperature=0, max_tokens=16))
        while engine.has_requests:
            engine.step()
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=2))
        engine.step()
        engine.abort(engine.add_request([5, 6, 7], SamplingParams()).id)
        engine = Engine(
            EngineConfig.from_settings(model=str(oracle.folder), enforce_eager=False, max_num_seqs=2, **sizes)
        )
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
        while engine.has_requests:
            engine.step()
        folder = tmp_path_factory.mktemp("moe")
        make_moe(folder, num_hidden_layers=1)
        engine = Engine(EngineConfig.from_settings(model=str(folder), async_scheduling=True, **sizes))
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
        leaves = engine.add_request([5, 6], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        for _ in range(3):
            engine.step()
        engine.abort(leaves.id)  # while a step is under way that has a row of it
        while engine.has_requests:
            engine.step()
        blockwise = {"attention_backend": "blockwise", "prefix_cache": "none", "max_num_batched_tokens": 96}
        engine = Engine(EngineConfig.from_settings(model=str(oracle.folder), page_size=4, **blockwise))
        engine.add_request(list(range(2, 82)), SamplingParams(temperature=0, max_tokens=2, ignore_eos=True))
        while engine.has_requests:
            engine.step()
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
        with recording(engine, folder / "trace.json") as made:
            while engine.has_requests:
                engine.step()
        made.profile().phases()
    return seen


def test_every_probe_is_reached(watcher: Watcher) -> None:
    """Those in kernels are tried where these are interpreted: tests/kernels/interpreted_triton.py."""
    reached = {name for name, _, _ in watcher.next_lines}
    assert reached == {name for name, info in catalogue().items() if not info.interpreted}


def test_every_expression_can_be_evaluated_where_it_should_be(watcher: Watcher) -> None:
    assert not sorted(set(watcher.failing))
    broken = [c.expression for conditions in watcher.conditions.values() for c in conditions if c.reported]
    assert not broken


def test_what_must_be_true_is(watcher: Watcher) -> None:
    assert not sorted(set(watcher.untrue))


def test_the_next_line_that_runs_is_the_one_that_is_documented(watcher: Watcher) -> None:
    for (name, file, line), next_lines in watcher.next_lines.items():
        place = max(place for place in locations()[name] if place.file == file and place.line <= line)
        assert next_lines == {place.stops_at}, name


def test_what_the_forward_pass_holds_is_marked(watcher: Watcher) -> None:
    """Probes inside the model are silent while a CUDA graph replays it, and say so."""
    inside = ("model.embed", "model.norm", "layer.*", "attention.attend", "kv.store", "kv.gather", "moe.*")
    marked = {name for name, info in catalogue().items() if info.captured}
    assert marked == {name for name in catalogue() if any(fnmatch.fnmatchcase(name, pattern) for pattern in inside)}
