"""What a learner works out from the text of each question: the tests take the quiz of lesson 10 with it."""

from collections.abc import Callable

# A question's name -> (the numbers in its text, the text) -> the answer.
ANSWERS: dict[str, Callable[[list[int], str], object]] = {
    "tokens that a plan names": lambda n, text: 0,
    "position without a token": lambda n, text: n[0],
    "last one in flight": lambda n, text: "no" if n[1] + 1 == n[0] else "yes",
    "row of one that has ended": lambda n, text: "yes",
    "grammar and overlap": lambda n, text: "no",
}
