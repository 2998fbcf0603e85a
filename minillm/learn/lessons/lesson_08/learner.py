"""What a learner works out from the text of each question: the tests take the quiz of lesson 08 with it."""

from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "query heads of a program": lambda n, text: n[0] // n[1],
    "last page of the walk": lambda n, text: n[2:][(n[0] - 1) // n[1]],
    "splits": lambda n, text: -(-n[0] // (n[1] * n[2])),
    "sum of a context": lambda n, text: "no",
}
