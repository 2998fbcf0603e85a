"""The expert tracker counts what Hugging Face's router says, for whom it says it, and only while it is asked to."""

import io
import json
import math
import re
import time
import xml.etree.ElementTree as ET
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import random_prompt
from rich.cells import cell_len
from tiny import Oracle
from tiny_moe import make_moe
from workload import Job, make_engine, run_jobs

from minillm import LLM, SamplingParams
from minillm.debug import experts as experts_module
from minillm.debug.expert_stats import layer_stats
from minillm.debug.experts import ExpertTracker
from minillm.debug.views.expert_map import expert_map, layer_balance, top_experts
from minillm.debug.views.expert_svg import expert_svg, write_expert_svg
from minillm.debug.views.theme import make_console
from minillm.probe import listen, listening, probe

L, E, K = 3, 7, 3  # of the tiny Qwen3-MoE; its layer 0 is dense here
LAYERS = [1, 2]


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.mktemp("moe")
    return Oracle(folder, make_moe(folder, mlp_only_layers=[0], vocab_size=258))


@torch.no_grad()
def by_hand(moe: Oracle, ids: list[int]) -> np.ndarray:
    """``[2, E]``: how many of these tokens choose each expert, from Hugging Face's router logits."""
    router_logits = moe.model(torch.tensor([ids]), output_router_logits=True).router_logits
    assert len(router_logits) == len(LAYERS)
    counts = np.zeros((len(LAYERS), E), dtype=np.int64)
    for row, logits in enumerate(router_logits):
        for scores in logits.tolist():
            for expert in sorted(range(E), key=lambda e: -scores[e])[:K]:
                counts[row, expert] += 1
    return counts


def jobs(*lengths: int, max_tokens: int = 12) -> list[Job]:
    return [Job(tuple(random_prompt(length, seed=length)), max_tokens) for length in lengths]


@pytest.mark.parametrize("budget", [2048, 5])
def test_counts_are_hugging_faces_in_all_and_by_request(moe: Oracle, budget: int) -> None:
    """Each request alone in Hugging Face's model, all together in ours; the last token is not computed any more."""
    engine, asked = make_engine(moe.folder, max_num_batched_tokens=budget), jobs(1, 9, 20)
    with ExpertTracker(engine) as tracker:
        run = run_jobs(engine, asked)
    total = np.zeros((2, E), dtype=np.int64)
    for i, job in enumerate(asked):
        expected = by_hand(moe, [*job.prompt, *run.tokens(i)[:-1]])
        for (row, expert), tokens in np.ndenumerate(expected):
            by_request = tracker.get_expert_stats(LAYERS[row], expert).by_request
            assert by_request.get(run.finals[i].request_id, 0) == tokens
        total += expected
    assert np.array_equal(tracker.tokens, total)
    for row, layer in enumerate(LAYERS):
        assert [tracker.get_expert_stats(layer, e).tokens for e in range(E)] == total[row].tolist()
        shares = [tracker.get_expert_stats(layer, e).share for e in range(E)]
        assert shares == pytest.approx((total[row] / total[row].sum()).tolist())
    assert [stats.tokens for stats in tracker.get_layer_stats()] == [sum(job.longest for job in asked)] * 2
    assert [stats.choices for stats in tracker.get_layer_stats()] == [K * sum(job.longest for job in asked)] * 2
    assert [stats.steps for stats in tracker.get_layer_stats()] == [len(run.plans)] * 2


def test_steps_weights_and_times_are_those_of_the_events(moe: Oracle) -> None:
    engine = make_engine(moe.folder)
    used: dict[tuple[int, int], list[int]] = {}
    weights: dict[tuple[int, int], list[float]] = {}

    def note(event: Any) -> None:
        for row, scores in zip(event.experts.tolist(), event.weights.tolist()):
            for expert, weight in zip(row, scores):
                used.setdefault((event.layer, expert), []).append(event.step)
                weights.setdefault((event.layer, expert), []).append(weight)

    before = time.time()
    with listen("moe.route", note), ExpertTracker(engine) as tracker:
        run_jobs(engine, jobs(2, 4))
    for layer in LAYERS:
        for expert in range(E):
            stats, steps = tracker.get_expert_stats(layer, expert), used.get((layer, expert), [])
            assert (stats.layer_id, stats.expert_id, stats.tokens) == (layer, expert, len(steps))
            assert stats.steps == len(set(steps))
            if steps:
                assert stats.last_step == steps[-1]
                assert stats.mean_weight == pytest.approx(sum(weights[layer, expert]) / len(steps), rel=1e-5)
                assert stats.last_time and before <= datetime.fromisoformat(stats.last_time).timestamp() <= time.time()


