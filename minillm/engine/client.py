"""EngineClient: an engine as its users see it, wherever its core runs. `LLM` talks to one, and so does whatever serves.

Several callers may want answers at the same time, also from several threads, and a step makes outputs for all of them.
So a client does not hand out steps but, to each caller, the outputs of its own requests.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator

from minillm.engine.engine import Engine, Prompt
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.setup import Setup
from minillm.text.tokenizer import Tokenizer


class EngineClient(ABC):
    """What there is to do with an engine: queue a prompt, wait for outputs, give up on one."""

    setup: Setup
    tokenizer: Tokenizer

    def __init__(self) -> None:
        self._others: dict[int, list[RequestOutput]] = {}  # outputs of requests that another call is waiting for
        self._lock = threading.RLock()  # one caller at a time adds, waits or aborts

    def add_request(self, prompt: Prompt, params: SamplingParams, stream: bool, priority: int) -> Request:
        """Queue a prompt. ValueError says what is wrong with it; then nothing was queued."""
        with self._lock:
            request = self.queue(prompt, params, stream, priority)
            self._others[request.id] = []  # at once: another thread's wait may bring its first output
            return request

    @abstractmethod
    def queue(self, prompt: Prompt, params: SamplingParams, stream: bool, priority: int) -> Request:
        """`add_request`, in the engine."""

    @abstractmethod
    def wait(self) -> list[RequestOutput]:
        """The next outputs, of whichever requests; none is no sign that all have ended."""

    @property
    @abstractmethod
    def has_requests(self) -> bool:
        """Whether any request has not ended, or has an output that nobody has got."""

    @abstractmethod
    def abort(self, request_id: int) -> RequestOutput | None:
        """End a request now: what it has so far, or None if it had ended already and the output was handed out."""

    @abstractmethod
    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""

    def outputs(self, requests: list[Request]) -> Iterator[RequestOutput]:
        """The outputs of these requests until they have ended. Left early (an error, Ctrl-C, a closed loop), they are
        aborted."""
        outputs = self._outputs(requests)
        next(outputs)  # to its first yield: a generator that never began would not abort them either
        return outputs  # type: ignore[return-value]

    def _outputs(self, requests: list[Request]) -> Generator[RequestOutput | None, None, None]:
        open_ids = {request.id for request in requests}
        try:
            yield None
            while open_ids:
                for output in self._next_outputs(open_ids):
                    if output.finished:
                        open_ids.discard(output.request_id)
                    yield output
        finally:
            self.abort_all(requests, open_ids)

    def _next_outputs(self, ids: set[int]) -> Iterable[RequestOutput]:
        """Outputs for these requests: what an interleaved call has put by for them, else the next that come."""
        with self._lock:
            return self._next(ids)

    def _next(self, ids: set[int]) -> list[RequestOutput]:
        if not any(self._others[id] for id in ids):
            for output in self.wait():
                if output.request_id in self._others:
                    self._others[output.request_id].append(output)
            if not self.has_requests:
                for id in [id for id in ids if not self._others[id]]:
                    # It ended where nobody looked: in a step that was cut short, or aborted by somebody else.
                    if final := self.abort(id):
                        self._others[id].append(final)
                    else:
                        ids.discard(id)
        waiting = [output for id in sorted(ids) for output in self._others[id]]
        for id in ids:
            self._others[id] = []
        return waiting

    def abort_all(self, requests: Iterable[Request], open_ids: set[int] | None = None) -> None:
        """Nobody waits for these any more: those that are open (all, unless it is said) end now."""
        with self._lock:
            for request in requests:
                if open_ids is None or request.id in open_ids:
                    self.abort(request.id)
                self._others.pop(request.id, None)


class InProcessClient(EngineClient):
    """The engine is here, in the caller's own thread: who waits for an output makes the step that brings it. So there
    is one thread to step through, from a prompt into the model and back."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine, self.setup, self.tokenizer = engine, engine.setup, engine.tokenizer

    def queue(self, prompt: Prompt, params: SamplingParams, stream: bool, priority: int) -> Request:
        return self.engine.add_request(prompt, params, stream, priority)

    def wait(self) -> list[RequestOutput]:
        return self.engine.step()

    @property
    def has_requests(self) -> bool:
        return self.engine.has_requests

    def abort(self, request_id: int) -> RequestOutput | None:
        return self.engine.abort(request_id)

    def flush_cache(self) -> None:
        with self._lock:
            self.engine.flush_cache()
