"""What one step computes: a row a request, and a row a token."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from minillm.debug.views.compare import bar_text
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES, letter, tag
from minillm.debug.views.units import counted, number, percent

if TYPE_CHECKING:
    from minillm.request import Request
    from minillm.scheduler.plan import PlanRow, StepPlan

_ROWS = (
    Col("request"),
    Col("phase"),
    Col("positions", "right"),
    Col("tokens", "right"),
    Col("pending", "right", spare=2),
    Col("new pages", wraps=True, spare=3),
    Col("samples", spare=1),
)


def phase(row: "PlanRow", prompt_tokens: int) -> str:
    """What a row is, in words. The engine does not ask: it computes pending tokens, whichever they are.

    decode: the one token that was sampled last. recompute: the prompt and generated tokens whose KV was given up (or
    never kept). prefill: a prompt, all of it. chunk: a part of one.
    """
    if row.count == 1 and row.start >= prompt_tokens:
        return "decode"
    if not (row.samples and (row.joins or row.start == 0)):
        return "chunk"
    return "prefill" if row.start + row.count == prompt_tokens else "recompute"


def pending(row: "PlanRow", known: int) -> tuple[int, int]:
    """Tokens without KV before and after the step, not counting one that the step itself samples.

    ``known``: the request's tokens, now. A row that samples computes everything, so it needs no look at a request which
    may have its new token already.
    """
    before = row.count if row.samples else known - row.start
    return before, before - row.count


def batch_table(
    plan: "StepPlan", requests: "Iterable[Request]", token_budget: int | None = None, max_rows: int = 24
) -> Drawing:
    """The plan, before or after its step ran, with the requests it names. ``token_budget``: max_num_batched_tokens."""
    known = {request.id: request for request in requests}
    facts = []
    for row in plan.rows:
        request = known.get(row.request_id)
        prompt = len(request.prompt_ids) if request else row.start + row.count
        before, after = pending(row, request.num_tokens if request else row.start + row.count)
        kind, pages = phase(row, prompt), _list(row.new_pages)
        facts.append((row.request_id, kind, row.start, row.count, before, after, pages, row.samples))
    total, step, preempted = plan.num_tokens, plan.step, list(plan.preempted)

    def draw(canvas: Canvas) -> Group:
        rows: list[Cells] = []
        for id, kind, start, count, before, after, pages, samples in facts[:max_rows]:
            span = f"{start}" if count == 1 else f"{start}..{start + count - 1}"
            left = f"{number(before)} {canvas.marks.arrow} {number(after)}"
            sampled = Text("yes") if samples else Text("not yet", STYLES["note"])
            rows.append([tag(id), kind, span, number(count), left, pages, sampled])
        if len(facts) > max_rows:
            rows.append(["...", f"{len(facts) - max_rows} more", "", "", "", "", ""])
        title, totals = Text(f"step {step}", STYLES["title"]), _totals(canvas, len(facts), total, token_budget)
        return Group(title, table(canvas, _ROWS, rows), Text(), totals, *_preempted(preempted))

    return Drawing(draw)


def _list(pages: Sequence[int]) -> str:
    """``page 3``, ``pages 3, 4, 9``; many in a row as ``pages 3..40``. A number alone could be how many there are."""
    if len(pages) < 2:
        return f"page {pages[0]}" if pages else "none"
    if len(pages) > 2 and list(pages) == list(range(pages[0], pages[0] + len(pages))):
        return f"pages {pages[0]}..{pages[-1]}"
    shown = ", ".join(map(str, pages)) if len(pages) <= 8 else f"{', '.join(map(str, pages[:6]))}, ... ({len(pages)})"
    return f"pages {shown}"


def _totals(canvas: Canvas, requests: int, tokens: int, budget: int | None) -> Text:
    text = Text(f"{counted(requests, 'request')}, {counted(tokens, 'token')}")
    if budget:
        text.append(f" of a budget of {number(budget)}  ").append_text(bar_text(canvas, tokens, budget, 16))
        text.append(f" {percent(tokens, budget)}", STYLES["note"])
    return text


def _preempted(ids: list[int]) -> list[Text]:
    names = ", ".join(letter(id) for id in ids)
    return [Text(f"preempted: {names} (pages given back, to be computed again)", STYLES["warn"])] if ids else []
