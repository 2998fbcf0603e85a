"""A comparison on paper: every place's difference, a row a layer and a column a place, and the first one of note."""

from rich.console import Group, RenderableType
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES
from minillm.diagnose.compare import Comparison
from minillm.diagnose.compared import Compared, describe
from minillm.diagnose.places import NAMES, column_title
from minillm.text.tokenizer import Tokenizer

SHOWN = 6  # numbers of each tensor, around the largest difference
CELL = 6  # letters of a column of the matrix


def draw(found: Comparison, tokenizer: Tokenizer | None = None) -> Drawing:
    """The whole: what ran, the matrix, the verdict. ``tokenizer`` shows the token at which they differ as text."""

    def drawn(canvas: Canvas) -> RenderableType:
        parts = [heading(found), Text(), matrix(canvas, found), Text(), *outside(canvas, found)]
        if found.first:
            parts += [Text(), *detail(canvas, found, found.first, tokenizer)]
        return Group(*parts, Text(), *left_out(found), verdict(found))

    return Drawing(drawn)


def draw_brief(found: Comparison, tokenizer: Tokenizer | None = None) -> Drawing:
    """The same for a page that is to look the same everywhere: what is only rounding is left out."""

    def drawn(canvas: Canvas) -> RenderableType:
        parts = [matrix(canvas, found, brief=True), Text(), *outside(canvas, found, brief=True)]
        if found.first:
            parts += [Text(), *detail(canvas, found, found.first, tokenizer), Text(), verdict(found)]
        return Group(*parts)

    return Drawing(drawn)


def heading(found: Comparison) -> Text:
    tokens, prompt = len(found.ours.token_ids), found.ours.num_prompt
    decoded = f" and {tokens - prompt} decoded" if tokens > prompt else ""
    limit = f"tolerance {small(found.tolerance)}, times a place's largest number where that is above 1"
    return Text.assemble(
        (f"{found.ours.title} against {found.theirs.title}", STYLES["title"]),
        f"\n{prompt} tokens of prompt{decoded}; {limit}",
    )


