"""The views of sampling: candidates before and after a control, surprises, and what a grammar allowed."""

import io

import pytest
import torch
from rich.console import RenderableType
from tiny import Oracle

from minillm.debug.views.controls import Choice, Surprise, changed, choices, surprises
from minillm.debug.views.theme import make_console
from minillm.text.tokenizer import Tokenizer

ROWS = [Surprise("a", 0.9, 1, "a", 0.9), Surprise("\u2019", 0.001, 47, "\n   ", 0.5)]
CHOICES = [Choice(1, "{"), Choice(1, '"'), Choice(1, "x"), Choice(300, "abc"), Choice(1, "}")]


@pytest.fixture(scope="module")
def tokenizer(oracle: Oracle) -> Tokenizer:
    return Tokenizer(oracle.folder)


def drawn(view: RenderableType, width: int = 80, plain: bool = True) -> str:
    out = io.StringIO()
    make_console(plain, width, file=out).print(view)
    return out.getvalue()


def lines(view: RenderableType) -> list[list[str]]:
    return [line.split() for line in drawn(view).splitlines() if line.strip()]


def views(tokenizer: Tokenizer) -> list[RenderableType]:
    before = torch.linspace(3, -3, 258)
    after = before.clone()
    after[0], after[200] = -torch.inf, 3.0
    return [changed(before, after, tokenizer), surprises(ROWS), choices(CHOICES, 4096)]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_they_fit_and_survive_without_colour(tokenizer: Tokenizer, width: int) -> None:
    for view in views(tokenizer):
        plain, coloured = drawn(view, width), drawn(view, width, plain=False)
        assert plain.isascii() and "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= width and max(map(len, coloured.splitlines())) <= width


def test_shares_before_and_after(tokenizer: Tokenizer) -> None:
    """Of four tokens: one goes, one falls below half, and those that are left gain."""
    before = torch.tensor([0.5, 0.3, 0.15, 0.05])
    after = torch.tensor([0.0, 0.1, 0.7, 0.2])
    shown = lines(changed(before, after, tokenizer, k=2))
    tokens = [repr(tokenizer.token(id)) for id in range(4)]
    assert [shown[2][0], shown[3][0], shown[4][0]] == [tokens[0], tokens[1], tokens[2]]  # 2 comes in after it
    assert [shown[2][1], shown[2][3], shown[2][-1]] == ["50.00%", "0.00%", "out"]
    assert [shown[3][1], shown[3][3], shown[3][-1]] == ["30.00%", "10.00%", "less"]
    assert "3 of 4 tokens can be drawn" in drawn(changed(before, after, tokenizer, k=2))


def test_a_surprise_names_who_was_likelier() -> None:
    shown = lines(surprises(ROWS))
    assert shown[2][:2] == ["'a'", "90.00%"] and shown[2][-1] == "1"
    assert shown[3][:2] == ["'\\u2019'", "0.10%"] and "47" in shown[3] and shown[3][-1] == "50.00%"


def test_forced_tokens_share_a_line() -> None:
    shown = lines(choices(CHOICES, 4096))[2:]
    assert [line[0] for line in shown] == ["1", "300", "1"]
    assert shown[0][1] == "each" and shown[0][-1] == "'{\"x'" and shown[1][-1] == "'abc'"
