"""The heat map of experts as an SVG picture: one file, no script, any browser shows it, and any size is sharp."""

from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from minillm.debug.recorder import open_to_write
from minillm.debug.views.units import percent

if TYPE_CHECKING:
    from minillm.debug.experts import ExpertTracker

_PALE, _DARK, _NEVER = (0xE8, 0xF1, 0xF8), (0x00, 0x4B, 0x80), "#FFFFFF"  # blue by share; white with a cross: never
_LEFT, _TOP, _BELOW, _HEIGHT = 60, 52, 40, 26  # pixels: what stands around the cells, and how high each is


def expert_svg(tracker: "ExpertTracker", request_id: int | None = None) -> str:
    """The picture as text, of all requests or of one."""
    whose = "" if request_id is None else f", request {request_id}"
    return heat_map_svg(tracker.shares(request_id).tolist(), tracker.layer_ids, tracker.top_k, whose)


def heat_map_svg(shares: list[list[float]], layer_ids: list[int], top_k: int, whose: str = "") -> str:
    """shares: a row a layer, with each expert's share of the layer's choices.

    Pointing at a cell tells its numbers; what is dark is said in numbers too where they fit.
    """
    E = len(shares[0])
    most = max(map(max, shares)) or 1.0
    width = max(min(960 // E, 56), 7)
    total_width, total_height = _LEFT + max(E * width, 560) + 10, _TOP + len(shares) * _HEIGHT + _BELOW
    title = f"{len(shares)} layers of {E} experts, {top_k} for each token{whose}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
        f'width="{total_width}" height="{total_height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{total_width}" height="{total_height}" fill="#FFFFFF"/>',
        _text(_LEFT, 18, title, "start"),
    ]
    every = -(-24 // width)  # label so few experts that the numbers do not touch
    parts += [_text(_LEFT + expert * width + width / 2, _TOP - 8, str(expert)) for expert in range(0, E, every)]
    for row, (layer, line) in enumerate(zip(layer_ids, shares)):
        y = _TOP + row * _HEIGHT
        parts.append(_text(_LEFT - 8, y + 17, f"layer {layer}", "end"))
        parts += [_cell(layer, expert, share, most, width, y) for expert, share in enumerate(line)]
    note = f"Share of the layer's choices: pale 0%, dark {percent(most, 1)}; a cross: never chosen."
    parts.append(_text(_LEFT, total_height - 14, f"{note} All alike would be {100 / E:.3g}%.", "start"))
    return "\n".join([*parts, "</svg>\n"])


def write_expert_svg(tracker: "ExpertTracker", path: Path | str, request_id: int | None = None) -> None:
    """`expert_svg` into a file."""
    with open_to_write(Path(path)) as file:
        file.write(expert_svg(tracker, request_id))


def _cell(layer: int, expert: int, share: float, most: float, width: int, y: int) -> str:
    x, w, h = _LEFT + expert * width, width - 1, _HEIGHT - 1
    strength = share / most
    mixed = (round(pale + (dark - pale) * strength) for pale, dark in zip(_PALE, _DARK))
    fill = "#" + "".join(f"{part:02X}" for part in mixed) if share else _NEVER
    tip = f"<title>layer {layer}, expert {expert}: {100 * share:.1f}%</title>"
    cell = f'<rect class="expert" x="{x}" y="{y}" width="{w}" height="{h}" fill="{fill}" stroke="#C5CED6">{tip}</rect>'
    if not share:
        cross = f"M{x + w / 2 - 3} {y + h / 2 - 3}l6 6m0 -6l-6 6"
        return cell + f'<path d="{cross}" stroke="#8A939B" fill="none"/>'
    if width >= 36:
        cell += _text(x + w / 2, y + 17, percent(share, 1), fill="#FFFFFF" if strength > 0.62 else "#1B2A38")
    return cell


def _text(x: float, y: float, text: str, anchor: str = "middle", fill: str = "#1B2A38") -> str:
    """Text that lets the pointer through to the cell below it."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}" pointer-events="none">{escape(text)}</text>'
