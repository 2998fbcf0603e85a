"""Tapes: what is recorded on a CPU is run again on the same memory, without its Python, as a CUDA graph does it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minillm.attention.backend import NotRecordable
from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.worker.capture import GraphRecorder, Recorder, TapeRecorder

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
each_device = pytest.mark.parametrize("device", DEVICES)


def recorder_on(device: str) -> Recorder:
    return TapeRecorder(TorchKernels()) if device == "cpu" else GraphRecorder()


def numbers(*given: float, device: str) -> Tensor:
    return torch.tensor(given, device=device)


@each_device
def test_a_replay_sees_what_was_written_and_nothing_else(device: str) -> None:
    """The three traps: a number from Python, a tensor that was replaced, Python that does not run."""
    x, factor, runs = numbers(1.0, 2.0, device=device), 10, []
    names = {"y": numbers(1.0, 1.0, device=device)}

    def function() -> Tensor:
        runs.append(1)
        return x * factor + names["y"]

    with torch.inference_mode():
        recording, result = recorder_on(device).record(function)
        count = len(runs)
        x.copy_(numbers(3.0, 4.0, device=device))
        recording.replay()
        assert result.tolist() == [31.0, 41.0]
        old = names["y"]  # a graph would read its memory after somebody else has it
        factor, names["y"] = 100, numbers(5.0, 5.0, device=device)
        recording.replay()
    assert result.tolist() == [31.0, 41.0] and len(runs) == count and old.tolist() == [1.0, 1.0]


@each_device
def test_views_and_writing_in_place(device: str) -> None:
    """Views of inputs and of what was made, in-place operators through them, and results that are several tensors."""
    x, total = torch.arange(6.0, device=device).view(2, 3), torch.zeros(3, device=device)

    def function() -> tuple[Tensor, Tensor, Tensor]:
        made = x * 2
        made[0] += 1  # through a view
        first, second = made.t().reshape(6).chunk(2)  # reshape copies here
        top, at = made.max(dim=0)
        total.add_(top)
        return first.clone(), second, at

    with torch.inference_mode():
        recording, results = recorder_on(device).record(function)
        for new in (torch.tensor([[9.0, 1, 2], [3, 4, 5]]), torch.tensor([[-1.0, 8, 0], [7, 7, 7]])):
            x.copy_(new)
            before = total.clone()
            recording.replay()
            made = new * 2
            made[0] += 1
            flat, (top, at) = made.t().reshape(6), made.max(dim=0)
            assert [one.tolist() for one in results] == [flat[:3].tolist(), flat[3:].tolist(), at.tolist()]
            assert (total - before).tolist() == top.tolist()


@each_device
def test_random_programs_replay_as_they_run(device: str) -> None:
    """Chains of operators, views and in-place writes, drawn at random; run in Python they are the oracle."""
    operators: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda a, b: a + b, lambda a, b: a.mul_(0.5), lambda a, b: a.t().contiguous().t(), lambda a, b: a.roll(1, 1),
        lambda a, b: a.reshape(-1).flip(0).view(3, 3), lambda a, b: torch.where(a > b, a, b), lambda a, b: a.cumsum(0),
        lambda a, b: a.copy_(b) if a.shape == b.shape else a, lambda a, b: a.softmax(-1), lambda a, b: a.clone(),
    ]  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        chosen = [operators[i] for i in torch.randint(len(operators), (8,), generator=draw).tolist()]
        x, state = torch.randn(3, 3, generator=draw).to(device), torch.randn(3, 3, generator=draw).to(device)

        def function(x: Tensor = x, state: Tensor = state, chosen: list = chosen) -> Tensor:
            made = x + 1
            for one in chosen:
                made = one(made, state)
            state.add_(made.mean())
            return made

        with torch.inference_mode():
            start = state.clone()
            recording, result = recorder_on(device).record(function)
            for _ in range(2):
                x.copy_(torch.randn(3, 3, generator=draw))
                state.copy_(start)
                right = function().clone()
                after = state.clone()
                state.copy_(start)
                recording.replay()
                torch.testing.assert_close(result, right)
                torch.testing.assert_close(state, after)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.tolist(), lambda x: x.sum().item(), lambda x: int(x[0]), lambda x: 1 if x.any() else 0,
        lambda x: x.numpy(), lambda x: x[x > 1], lambda x: x.nonzero(), lambda x: x.unique(),
        lambda x: torch.bincount(x.long()), lambda x: x.masked_select(x > 1), lambda x: [float(one) for one in x],
    ],
)  # fmt: skip
def test_what_depends_on_numbers_cannot_be_recorded(reads: Callable[[Tensor], object]) -> None:
    x = torch.tensor([1.0, 2.0])
    with torch.inference_mode():
        with pytest.raises(NotRecordable, match=r"cannot be recorded: .*enforce_eager=True"):
            TapeRecorder(TorchKernels()).record(lambda: reads(x))
        _, result = TapeRecorder(TorchKernels()).record(lambda: x + 1)  # nothing is left behind
    assert result.tolist() == [2.0, 3.0] and reads(x) is not None


def test_tapes_that_take_turns_share_their_memory() -> None:
    recorder, x = TapeRecorder(TorchKernels()), torch.ones(64)
    with torch.inference_mode():
        large, big = recorder.record(lambda: (x * 2).exp().sum(dim=0, keepdim=True))
        bytes_of_large = recorder.pool.num_bytes
        small, little = recorder.record(lambda: (x[:8] * 3).exp().sum(dim=0, keepdim=True))
        assert recorder.pool.num_bytes == bytes_of_large
        for _ in range(2):
            large.replay()
            assert big.item() == pytest.approx(64 * torch.tensor(2.0).exp().item())
            small.replay()
            assert little.item() == pytest.approx(8 * torch.tensor(3.0).exp().item())


def test_compiled_functions_are_heard_while_a_tape_records_and_no_longer() -> None:
    heard, kernels = [], TorchKernels()
    cache, slots, rows = torch.zeros(4, 2), torch.tensor([2, -1, 0]), torch.arange(6.0).view(3, 2)
    with kernels.launches_go_through(lambda function, *arguments: (heard.append(function), function(*arguments))):
        kernels.store(cache, slots, rows)
    assert len(heard) == 1 and cache.tolist() == [[4, 5], [0, 0], [0, 1], [0, 0]]  # -1 is nowhere
    with pytest.raises(IndexError):
        kernels.store(cache, slots, rows)
    assert len(heard) == 1


def test_compiled_kernels_leave_nobodys_rows_alone() -> None:
    """A negative slot is stored nowhere; a context of no tokens gives zeros."""
    kernels = cpu.load(torch.float32)
    if kernels is None:
        pytest.skip("no C++ compiler here")
    qkv, cos, sin = torch.randn(3, 4 * 8), torch.ones(3, 8), torch.zeros(3, 8)
    cache = torch.zeros(6, 2 * 8)
    kernels.rotate_and_store(qkv, cos, sin, cache, torch.tensor([4, -1, 0]), 2, 1)
    assert torch.equal(cache[[4, 0]], qkv[[0, 2], 16:]) and not cache[[1, 2, 3, 5]].any()
    q, table = qkv[:, :16].reshape(3, 2, 8), torch.zeros(3, 2, dtype=torch.int64)
    out = kernels.paged_decode(q, cache, table, torch.tensor([1, 0, 1]), 3, 1, 1.0)
    assert not out[1].any() and torch.equal(out[0], cache[0, 8:].repeat(2))
