"""Build 2's seam: attention whose decode is the learner's kernel. Prompts are gathered, as in the reference."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton.load import interpreter
from minillm.kvcache.storage import KVCache
from minillm.learn.build import Build
from minillm.learn.build_views import Served
from minillm.learn.builds.build_2.watch import Watch
from minillm.learn.mine import MineError
from minillm.learn.timing import time_steps
from minillm.request import SamplingParams
from minillm.worker import platform

Decode = Callable[..., None]
PROMPTS = ["What is a page?", "The engine writes down where", "Why is decode slow?", "Who waits, and for what?"]
READ_ON = """\
The engine's own is _paged_decode in minillm/kernels/triton/attention.py, and what is worked out before it is launched
in minillm/attention/triton.py: it cuts a long context into splits, knows windows, and stands in recorded steps."""


@dataclass
class Singles:
    """Requests with one token."""

    num_requests: int
    lengths: Tensor  # [R] int32, on the device
    queries = 1


class MyAttention(GatherAttention):
    """Decode by ``theirs``. watched: what its last call did to memory, where it is interpreted."""

    name = "build2"
    recordable: tuple[str, ...] = ()
    gathers = False
    reason = "yours, from my/build2.py"

    def __init__(self, shape: AttentionShape, theirs: Decode) -> None:
        super().__init__(shape)
        self.num_read = self.num_needed = 0  # numbers of keys and values so far: read, and there to be read
        if any(window is not None for window in shape.windows):
            raise ValueError("this model has layers with a sliding window, and build 2's kernel knows none")
        self.theirs = theirs
        self.watched: Watch | None = None

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> Singles:
        lengths = torch.tensor(batch.context_lens[: batch.num_single], dtype=torch.int32)
        return Singles(batch.num_single, lengths.to(self.shape.device))

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: Singles) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``."""
        kv, table = batch.kv_cache[layer], batch.page_table[: len(q)]
        out = q.new_full(q.shape, float("nan"))  # what is not written is seen
        self.watched = None
        given = {"q": q, "the page table": table, "the lengths": plan.lengths}
        if q.device.type == "cpu":
            self.watched = Watch(kv.tensor, given, out)
        with unwrapped(), self.watched or nullcontext():
            self.theirs(q, kv.keys, kv.values, table, plan.lengths, self.shape.scale, out)
        if self.watched:
            self.num_read += self.watched.num_read
            self.num_needed += sum(batch.context_lens[: len(q)]) * kv.slots.shape[1]
        return out.view(len(q), -1)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Inside, an error in an interpreted kernel is that error, at its line; Triton's interpreter wraps it."""
    try:
        yield
    except Exception as error:
        inner: BaseException = error
        while type(inner).__name__ == "InterpreterError" and inner.__cause__ is not None:
            inner = inner.__cause__
        if inner is error:
            raise
        raise inner from None


@contextmanager
def placed(load: Callable[[], ModuleType]) -> Iterator[None]:
    """Inside, engines are made with the ``paged_decode`` of the module that ``load`` gives: interpreted, or compiled
    where there is a GPU."""
    with nullcontext() if torch.cuda.is_available() else interpreter() as why_not:
        if why_not:
            raise MineError(f"the kernel cannot run here: {why_not}")
        theirs, own = load().paged_decode, platform.choose_backend

        def mine(name: str, kernels: TorchKernels, shape: AttentionShape, cache: KVCache) -> AttentionBackend:
            return MyAttention(shape, theirs)

        platform.choose_backend = mine
        try:
            yield
        finally:
            platform.choose_backend = own


def ours() -> AbstractContextManager[None]:
    """The other side of a race: the engine's own kernel, behind the same contract."""
    return placed(partial(import_module, "minillm.learn.builds.build_2.ours"))


def about_the_race() -> str:
    if torch.cuda.is_available():
        return f"Both compiled by Triton for {torch.cuda.get_device_name()}."
    return "There is no GPU: both are interpreted, and how long that takes says nothing about the kernels."


def serve(build: Build) -> Served:
    """A few prompts on the bundled model; on a GPU more of them, and longer answers."""
    from minillm.learn.workload import make_engine  # here: a seam is looked at without an engine, too

    fast = torch.cuda.is_available()
    prompts, max_tokens = (PROMPTS * 8, 128) if fast else (PROMPTS[:2], 4)
    engine = make_engine(num_pages=1024, max_model_len=512, enforce_eager=True, async_scheduling=False)
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    requests = [engine.add_request(prompt, params) for prompt in prompts]
    seconds, _ = time_steps(engine)
    backend = engine.runner.backend
    assert isinstance(backend, MyAttention)
    times = backend.num_read / backend.num_needed if backend.num_needed else 0.0
    facts = {} if fast else {"times each key and value is read": (times, "", "lower")}
    return Served(sum(seconds), [request.output_ids for request in requests], facts)
