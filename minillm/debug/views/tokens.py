"""Text as the model sees it: cut into tokens, each with a number; and the candidates for the next one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES

if TYPE_CHECKING:
    from minillm.text.tokenizer import Tokenizer

HALF = "\ufffd"  # what decoding gives for bytes that are no whole character (yet)


class Piece(NamedTuple):
    """Text of one token, or of the few that make one character together."""

    text: str
    tokens: int
    special: bool


def pieces(ids: Sequence[int], tokenizer: "Tokenizer") -> list[Piece]:
    """The text that each token adds, decoded beside the one before: some tokenizers drop a text's first space."""
    found: list[Piece] = []
    window: list[int] = []  # the piece before
    start = 0
    for end in range(1, len(ids) + 1):
        new = list(ids[start:end])
        before = tokenizer.decode(window, skip_special_tokens=False)
        text = tokenizer.decode(window + new, skip_special_tokens=False)[len(before) :]
        if text.endswith(HALF) and len(new) < 4 and end < len(ids):
            continue  # half a character: see whether the next token completes it
        special = len(new) == 1 and not tokenizer.decode(new) and bool(tokenizer.token(new[0]))
        found.append(Piece(text, len(new), special))
        window, start = new, end
    return found


def visible(text: str) -> str:
    """Newlines as ``\\n`` and a line break; what does not print, by its code."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return shown.replace("\n", "\\n\n")


def quoted(text: str, most: int = 24) -> str:
    """A token in quotes, as Python writes it: spaces and newlines are seen."""
    shown = repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 4]}...{shown[0]}"


def shortened(text: str, most: int) -> str:
    """A run of text in quotes, in ``most`` columns; a long one loses its middle, since its ends tell it apart."""
    if len(repr(text)) <= most:
        return repr(text)
    keep = min(len(text) - 1, most)
    while keep > 2 and len(repr(f"{text[: keep // 2]}...{text[len(text) - (keep + 1) // 2 :]}")) > most:
        keep -= 1
    return repr(f"{text[: keep // 2]}...{text[len(text) - (keep + 1) // 2 :]}")


def token_stream(
    prompt_ids: Sequence[int], output_ids: Sequence[int], tokenizer: "Tokenizer", newest: int = 1, note: bool = True
) -> Drawing:
    """Prompt and output as running text in which every token border is seen and the ``newest`` output tokens stand out.

    In colour tokens alternate between two shades; without it ``|`` stands between them, ``>>`` where the output begins,
    and brackets around the newest. ``<2>``: two tokens make the character before it.
    """
    prompt = pieces(prompt_ids, tokenizer)
    output = pieces([*prompt_ids, *output_ids], tokenizer)[len(prompt) :]
    newest = min(newest, len(output))
    return Drawing(
        lambda canvas: (
            _shaded(prompt, output, newest, note) if canvas.colour else _ruled(canvas, prompt, output, newest, note)
        )
    )


def _shown(piece: Piece) -> str:
    return visible(piece.text) + (f"<{piece.tokens}>" if piece.tokens > 1 else "")


def _shaded(prompt: list[Piece], output: list[Piece], newest: int, note: bool) -> Text:
    text = Text()
    for i, piece in enumerate(prompt + output):
        part = "prompt" if i < len(prompt) else "output"
        style = STYLES[f"{part}.{'odd' if i % 2 else 'even'}"] + (" italic" if piece.special else "")
        text.append(_shown(piece), STYLES["new"] if i >= len(prompt) + len(output) - newest else style)
    if note:
        looks = [(" prompt ", "prompt.odd"), (" output ", "output.odd"), (" newest ", "new")]
        text.append("\n\n")
        for word, style in looks if output else looks[:1]:
            text.append(word, STYLES[style]).append(" ")
        text.append(" one shade, one token", STYLES["note"])
    return text


def _ruled(canvas: Canvas, prompt: list[Piece], output: list[Piece], newest: int, note: bool) -> Text:
    border = canvas.marks.border
    old, new = output[: len(output) - newest], output[len(output) - newest :]
    text = border.join(map(_shown, prompt))
    if output:
        newest_shown = (_shown(piece).rstrip("\n") for piece in new)
        text += " >> " + border.join([*map(_shown, old), *(f"[{shown}]" for shown in newest_shown)])
    if not note:
        return Text(text)
    notes = [f"{border} between tokens", *([">> output begins", "[ ] newest"] if output else [])]
    if any(piece.tokens > 1 for piece in prompt + output):
        notes.append("<2> two tokens, one character")
    return Text.assemble(text, "\n\n", in_a_row([Text(words) for words in notes], canvas.width))


def token_table(ids: Sequence[int], tokenizer: "Tokenizer", max_rows: int = 12) -> Drawing:
    """Position, text and number of the first tokens: what the model gets is the last column."""
    rows: list[Cells] = [[str(i), quoted(tokenizer.token(id)), str(id)] for i, id in enumerate(ids[:max_rows])]
    if len(ids) > max_rows:
        rows.append(["...", f"{len(ids) - max_rows} more", ""])
    columns = (Col("position", "right"), Col("text"), Col("token id", "right"))

    def draw(canvas: Canvas) -> Table:
        return table(canvas, columns, rows)

    return Drawing(draw)
