"""The picture of the house: its floors as pyproject.toml has them, which a test holds the imports to."""

import ast
import re
from html import escape

from pages.clone import ROOT

PURPLE, ORANGE, GREEN, BLUE, WHITE = (
    ("#F6DFEC", "#CC79A7"), ("#FBE7C1", "#E69F00"), ("#CBEBDF", "#009E73"), ("#D9EEFB", "#56B4E9"),
    ("#FFFFFF", "#C9CFD6"),
)  # fmt: skip
# A room of a floor -> what the floor is, and its colour: by what it is for.
FLOORS = {
    "__main__": ("the commands begin here, and the lessons", PURPLE),
    "cli": ("what each command does", PURPLE),
    "bench": ("measurements; what is wrong; exercises", PURPLE),
    "llm": ("LLM.generate(): the way in", PURPLE),
    "debug": ("breakpoints, recordings, drawings: all that watches", PURPLE),
    "engine": ("schedule, execute, commit; text before and after", ORANGE),
    "worker": ("one device: a plan becomes tensors, tensors become tokens", ORANGE),
    "sampling": ("from logits to a token", ORANGE),
    "scheduler": ("who runs next, in whole numbers; text to ids and back", ORANGE),
    "models": ("Llama and those that differ from it; their weights", GREEN),
    "layers": ("linear, norm, rotary, attention, experts", GREEN),
    "attention": ("over pages; how weights are held", GREEN),
    "kvcache": ("who owns which page, and the tensors; small fast functions", BLUE),
    "setup": ("what was asked for, worked out for this machine", BLUE),
    "config": ("what was asked for; a checkpoint; a request; ranks", BLUE),
    "sampling_params": ("what a request wants; JSON files; how others spell a config", BLUE),
    "checks": ("is a value one of these?", BLUE),
    "probe": ("on the ground, seen from every floor: the one probe", WHITE),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
TOP, HEIGHT, STEP = 56, 46, 50
LONG = 50  # letters; more are set a little smaller


def floors() -> list[list[str]]:
    """The rooms floor by floor, the top one first: ``[["__main__"], ["cli"], ["bench", "diagnose", "learn"], ...]``."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^layers = (\[.*?^\])", text, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError("pyproject.toml has no contract of import-linter with layers")
    return [re.split(r" *[|:] *", floor.removeprefix("minillm.")) for floor in ast.literal_eval(found[1])]


def called(room: str) -> str:
    """``engine/`` or ``llm.py``."""
    return f"{room}/" if (ROOT / "minillm" / room).is_dir() else f"{room}.py"


def picture() -> str:
    """ValueError names a floor of which `FLOORS` says nothing."""
    rows, height = floors(), TOP + STEP * len(floors()) + 72
    if unknown := [floor[0] for floor in rows if FLOORS.keys().isdisjoint(floor)]:
        raise ValueError(f"scripts/pages/rooms.py says nothing of the floor of {', '.join(unknown)}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" width="600" height="{height}" role="img" '
        'aria-labelledby="t d">',
        '<title id="t">The rooms and their floors</title>',
        '<desc id="d">The folders of minillm as floors of a house. Imports only go down.</desc>',
        f"<style>text{{font-family:{FONT};font-size:16px;fill:#1F2933}}.b{{font-weight:700}}"
        ".l{font-size:14px}.g{fill:#5A6672;font-size:15px}</style>",
        f'<rect x="1" y="1" width="598" height="{height - 2}" rx="14" fill="#FCFCFA" stroke="#D8DDE2"/>',
        '<text x="24" y="38" class="b" style="font-size:17px">The house: imports only go down</text>',
    ]
    for index, floor in enumerate(rows):
        words, (fill, edge) = FLOORS[next(room for room in floor if room in FLOORS)]
        y = TOP + STEP * index
        names = " · ".join(map(called, floor))
        parts += [
            f'<rect x="24" y="{y}" width="552" height="{HEIGHT}" rx="4" fill="{fill}" stroke="{edge}" '
            'stroke-width="1.5"/>',
            f'<text x="40" y="{y + 19}" class="b{" l" if len(names) > LONG else ""}">{escape(names)}</text>',
            f'<text x="40" y="{y + 38}" class="g">{escape(words)}</text>',
        ]
    bottom = TOP + STEP * len(rows) - 14
    return "\n".join([
        *parts,
        f'<line x1="556" y1="{TOP + 10}" x2="556" y2="{bottom - 6}" stroke="#5A6672" stroke-width="2.5"/>',
        f'<path d="M556 {bottom}l-4.4 -8h8.8Z" fill="#5A6672"/>',
        f'<text x="24" y="{height - 44}" class="g">Purple: for people. Orange: one step. Green: the model.</text>',
        f'<text x="24" y="{height - 22}" class="g">Blue: data and memory. White: what every floor has.</text>',
        "</svg>\n",
    ])  # fmt: skip
