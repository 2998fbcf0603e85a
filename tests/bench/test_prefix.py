"""`minillm bench prefix`: the work is what it says, and the tree's figures are of the tree. No test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny import make_llama

from minillm.bench.prefix import PREFIX, PrefixWorkload, compare_prefix
from minillm.bench.prefix_curve import CurvePoint, measure_point
from minillm.bench.prefix_report import curve_svg, print_prefix


def test_the_prompts_share_what_they_say() -> None:
    for workload in PREFIX:
        prompts = workload.prompts(4096)
        assert prompts == workload.prompts(4096) and len(prompts) == 64
        assert {len(prompt) for prompt in prompts} == {512 + 32}
        assert len({tuple(prompt[:512]) for prompt in prompts}) == (workload.systems or 64)
        assert len({tuple(prompt) for prompt in prompts}) == 64 and min(map(min, prompts)) >= 16
    round_robin, shuffled = (workload.prompts(4096) for workload in PREFIX[:2])
    assert round_robin != shuffled and sorted(round_robin) == sorted(shuffled)


def test_what_is_computed_and_that_the_tokens_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_llama(tmp_path)
    sizes = {"requests": 6, "system_len": 32, "question_len": 8, "output_len": 4}
    shared = PrefixWorkload("shared", systems=2, order="shuffled", **sizes)
    alone = PrefixWorkload("alone", systems=0, order="round robin", **sizes)
    results = compare_prefix(str(tmp_path), 2, (shared, alone))
    for result, fewer in zip(results, (4 * 32, 0), strict=True):
        assert result.same_tokens
        assert (result.none.prefill, result.radix.prefill) == (6 * 40, 6 * 40 - fewer)
        assert result.fewer == result.radix.hit_rate == pytest.approx(fewer / 240) and result.none.hit_rate == 0
        assert len(result.none.seconds) == len(result.radix.seconds) == 2
        assert 0 < result.none.first_token_s < result.none.best_s and result.cost > 0
        assert json.loads(json.dumps(result.as_dict()))["ratio"] == result.ratio
    print_prefix(results)
    assert "240" in capsys.readouterr().out


@pytest.mark.parametrize("page_size", [1, 16])
def test_a_point_of_the_curve(page_size: int) -> None:
    point = measure_point(5_000, page_size)
    assert (point.tokens, point.page_size, point.nodes) == (5_000, page_size, 9)  # a system prompt, eight questions
    assert min(point.insert_ns, point.evict_ns, point.match_ms, point.match_many_nodes_ms) > 0


def test_the_picture_has_every_point() -> None:
    points = [CurvePoint(size, 16, 1, 50.0, 10.0, 0.2, 5.0) for size in (10_000, 1_000_000)]
    root = ElementTree.fromstring(curve_svg(points))
    assert len([one for one in root.iter() if one.tag.endswith("circle")]) == 6
    assert {"insert", "evict", "match", "10k", "1M"} <= {one.text for one in root.iter() if one.tag.endswith("text")}


def test_the_command_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minillm", "bench", "prefix", "--help"], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0 and all(option in done.stdout for option in ("--json", "--plot", "--curve-only"))