def matrix(canvas: Canvas, found: Comparison, brief: bool = False) -> RenderableType:
    """A row a layer, a column a place, in the order of the forward pass; under each other where too wide."""
    inside = [one for one in found.compared if one.place.layer is not None]
    names = list(dict.fromkeys(one.place.name for one in inside))
    cells = {one.place: cell(canvas, one, found, brief) for one in inside}
    layers = sorted({one.place.layer for one in inside if one.place.layer is not None})
    fitting = max((canvas.width - 6) // (CELL + (3 if canvas.width >= 100 else 2)), 1)
    # Attention above, MLP below, where not all fits side by side.
    cut = next((i for i, name in enumerate(names) if name == "self_attn"), -1) + 1
    blocks = [names] if len(names) <= fitting else [part for part in (names[:cut], names[cut:]) if part]
    blocks = [block[i : i + fitting] for block in blocks for i in range(0, len(block), fitting)]
    by_place = {(place.layer, place.name): shown for place, shown in cells.items()}
    drawn: list[RenderableType] = []
    for block in blocks:
        columns = [Col("layer", "right"), *(Col(column_title(name), wraps=True) for name in block)]
        rows: list[Cells] = [
            [str(layer), *(by_place.get((layer, name), Text("-", STYLES["note"])) for name in block)]
            for layer in layers
        ]
        drawn += [Text()] * bool(drawn) + [table(canvas, columns, rows)]
    return Group(*drawn)


def cell(canvas: Canvas, one: Compared, found: Comparison, brief: bool = False) -> Text:
    """``3e-7``, in brief ``=``; beyond the limit with a mark, and with an arrow if it is the first."""
    if one.equal and brief:
        return Text("=", STYLES["note"])
    if one.equal:
        return Text(small(one.difference), STYLES["note"] if one.difference == 0 else "")
    mark = f" {canvas.marks.chosen}" if one is found.first else "!"
    return Text(f"{small(one.difference)}{mark}", STYLES["warn"])


def outside(canvas: Canvas, found: Comparison, brief: bool = False) -> list[Text]:
    """What is compared before and after the layers, in one line, and what the marks mean."""
    parts = [
        Text.assemble(
            (f"{NAMES.get(one.place.name, ('', one.place.name))[1]} ", STYLES["note"]), cell(canvas, one, found, brief)
        )
        for one in found.compared
        if one.place.layer is None
    ]
    same = "= the same, but for rounding. " if brief else ""
    marks = f"! beyond the tolerance   {canvas.marks.chosen} the first that is"
    legend = f"{same}Numbers are largest absolute differences. {marks}"
    return [in_a_row(parts, canvas.width, gap=3), Text(legend, STYLES["note"])]


def detail(canvas: Canvas, found: Comparison, one: Compared, tokenizer: Tokenizer | None) -> list[RenderableType]:
    """Both tensors where they differ most, how much of them does, and what to look at."""
    token = found.ours.token_ids[one.position]
    text = f" (token {token}{f', {tokenizer.token(token)!r}' if tokenizer else ''})"
    _, what, look = NAMES.get(one.place.name, ("", one.place.name, "the code that makes it: what goes in agrees"))
    beyond = one.tokens_beyond()
    where = "all" if len(beyond) == len(one.positions) else f"{len(beyond)} of {len(one.positions)}"
    before = found.compared.index(one)
    agree = f"The {before} places before it agree." if before > 1 else "It is the first place compared."
    lines = [
        Text.assemble(("First difference: ", STYLES["title"]), (f"{one.place}", STYLES["warn"]), f" ({what})"),
        Text(f"{agree} {small(one.difference)} at {describe(one)}{text}; allowed {small(one.limit)}."),
        Text(
            f"{one.count_beyond:,} of {one.ours.numel():,} numbers are beyond, at {where} of its tokens: {few(beyond)}"
        ),
        Text.assemble(("Look at: ", STYLES["title"]), look),
        Text(),
    ]
    return [*lines, values(canvas, found, one)]


def values(canvas: Canvas, found: Comparison, one: Compared) -> RenderableType:
    """Some numbers of both at the token that differs most, the largest difference among them."""
    size = one.ours.shape[1]
    begin = max(min(one.channel - SHOWN // 2, size - SHOWN), 0)
    shown = range(begin, min(begin + SHOWN, size))
    offset = one.head * one.head_dim if one.head is not None else 0
    columns = [Col(f"position {one.position}", wraps=True)]
    for channel in shown:
        star = f" {canvas.marks.chosen}" if channel == one.channel else ""
        columns.append(Col(f"{channel - offset}{star}", "right"))
    mine, other = one.ours[one.row], one.theirs[one.row]
    first, second = ("first", "changed") if found.both_are_minillm else ("ours", "theirs")
    rows: list[Cells] = [
        [first, *(f"{float(mine[i]):.5f}" for i in shown)],
        [second, *(f"{float(other[i]):.5f}" for i in shown)],
        ["difference", *(small(abs(float(mine[i] - other[i]))) for i in shown)],
    ]
    return table(canvas, columns, rows)


def left_out(found: Comparison) -> list[Text]:
    """What could not be compared, and why."""
    reasons = [
        (f"Only {found.ours.title} has", found.only_ours),
        (f"Only {found.theirs.title} has", found.only_theirs),
        ("Of different sizes", found.unlike),
    ]
    lines = [Text(f"{why}, so not compared: {', '.join(names)}", STYLES["note"]) for why, names in reasons if names]
    if not found.same_tokens:
        at = found.shared_tokens
        lines.append(Text(f"They chose different tokens: only positions 0 to {at - 1} were compared.", STYLES["warn"]))
    return lines


def verdict(found: Comparison) -> Text:
    if found.equal:
        largest = max(found.compared, key=lambda one: one.difference / one.limit if one.limit else one.difference)
        return Text.assemble(
            ("The same, within the tolerance", STYLES["good"]),
            f": {len(found.compared)} places; nearest to it is {largest.place}, {small(largest.difference)} of "
            f"{small(largest.limit)}.",
        )
    beyond = sum(not one.equal for one in found.compared)
    return Text.assemble(("Not the same", STYLES["warn"]), f": {beyond} of {len(found.compared)} places differ.")


def few(positions: list[int]) -> str:
    shown = ", ".join(map(str, positions[:8]))
    return f"{shown}, ..." if len(positions) > 8 else shown


def small(value: float) -> str:
    """``3e-7``, ``0``, ``12``: one digit says what one wants to know of a difference."""
    if value == 0:
        return "0"
    if 1 <= value < 1000:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa
