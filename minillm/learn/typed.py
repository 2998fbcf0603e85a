"""What the learner types as an answer, understood; and how an answer is shown."""

import sys

WHAT = {
    "number": "a number",
    "yes or no": "yes or no",
    "letter": "a request's letter",
}
KEYS = "Enter alone skips, ? shows a hint."


def from_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


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
