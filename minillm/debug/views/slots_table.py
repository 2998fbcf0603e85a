"""Where each token of a step lies in the KV cache: position -> page table -> page -> slot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES, tag
from minillm.debug.views.tokens import quoted

if TYPE_CHECKING:
    from minillm.attention.batch import ForwardBatch
    from minillm.scheduler.plan import PlanRow
    from minillm.text.tokenizer import Tokenizer


class _Slot(NamedTuple):
    request: int
    token: str
    position: int
    slot: int


def slots_table(
    batch: "ForwardBatch", rows: "Sequence[PlanRow]", tokenizer: "Tokenizer | None" = None, max_rows: int = 16
) -> Drawing:
    """A row a token of the step. ``rows``: the plan's, in the batch's order, as the probe ``batch.build`` gives them.

    Long prompts lose their middle, so that every request is seen and about ``max_rows`` rows are shown.
    """
    S = batch.kv_cache.page_size
    share = max(max_rows // max(len(rows), 1), 2)
    ids, positions, slots = (tensor.tolist() for tensor in (batch.input_ids, batch.positions, batch.slots))
    facts: list[_Slot | int] = []  # a number stands for so many tokens left out
    begin = 0
    for row, length in zip(rows[:max_rows], batch.query_lens):
        indices = list(range(begin, begin + length))
        begin += length
        head, tail = (indices, []) if length <= share + 1 else (indices[: share - 1], indices[-1:])
        for part in (head, tail):
            for i in part:
                text = quoted(tokenizer.token(ids[i])) if tokenizer else str(ids[i])
                facts.append(_Slot(row.request_id, text, positions[i], slots[i]))
            if part is head and tail:
                facts.append(length - len(head) - 1)
    if begin < len(slots):
        facts.append(len(slots) - begin)
    digits = len(str(max(slots, default=0)))
    return Drawing(lambda canvas: _draw(canvas, facts, S, digits))


def _draw(canvas: Canvas, facts: list[_Slot | int], S: int, digits: int) -> Group:
    columns = (
        Col("request"),
        Col("token"),
        Col("position", "right", spare=1),
        Col(f"entry\npos // {S}", "right", spare=3),
        Col("page", "right"),
        Col(f"offset\npos % {S}", "right", spare=2),
        Col("slot", "right"),
    )
    rows: list[Cells] = []
    for fact in facts:
        if isinstance(fact, int):
            rows.append(["", Text(f"... {fact} more", STYLES["note"]), "", "", "", "", ""])
            continue
        page, offset = divmod(fact.slot, S)
        sum_ = (f"{page} * {S} + {offset} = ", STYLES["note"]) if canvas.width >= 60 else ""
        cells = [str(fact.position), str(fact.position // S), str(page), str(offset)]
        rows.append([tag(fact.request), fact.token, *cells, Text.assemble(sum_, str(fact.slot).rjust(digits))])
    note = f"the page table's entry names the page; slot = page * {S} + offset"
    return Group(table(canvas, columns, rows), Text(), Text(note, STYLES["note"]))
