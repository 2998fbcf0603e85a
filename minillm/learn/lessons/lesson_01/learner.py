"""What a learner works out from the text of each question: the tests take the quiz of lesson 01 with it."""

import re
from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "rows of logits": lambda n, text: 1,
    "scores": lambda n, text: 4096,
    "greedy": lambda n, text: "yes",
    "candidates": lambda n, text: re.findall(r"top_k=(\d+)", text)[0],
    "next step": lambda n, text: n[1] + 1,
}
