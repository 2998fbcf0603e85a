"""``minillm compare``: the first layer and tensor in which two computations of one model differ."""

import sys
from typing import Any

from minillm.cli.options import parse_settings
from minillm.debug.views.theme import make_console
from minillm.diagnose.compare import PROMPT, Comparison, compare
from minillm.diagnose.compare_view import draw
from minillm.diagnose.stopping import condition_for, probe_for, stop_at_first
from minillm.hub import resolve_model
from minillm.text.tokenizer import Tokenizer


def run(
    model: str,
    against: list[str],
    prompt: str | None,
    settings: dict[str, Any],
    tolerance: float,
    decode: int,
    stop: bool,
    plain: bool,
) -> bool:
    """Print the comparison, and stop at the first difference if asked to. Whether all was equal."""
    found = compare(model, parse_against(against), PROMPT if prompt is None else prompt, settings, tolerance, decode)
    make_console(plain).print(draw(found, Tokenizer(resolve_model(model))))
    if stop:
        go_there(found)
    return found.equal


def parse_against(texts: list[str]) -> str | dict[str, Any]:
    """``["hf"]``, or settings: ``["page_size=4", "kernels=torch"]``."""
    if texts in ([], ["hf"]):
        return "hf"
    if wrong := [text for text in texts if "=" not in text]:
        raise ValueError(
            f"--against takes hf, or a setting as NAME=VALUE (page_size=4), repeated for several; got {wrong[0]!r}"
        )
    return parse_settings(texts)


def go_there(found: Comparison) -> None:
    if found.first is None:
        print("Nothing to stop at: no place differs beyond the tolerance.")
        return
    name = probe_for(found.first.place)
    print(f"\nRunning again, to stop at {name} where {condition_for(found.first)}", flush=True)
    if not stop_at_first(found):
        print(f"It never came by {name}: this model's code has no such probe.", file=sys.stderr)
