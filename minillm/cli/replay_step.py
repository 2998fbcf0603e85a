"""One step of a recorded run, found and drawn: its queues, its batch, its page map."""

import io

from rich.console import Console, Group, RenderableType
from rich.text import Text

from minillm.cli.replay_text import said, why_ids_alone
from minillm.debug.replay import Frame
from minillm.debug.views.batch_table import batch_table
from minillm.debug.views.page_map import page_map
from minillm.debug.views.theme import STYLES, make_console, tag
from minillm.request import Request


def engines(shown: list[Frame]) -> str:
    """``engine 1 (batching=static): steps 1 to 59``, a line each."""
    steps: dict[str, list[int]] = {}
    for frame in shown:
        steps.setdefault(frame.name, []).append(frame.step)
    return "\n".join(f"  {name}: steps {min(one)} to {max(one)}" for name, one in steps.items())


def find(shown: list[Frame], step: int | None, near: int = 0) -> int:
    """Where that step is, in the engine of the frame ``near`` if it has one; the last of all without a number."""
    if step is None or not shown:
        return len(shown) - 1
    places = [i for i, frame in enumerate(shown) if frame.step == step]
    if not places:
        there = engines(shown)
        there = f"\n{there}" if "\n" in there else " " + there.rpartition(": ")[2]  # one engine needs no name
        raise ValueError(f"no step {step} was recorded; there are{there}")
    return next((i for i in places if shown[i].engine == shown[near].engine), places[0])


def draw(shown: list[Frame], at: int) -> RenderableType:
    """One step: its number, the queues, the batch, the page map."""
    frame = shown[at]
    last = max(one.step for one in shown if one.engine == frame.engine)
    several = f", {frame.name}" if frame.settings or len({one.engine for one in shown}) > 1 else ""
    head = Text(f"step {frame.step} of {last}{several}, {frame.time:.3f} s after the start", STYLES["title"])
    if not frame.whole:
        head.append("; not ended: what follows was only planned", STYLES["warn"])
    running = frame.running
    queues = [
        _queue("waiting", frame.waiting),
        _queue("running", running),
        _queue("finished", frame.finished, reasons=True),
    ]
    sampled = Text("sampled   ", STYLES["note"])
    for request_id, tokens in frame.tokens.items():
        sampled.append_text(tag(request_id)).append(f" {said(tokens, frame.folder)}  ")
    if frame.tokens and (why := why_ids_alone(frame.folder)):
        sampled.append(f"({why})", STYLES["note"])
    table = batch_table(frame.plan, [*running, *frame.waiting], frame.token_budget)
    after = [sampled, Text()] if frame.tokens else [Text()]
    return Group(head, Text(), *queues, Text(), table, *after, page_map(frame.pool, running, frame.written))


def _queue(name: str, requests: list[Request], reasons: bool = False) -> Text:
    """``waiting   A B C``: the oldest first."""
    text = Text(f"{name:<10}", STYLES["note"])
    for request in requests[:20]:
        text.append_text(tag(request.id)).append(f" {request.finish_reason}  " if reasons else " ")
    if reasons and requests:
        text.append("(after this step)", STYLES["note"])
    return text.append(f"... {len(requests)}" if len(requests) > 20 else "" if requests else "nobody")


def as_text(drawing: RenderableType, width: int) -> Text:
    """What a console of that width would show, with its colours."""
    file = io.StringIO()
    console: Console = make_console(width=width, file=file, force_terminal=True, color_system="truecolor")
    console.print(drawing)
    return Text.from_ansi(file.getvalue())