def test_nothing_is_recorded_and_nobody_listens_while_it_is_off(moe: Oracle) -> None:
    engine = make_engine(moe.folder)
    tracker = ExpertTracker(engine)

    def generate() -> None:
        for job in jobs(5):
            engine.add_request(list(job.prompt), job.params)
        while engine.has_requests:
            engine.step()

    assert not probe.on and not listening("moe.route")
    generate()
    assert not tracker.tokens.any() and not tracker.requests
    stats = tracker.get_expert_stats(1, 0)
    assert (stats.tokens, stats.steps, stats.share, stats.last_step, stats.last_time) == (0, 0, 0.0, None, None)
    assert tracker.get_top_experts() == [] and tracker.get_layer_stats()[0].busiest_expert is None
    tracker.start()
    tracker.start()
    assert listening("moe.route") and "running" in repr(tracker)
    generate()
    tracker.stop()
    tracker.stop()
    once = tracker.tokens.copy()
    assert once.sum() == 2 * K * (5 + 12 - 1), "two starts count once"
    assert not probe.on and "stopped" in repr(tracker)
    generate()
    assert np.array_equal(tracker.tokens, once)
    with tracker:
        generate()
    assert np.array_equal(tracker.tokens, 2 * once), "it goes on where it stopped"
    tracker.reset()
    assert not tracker.tokens.any() and not tracker.requests and not probe.on


def test_what_is_computed_again_counts_again(moe: Oracle) -> None:
    """Too few pages for both: the younger request is preempted, and its tokens go through the experts twice."""
    engine = make_engine(moe.folder, page_size=4, num_pages=12, max_model_len=48)
    asked = jobs(14, 13, max_tokens=22)
    with ExpertTracker(engine) as tracker:
        run = run_jobs(engine, asked)
    computed: dict[int, int] = {}
    for plan in run.plans:
        for row in plan.rows:
            computed[row.request_id] = computed.get(row.request_id, 0) + row.count
    assert any(plan.preempted for plan in run.plans)
    assert sum(computed.values()) > sum(job.longest for job in asked)
    assert {id: counts.sum(axis=1).tolist() for id, counts in tracker.requests.items()} == {
        id: [K * tokens] * 2 for id, tokens in computed.items()
    }


def test_only_the_engine_that_is_watched(moe: Oracle) -> None:
    one, other = make_engine(moe.folder), make_engine(moe.folder)
    with ExpertTracker(one) as mine, ExpertTracker(other.model) as theirs:
        run_jobs(one, jobs(6))
    assert mine.tokens.any() and not theirs.tokens.any()


def test_it_takes_an_llm(moe: Oracle) -> None:
    llm = LLM(str(moe.folder), num_pages=64)
    with ExpertTracker(llm) as tracker:
        llm.generate("abc", SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)
    assert tracker.layer_ids == LAYERS and tracker.tokens.sum() == 2 * K * 6


