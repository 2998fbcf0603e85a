"""What a learner works out from the text of each question: the tests take the quiz of lesson 04 with it."""

import re
from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "static admits": lambda n, text: "no",
    "continuous admits": lambda n, text: "yes",
    "who comes in": lambda n, text: re.findall(r"and ([A-Z])", text)[0],
    "requests of a step": lambda n, text: min(4, len(re.findall(r"\b[A-Z]\b", text))),
    "tokens of a step": lambda n, text: n[0] + n[1],
}
