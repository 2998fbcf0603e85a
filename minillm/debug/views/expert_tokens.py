"""Which expert computes which token: along a text, and sorted by expert as a layer computes them."""

from collections.abc import Sequence
from textwrap import fill

from rich.console import RenderableType
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import REQUEST_COLOURS, STYLES

# Black letters are read well on all of these; beyond eight experts they come again, and the number tells.
_GROUNDS = (*(colour for colour in REQUEST_COLOURS if colour != "#0072B2"), "#9AA5B1", "#C49A6C", "#7FB3FF")


def expert_style(expert: int) -> str:
    """An expert's colour, as a ground for letters. Its number always stands beside it."""
    return f"#000000 on {_GROUNDS[expert % len(_GROUNDS)]}"


def expert_stream(tokens: Sequence[str], experts: Sequence[Sequence[int]]) -> Drawing:
    """A text token by token, and under each the experts that computed it, first the one that counts most.

    tokens: their texts. experts: [T][k], of one layer.
    """
    shown = [repr(text)[1:-1] for text in tokens]
    chosen = [list(of_token) for of_token in experts]
    return Drawing(lambda canvas: _draw_stream(canvas, shown, chosen))


def _draw_stream(canvas: Canvas, shown: list[str], chosen: list[list[int]]) -> Text:
    gap = " " if canvas.colour else canvas.marks.border
    rows: list[tuple[Text, Text]] = []
    for text, experts in zip(shown, chosen):
        numbers = " ".join(map(str, experts))
        width = max(len(text), len(numbers))
        if not rows or rows[-1][0].cell_len + len(gap) + width > canvas.width:
            rows.append((Text(), Text()))
        above, below = rows[-1]
        if above.cell_len:
            above.append(gap)
            below.append(" " * len(gap))
        above.append(text.ljust(width), expert_style(experts[0]) if canvas.colour else "")
        below.append(str(experts[0]), "bold").append(numbers[len(str(experts[0])) :].ljust(width)[: width - 1], "dim")
        below.append(" " * (above.cell_len - below.cell_len))
    lines = [line for above, below in rows for line in (above, below, Text())][:-1]
    note = Text("under each token its experts, first the one that counts most", STYLES["note"])
    note.truncate(canvas.width)
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, Text(), note])


def expert_groups(tokens: Sequence[str], order: Sequence[int], counts: Sequence[int], top_k: int) -> Drawing:
    """The step's choices sorted by expert: how many rows each has got, which choices they are, and whose tokens.

    tokens: the texts of all T. order: [T * k] choice numbers, sorted by expert. counts: [E] rows of each expert.
    """
    names = [text.strip() or repr(text) for text in tokens]
    groups, start = [], 0
    for expert, count in enumerate(counts):
        groups.append((expert, list(order[start : start + count])))
        start += count
    columns = [Col("expert", "right"), Col("rows", "right"), Col("choices", spare=1), Col("whose", wraps=True)]

    def draw(canvas: Canvas) -> RenderableType:
        return table(canvas, columns, [_group(canvas, expert, choices) for expert, choices in groups])

    def _group(canvas: Canvas, expert: int, choices: list[int]) -> Cells:
        look = expert_style(expert) if canvas.colour and choices else STYLES["free"]
        number = Text.assemble((f" {expert} ", look))
        whose = "  ".join(names[choice // top_k] for choice in choices)
        return [number, str(len(choices)), fill(" ".join(map(str, choices)), 21), whose]

    return Drawing(draw)