def test_what_it_does_not_know(moe: Oracle, oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM has no mixture of experts"):
        ExpertTracker(make_engine(oracle.folder))
    with pytest.raises(ValueError, match="watches an LLM, an Engine or a model; got 'nano'"):
        ExpertTracker("nano")
    tracker = ExpertTracker(make_engine(moe.folder))
    with pytest.raises(ValueError, match="layer 0 has no experts to ask about; layers that have: 1, 2"):
        tracker.get_expert_stats(0, 0)
    for expert in (-1, 7):
        with pytest.raises(ValueError, match=f"no expert {expert}; layer 1 has 0 to 6"):
            tracker.get_expert_stats(1, expert)
    with pytest.raises(ValueError, match=r"cannot write .*nowhere"):
        tracker.export("/nowhere/at/all.json")


def test_old_requests_are_forgotten_but_stay_in_the_sums(moe: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "KEPT_REQUESTS", 2)
    engine = make_engine(moe.folder)
    with ExpertTracker(engine) as tracker:
        for _ in range(4):
            run_jobs(engine, jobs(3, max_tokens=2))
    assert list(tracker.requests) == [2, 3]
    assert tracker.tokens.sum() == 4 * 2 * K * 4


def test_a_long_request_is_not_forgotten_while_it_runs(moe: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "KEPT_REQUESTS", 4)
    engine = make_engine(moe.folder)
    with ExpertTracker(engine) as tracker:
        long = engine.add_request([5, 6, 7], SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
        while engine.has_requests:
            if 5 <= len(long.output_ids) < 12:
                engine.add_request([5], SamplingParams(max_tokens=1, temperature=0))
            engine.step()
    assert tracker.requests[long.id].sum(axis=1).tolist() == [(3 + 19) * K] * 2


@pytest.fixture(scope="module")
def tracked(moe: Oracle) -> ExpertTracker:
    engine = make_engine(moe.folder)
    with ExpertTracker(engine) as tracker:
        run_jobs(engine, jobs(1, 5))
    tracker.tokens[1, 4] = 0  # one that nobody chose
    return tracker


def test_the_export_has_its_three_keys_and_they_agree(tracked: ExpertTracker, tmp_path: Path) -> None:
    path = tmp_path / "experts.json"
    tracked.export(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"expert_stats", "layer_stats", "top_experts"}
    assert list(content["expert_stats"]) == list(content["layer_stats"]) == ["1", "2"]
    fields = {
        "layer_id",
        "expert_id",
        "tokens",
        "steps",
        "share",
        "mean_weight",
        "last_step",
        "last_time",
        "by_request",
    }
    for layer, experts in content["expert_stats"].items():
        assert list(experts) == [str(expert) for expert in range(E)]
        assert all(set(stats) == fields for stats in experts.values())
        assert sum(stats["tokens"] for stats in experts.values()) == content["layer_stats"][layer]["choices"]
        tokens = {expert: stats["tokens"] for expert, stats in experts.items()}
        busiest = content["layer_stats"][layer]["busiest_expert"]
        assert tokens[str(busiest)] == max(tokens.values())
    top = content["top_experts"]
    assert len(top) == 10 and [stats["tokens"] for stats in top] == sorted((s["tokens"] for s in top), reverse=True)
    assert all(stats == content["expert_stats"][str(stats["layer_id"])][str(stats["expert_id"])] for stats in top)
    assert [s.expert_id for s in tracked.get_top_experts(100)].count(4) == 1, "an idle expert is no top expert"


@pytest.mark.parametrize(
    ("counts", "busiest", "share", "idle", "entropy"),
    [
        ([5, 5, 5, 5], 0, 0.25, 0, 2.0),
        ([0, 8, 0, 0], 1, 1.0, 3, 0.0),
        ([1, 1, 0, 2], 3, 0.5, 1, 1.5),
        ([0, 0, 0, 0], None, 0.0, 4, 0.0),
    ],
)
def test_balance_by_hand(counts: list[int], busiest: int | None, share: float, idle: int, entropy: float) -> None:
    stats = layer_stats(3, np.array(counts), 10, 2)
    assert (stats.layer_id, stats.num_experts, stats.tokens, stats.steps) == (3, 4, 10, 2)
    assert (stats.busiest_expert, stats.busiest_share, stats.idle_experts) == (busiest, share, idle)
    assert stats.entropy == pytest.approx(entropy) and stats.evenness == pytest.approx(entropy / 2)
    assert math.copysign(1, stats.entropy) == 1, "no minus before a zero"


def test_a_lone_expert_is_even() -> None:
    assert layer_stats(0, np.array([4]), 4, 1).evenness == 1.0


def show(view: Any, width: int = 80, plain: bool = True, **options: Any) -> str:
    file = io.StringIO()
    make_console(plain, width, file=file, **options).print(view)
    return file.getvalue()


def with_experts(count: int) -> Any:
    """A tracker's facts for any number of experts: expert e of layer l has e + l tokens, but none of expert 2 / 0."""
    tracker = ExpertTracker.__new__(ExpertTracker)
    tracker.layer_ids, tracker.num_experts, tracker.top_k, tracker._listener = [1, 12], count, min(2, count), None
    tracker.reset()
    tracker.tokens += np.arange(count) + np.array([[0], [1]])
    return tracker


@pytest.mark.parametrize("count", [1, 4, 8, 9, 16, 33, 64, 128, 256])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_views_fit_and_are_plain_if_asked(count: int, width: int) -> None:
    tracker = with_experts(count)
    for view in (expert_map(tracker), expert_map(tracker, 5), layer_balance(tracker), top_experts(tracker)):
        plain = show(view, width)
        assert plain.isascii() and "\x1b" not in plain and plain.strip()
        colour = re.sub(r"\x1b\[[\d;]*m", "", show(view, width, False, force_terminal=True, color_system="truecolor"))
        assert colour == show(view, width, False), "colour adds nothing but colour"
        for text in (plain, colour):
            assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width


def test_the_map_shows_shares_in_numbers_where_they_fit(tracked: ExpertTracker) -> None:
    text = show(expert_map(tracked))
    assert text.startswith("2 layers of 7 experts, 3 for each token")
    for row, layer in enumerate(LAYERS):
        line = next(line for line in text.splitlines() if re.match(rf" +{layer} ", line))
        assert [int(p) for p in re.findall(r"(\d+)%", line)] == [round(100 * s) for s in tracked.shares()[row]]
    assert re.findall(r"(\S+) +0%", text) == ["--"], "what nobody chose has a mark of its own"


@pytest.mark.parametrize(("count", "width"), [(16, 80), (33, 80), (128, 80), (128, 40), (256, 120)])
def test_the_map_has_a_mark_for_every_expert(count: int, width: int) -> None:
    """Read back: in each band of experts, as many marks as experts, none lost, and only nothing has its mark."""
    tracker = with_experts(count)
    body = show(expert_map(tracker), width).split("\n\n")[1:-1]
    for row, layer in enumerate((1, 12)):
        lines = [re.search(rf"^ +{layer} (.*)$", band, flags=re.MULTILINE) for band in body]
        text = "".join(line[1] for line in lines if line)
        marks = text.replace(" ", "") if count > 18 else "".join(mark[0] for mark in text.split())
        assert len(marks) == count
        assert [mark == "-" for mark in marks] == [tokens == 0 for tokens in tracker.tokens[row]]
        heights = [".:=+*#".find(mark) for mark in marks]
        assert heights == sorted(heights), "who has more has a mark that is no lower"


def test_a_map_of_one_request(tracked: ExpertTracker) -> None:
    mine = show(expert_map(tracked, request_id=1))
    assert "request B" in mine
    expected = tracked.requests[1] / tracked.requests[1].sum(axis=1, keepdims=True)
    assert tracked.shares(1) == pytest.approx(expected)
    assert not tracked.shares(99).any() and "0%" in show(expert_map(tracked, request_id=99))


@pytest.mark.parametrize("count", [1, 7, 40, 256])
def test_the_picture_has_a_cell_for_every_expert(count: int, tmp_path: Path) -> None:
    tracker = with_experts(count)
    write_expert_svg(tracker, tmp_path / "map.svg")
    root = ET.parse(tmp_path / "map.svg").getroot()
    space = {"": "http://www.w3.org/2000/svg"}
    cells = [cell for cell in root.findall("rect", space) if cell.get("class") == "expert"]
    tips = [cell.find("title", space) for cell in cells]
    shares = tracker.shares()
    assert [tip.text for tip in tips if tip is not None] == [
        f"layer {layer}, expert {expert}: {100 * shares[row, expert]:.1f}%"
        for row, layer in enumerate((1, 12))
        for expert in range(count)
    ]
    assert len(root.findall("path", space)) == int((tracker.tokens == 0).sum()), "crosses"
    width, height = (float(root.get(name) or 0) for name in ("width", "height"))
    for cell in cells:
        x, y, w, h = (float(cell.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert w > 0 and x + w <= width and y + h <= height


def test_the_picture_of_one_request_and_of_nothing(tracked: ExpertTracker) -> None:
    assert "request 1" in expert_svg(tracked, 1)
    ET.fromstring(expert_svg(tracked, 99))
