"""What a router says of a token, who computes which, and two texts against each other: right numbers, at any width."""

import re

import numpy as np
import pytest

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.expert_difference import expert_difference
from minillm.debug.views.expert_tokens import expert_groups, expert_stream
from minillm.debug.views.router_table import Routed, router_table
from minillm.debug.views.theme import make_console

WIDTHS = (38, 80, 120)


def shown(drawing: Drawing, width: int = 80, plain: bool = True) -> str:
    options = {} if plain else {"force_terminal": True, "color_system": "truecolor"}
    console = make_console(plain, width, **options)
    with console.capture() as capture:
        console.print(drawing)
    text = capture.get()
    bare = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, bare.splitlines())) <= width and (bare.isascii() or not plain)
    return bare if plain else text


def routed(E: int, experts: list[int], layer: int = 3) -> Routed:
    probs = [0.02] * E
    for i, expert in enumerate(experts):
        probs[expert] = 0.5 - 0.2 * i
    return Routed(layer, probs, experts, [0.6, 0.4][: len(experts)])


@pytest.mark.parametrize("width", WIDTHS)
def test_chosen_experts_stand_in_brackets(width: int) -> None:
    line = shown(router_table([routed(8, [6, 1])]), width).splitlines()[1]
    assert re.findall(r"\[?\d+\]?", line)[:9] == ["3", "2", "[30]", "2", "2", "2", "2", "[50]", "2"]
    assert ("6: 0.60  1: 0.40" in line) == (width >= 80)


def test_many_experts_are_named_by_their_number() -> None:
    line = shown(router_table([routed(128, [101, 7])]), 60).splitlines()[1]
    assert line.startswith("    3 [101: 50] [7: 30] 0: 2 1: 2 ")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("plain", [True, False])
def test_under_each_token_stand_its_experts(width: int, plain: bool) -> None:
    tokens = ["def", " f", "(", "x", "):\n", "    return", " x", "\n"] * 3
    experts = [[t % 8, (t + 3) % 8] for t in range(len(tokens))]
    text = re.sub(r"\x1b\[[\d;]*m", "", shown(expert_stream(tokens, experts), width, plain))
    rows = [block.split("\n")[:2] for block in text.split("\n\n")[:-1]]
    numbers = [int(n) for _, below in rows for n in below.split()]
    assert numbers == [n for of_token in experts for n in of_token]
    assert "".join(above for above, _ in rows).count("return") == 3
    if plain and width == 120:
        first, below = rows[0]
        assert first.startswith("def| f |(  |x  |):\\n|") and below.startswith("0 3 1 4 2 5 3 6 4 7")


@pytest.mark.parametrize("width", WIDTHS)
def test_groups_name_all_choices_and_whose_they_are(width: int) -> None:
    text = shown(expert_groups([" a", "b", "\n"], [1, 2, 5, 0, 3, 4], [3, 0, 2, 1], top_k=2), width)
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[0] == ["0", "3", "1", "2", "5", "a", "b", "'\\n'"]
    assert rows[1] == ["1", "0"]
    assert rows[2] == ["2", "2", "0", "3", "a", "b"]
    assert rows[3] == ["3", "1", "4", "'\\n'"]


def tracker(*tokens: list[int]) -> ExpertTracker:
    """One whose counts are these, a row a layer."""
    made = ExpertTracker.__new__(ExpertTracker)
    made.tokens, made.layer_ids, made.num_experts, made.top_k = np.array(tokens), [0, 5][: len(tokens)], 4, 2
    return made


@pytest.mark.parametrize("width", WIDTHS)
def test_a_difference_in_points_and_how_far_apart(width: int) -> None:
    one, other = tracker([30, 10, 0, 60], [1, 1, 1, 1]), tracker([10, 40, 0, 50], [5, 5, 5, 5])
    lines = shown(expert_difference(one, other, ("code", "talk")), width).splitlines()
    assert lines[1].split() == ["0", "+20", "-30", "0", "+10", "30%"]
    assert lines[2].split() == ["5", "0", "0", "0", "0", "0%"]
    assert "+ more with code" in lines[-2] + lines[-1] + lines[-3]


def test_more_experts_than_a_line_holds_come_below() -> None:
    counts = list(range(1, 41))
    many = tracker(counts)
    text = shown(expert_difference(many, tracker(counts[::-1]), ("a", "b")), 80)
    heads = [int(n) for line in text.splitlines() if line.startswith("layer") for n in line.split()[1:]]
    assert heads == list(range(40))
