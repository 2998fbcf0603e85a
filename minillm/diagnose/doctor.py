"""The doctor: every check on one checkpoint, each by itself, so that one broken part does not hide the next."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES
from minillm.diagnose import config_checks, running_checks, special_token_checks, tensor_checks, tokenizer_checks
from minillm.diagnose.checkpoint import Checkpoint, NotHere
from minillm.diagnose.findings import SKIPPED, WARN, WRONG, Check, Finding

CHECKS: list[tuple[str, Check]] = [
    *config_checks.CHECKS,
    *tensor_checks.CHECKS,
    *tokenizer_checks.CHECKS,
    *special_token_checks.CHECKS,
]
T = TypeVar("T")
MARKS = {"ok": ("ok", STYLES["good"]), WARN: ("warn", "bold"), WRONG: ("WRONG", STYLES["warn"]), SKIPPED: ("-", "dim")}


def examine(folder: Path, load: bool = False) -> list[Finding]:
    """What every check finds, in their order. ``load``: load the model as well, and look at it running."""
    checkpoint = Checkpoint(folder)
    findings = [run(name, check, checkpoint) for name, check in CHECKS]
    return findings + look_at_running(folder) if load else findings


def look_at_running(folder: Path) -> list[Finding]:
    """The checks that need a loaded model; one finding if it does not load."""
    try:
        patient = running_checks.Patient(folder)
    except Exception as error:  # the checkpoint is broken, and the checks above say how
        return [Finding(WRONG, f"{type(error).__name__}: {error}", "see what is wrong above", name="loading")]
    return [run(name, check, patient) for name, check in running_checks.CHECKS]


def run(name: str, check: Callable[[T], Finding], subject: T) -> Finding:
    """One check. What it needs may be unreadable, and what it reads may be of a kind that nobody thought of."""
    try:
        finding = check(subject)
    except NotHere as reason:
        finding = Finding(SKIPPED, f"not checked: {reason}")
    except Exception as error:
        finding = Finding(
            WARN, f"could not be checked: {type(error).__name__}: {error}", "look at what this check reads"
        )
    finding.name = name
    return finding


def is_wrong(findings: list[Finding]) -> bool:
    return any(finding.level == WRONG for finding in findings)


def draw(title: str, findings: list[Finding]) -> Drawing:
    """The table: a row a check, and under what it saw, what to do."""

    def drawn(canvas: Canvas) -> RenderableType:
        rows: list[Cells] = []
        for finding in findings:
            word, style = MARKS[finding.level]
            seen = Text(finding.seen, STYLES["note"] if finding.level == SKIPPED else "")
            if finding.todo:
                seen.append(f"\n{canvas.marks.arrow} {finding.todo}", "bold" if finding.level == WRONG else "italic")
            rows.append([finding.name, Text(word, style), seen])
        shown = table(canvas, [Col("check"), Col(""), Col("what was seen", wraps=True)], rows)
        return Group(Text(title, STYLES["title"]), Text(), shown, Text(), verdict(findings))

    return Drawing(drawn)


def verdict(findings: list[Finding]) -> Text:
    count = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    skipped = f", {count[SKIPPED]} could not be checked" if count[SKIPPED] else ""
    said = f"{count['ok']} ok, {count[WARN]} to look at, {count[WRONG]} wrong{skipped}."
    return Text(said, STYLES["warn" if count[WRONG] else "good"])
