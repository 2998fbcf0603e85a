"""What checkpoints share: comparisons that say in the engine's words what is wrong, and runs against Hugging Face."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tiny import Oracle
from torch import Tensor
from workload import Job, assert_idle, make_engine, run_jobs

PLAIN = {"kernels": "torch", "attention_backend": "reference"}
PROMPTS = [tuple(range(5, 25)), (7,), tuple(range(90, 40, -3)), (11, 4, 200, 33, 33)]  # 20, 1, 17 and 5 tokens


def close(got: Any, right: Tensor, what: str, axes: str, tolerance: float = 1e-4) -> None:
    """``got`` is ``right``; else the first number that is not, each of its indices with its axis's name.

    axes: ``"token head number"``.
    """
    names = axes.split()
    assert isinstance(got, Tensor), f"{what}: a tensor [{', '.join(names)}] was wanted, this is {got!r}"
    assert list(got.shape) == list(right.shape), (
        f"{what} has the shape {list(got.shape)}; [{', '.join(names)}] is {list(right.shape)}"
    )
    wrong = ~((got.double() - right.double()).abs() <= tolerance * (1 + right.double().abs()))  # NaN is wrong too
    if wrong.any():
        index = tuple(int(i) for i in wrong.nonzero()[0])
        place = ", ".join(f"{name} {i}" for name, i in zip(names, index))
        raise AssertionError(
            f"{what}: at {place} it is {float(got[index]):.5g}, and {float(right[index]):.5g} is right"
        )


def whole_numbers(got: Any, right: list[int], what: str, axis: str) -> list[int]:
    """``got`` is one row of as many whole numbers as ``right``, an array or a tensor; its numbers as a list."""
    assert list(got.shape) == [len(right)], (
        f"{what} have the shape {list(got.shape)}; one number for each {axis}, [{len(right)}], is right"
    )
    kind = str(got.dtype).removeprefix("torch.")
    assert kind.startswith(("int", "uint")), f"{what} are numbers of type {kind}; whole ones, int64, are right"
    return got.tolist()


def refuses(call: Callable[[], Any], error: type[Exception], what: str) -> str:
    """The call raises this error; what the error says."""
    try:
        got = call()
    except error as raised:
        return str(raised)
    except Exception as other:
        if isinstance(other, AssertionError) or type(other).__name__ == "Todo":
            raise
        raise AssertionError(
            f"{what}: {error.__name__} is right, and {type(other).__name__} was raised: {other}"
        ) from other
    raise AssertionError(f"{what}: {error.__name__} is right, and nothing was raised; {got!r} came back")


def tokens_of_hugging_face(oracle: Oracle, jobs: Sequence[Job], **settings: Any) -> None:
    """An engine with these settings writes, for every job, the tokens that Hugging Face's model writes."""
    engine = make_engine(oracle.folder, **{**PLAIN, **settings})
    run = run_jobs(engine, jobs)
    for request, job in enumerate(jobs):
        right, got = oracle.greedy(list(job.prompt), job.max_tokens), run.tokens(request)
        first = next((i for i, pair in enumerate(zip(got, right)) if pair[0] != pair[1]), min(len(got), len(right)))
        assert got == right, (
            f"the engine: request {request} answers with other tokens than Hugging Face from position "
            f"{len(job.prompt) + first} on: {got[first : first + 4]}, and {right[first : first + 4]} is right"
        )
    assert_idle(engine)


def jobs_for(prompts: Sequence[Sequence[int]] = PROMPTS, max_tokens: int = 12, gap: int = 0) -> list[Job]:
    """A job for each prompt, the next one ``gap`` steps after the one before."""
    return [Job(tuple(prompt), max_tokens, arrives=i * gap) for i, prompt in enumerate(prompts)]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
