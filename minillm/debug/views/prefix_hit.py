"""What a request found in the prefix cache, and what is left of it to compute."""

from typing import TYPE_CHECKING

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.theme import STYLES, tag
from minillm.debug.views.tokens import shortened
from minillm.debug.views.units import counted, ranges
from minillm.kvcache.pages import pages_for

if TYPE_CHECKING:
    from minillm.request import Request
    from minillm.text.tokenizer import Tokenizer


def prefix_hit(request: "Request", taken: int, page_size: int, tokenizer: "Tokenizer") -> Drawing:
    """A request's prompt: the first ``taken`` tokens came from the prefix cache, the others have to be computed."""
    ids, who = list(request.prompt_ids), request.id
    pages = request.pages[: pages_for(len(ids), page_size)]
    cut = taken // page_size
    parts = [("cached", "taken", ids[:taken], pages[:cut]), ("new", "computed", ids[taken:], pages[cut:])]
    facts = [
        (mark, word, len(part), held, tokenizer.decode(part, skip_special_tokens=False))
        for mark, word, part, held in parts
    ]

    def draw(canvas: Canvas) -> Text:
        head = Text.assemble(tag(who), f" {counted(len(ids), 'token')}  ")
        room = max(min(canvas.width - head.cell_len, 60), 8)
        share = round(room * taken / len(ids))
        share = min(max(share, 1), room - 1) if 0 < taken < len(ids) else share
        head.append(canvas.marks.cached * share, STYLES["cached"]).append(canvas.marks.new * (room - share), "bold")
        lines = [head]
        for mark, word, count, held, text in facts:
            style = STYLES["cached"] if mark == "cached" else "bold"
            line = Text.assemble("  ", (getattr(canvas.marks, mark), style), f" {count:>5,} {word}")
            if count and canvas.width >= 60:
                where = f"page{'s' if len(held) > 1 else ''} {ranges(held, 4)}" if held else ""
                line.append(f"{'':{8 - len(word)}}  {where:<16}  ", STYLES["note"])
            else:
                line.append("  ")
            if count:
                line.append(shortened(text, canvas.width - line.cell_len), style)
            lines.append(line)
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    return Drawing(draw)
