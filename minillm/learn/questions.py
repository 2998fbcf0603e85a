"""A question of the quiz, what is typed as its answer, and how an answer is shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.config import EngineConfig
    from minillm.learn.moments import Facts
    from minillm.probe import Event
    from minillm.scheduler.scheduler import Scheduler

    Moment = Callable[[Event, Scheduler], Facts | None]
    Answer = Callable[[Facts, Event, Scheduler], int | bool | str | None]

WHAT = {
    "number": "a number",
    "yes or no": "yes or no",
    "letter": "a request's letter",
}
KEYS = "Enter alone skips, ? shows a hint."


@dataclass(frozen=True)
class Question:
    """One thing to predict.

    ask_at, moment: the probe at which it is asked, if this is a good moment. check_at, answer: the probe at which the
        engine shows the answer, and who reads it there. fits: which of the lesson's engines it is about; the first
        that fits, and no other. kind: a key of WHAT. text, hint, why: in words, with the moment's facts filled in.
    """

    name: str
    fits: "Callable[[EngineConfig], bool]"
    ask_at: str
    moment: "Moment"
    check_at: str
    answer: "Answer"
    kind: str
    text: str
    hint: str
    why: str

    @classmethod
    def read(cls, entry: dict[str, Any], functions: Mapping[str, Any]) -> "Question":
        """An entry of questions.yaml: ``ask: [probe, moment]``, ``check: [probe, answer]``, ``engine: function``."""
        given = {"engine": "any_engine", **entry}
        (ask_at, moment), (check_at, answer) = given.pop("ask"), given.pop("check")
        fits, moment, answer = (functions[name] for name in (given.pop("engine"), moment, answer))
        return cls(fits=fits, ask_at=ask_at, moment=moment, check_at=check_at, answer=answer, **given)


def understood(typed: str, kind: str) -> int | bool | str | None:
    """What was typed, as an answer of this kind; None if it is none."""
    word = typed.lower()
    if kind == "number":
        digits = word.replace(",", "").replace("_", "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    if kind == "letter":
        return word.upper() if word.isascii() and word.isalpha() and len(word) < 3 else None
    return {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}.get(word)


def shown(answer: int | bool | str) -> str:
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return f"{answer:,}" if isinstance(answer, int) else answer
