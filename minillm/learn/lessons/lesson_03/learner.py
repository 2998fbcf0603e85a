"""What a learner works out from the text of each question: the tests take the quiz of lesson 03 with it."""

import re
from collections.abc import Callable


def growth(text: str) -> int:
    lengths = [int(n) for n in re.findall(r"[A-Z] (\d+)", text)]
    return sum(n % 16 == 0 for n in lengths)


# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "first page": lambda n, text: n[-1],
    "pages of a prompt": lambda n, text: (n[0] + n[1] - 1) // n[1],
    "slot": lambda n, text: n[n[-1] // n[-2]] * n[-2] + n[-1] % n[-2],
    "growth": lambda n, text: growth(text),
    "longest context": lambda n, text: max(n) + 1,
    "next page out": lambda n, text: n[-1],
}
