"""What a learner works out from the text of each question: the tests take the quiz of lesson 07 with it."""

import re
from collections.abc import Callable


def decimals(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def kept_score(said: float, rival: float, penalty: float) -> bool:
    return said / penalty > rival


# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "penalty": lambda n, text: "yes" if kept_score(*decimals(text)) else "no",
    "twins": lambda n, text: "yes",
    "min-p": lambda n, text: sum(share >= decimals(text)[0] * decimals(text)[1] for share in decimals(text)[1:]),
    "several answers": lambda n, text: n[0] + (n[1] - 1) * (n[0] - (n[0] - 1) // n[2] * n[2]),
    "end of a grammar": lambda n, text: 1,
}
