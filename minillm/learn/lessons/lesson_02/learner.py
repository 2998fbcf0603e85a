"""What a learner works out from the text of each question: the tests take the quiz of lesson 02 with it."""

from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "prefill": lambda n, text: n[0],
    "decode": lambda n, text: 1,
    "context": lambda n, text: n[0] + 1,
    "new page": lambda n, text: "no",
    "four pages": lambda n, text: n[0],
    "slot": lambda n, text: n[0] * n[1] + n[2],
}
