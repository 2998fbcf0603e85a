"""What a learner works out from the text of each question: the tests take the quiz of lesson 17 with it."""

import re
from collections.abc import Callable


def chosen(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", re.findall(r"token by token: (.*)\. How", text)[0])]


def likeliest(text: str) -> int:
    shares = {int(expert): int(share) for expert, share in re.findall(r"(\d+) (\d+)%", text)}
    return max(shares, key=lambda expert: shares[expert])


# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "rows of a layer": lambda n, text: n[1] * n[2],
    "likeliest expert": lambda n, text: likeliest(text),
    "sum of the weights": lambda n, text: 100,
    "rows of one expert": lambda n, text: chosen(text).count(n[-1]),
    "first of the groups": lambda n, text: min(n[1:]),
}
