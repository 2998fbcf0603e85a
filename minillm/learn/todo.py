"""`Todo`: what the body of an exercise raises until the learner has written it."""


class Todo(Exception):
    """``raise Todo("3.1")``. It is no failure: tests skip on it, a lesson ends with the hint command."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def first(self) -> "Todo":
        """The one that was reached first: tidying up after it, the engine may have come by another."""
        before = self.__context__
        return before.first() if isinstance(before, Todo) else self

    def __str__(self) -> str:
        return f"exercise {self.task} is still to be written; a hint: python -m minillm learn hint {self.task}"
