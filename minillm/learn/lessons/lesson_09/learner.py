"""What a learner works out from the text of each question: the tests take the quiz of lesson 09 with it."""

from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "size of the step": lambda n, text: min(size for size in n[1:] if size >= n[0]),
    "prompt in the step": lambda n, text: "no",
    "rows of padding": lambda n, text: min(size for size in n[1:] if size >= n[0]) - n[0],
    "slots that are written": lambda n, text: n[1],
    "length of a row": lambda n, text: n[0] + 1,
}
