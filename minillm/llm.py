"""LLM: the engine as a Python object. The interface is vLLM's, so what runs there runs here with its import changed."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from minillm.config import EngineConfig
from minillm.engine.engine import Engine, Prompt
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.tokenizer import Message, Tokenizer


class LLM:
    """``LLM("nano-llama", page_size=16).generate(["Hello"], SamplingParams(max_tokens=32))``.

    Settings are those of `EngineConfig`, under its names, vLLM's or SGLang's.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        given = settings if model is None else {"model": model, **settings}  # SGLang calls it model_path
        self.engine = Engine(EngineConfig.from_settings(**given))
        self._others: dict[int, list[RequestOutput]] = {}  # outputs of requests that another call is waiting for

    def get_tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """The answers to one prompt or many, in their order. ``sampling_params``: one for all, or one for each."""
        finals: dict[int, RequestOutput] = {}
        requests = self._add(as_prompts(prompts), sampling_params, stream=False)
        with _progress(len(requests), use_tqdm) as advance:
            for output in self._run(requests):
                if output.finished:
                    finals[output.request_id] = output
                    advance(sum(len(answer.token_ids) for answer in output.outputs))
        return [finals[request.id] for request in requests]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """The assistant's answer to one conversation or to many, through the checkpoint's chat template."""
        return self.generate(self._chat_prompts(messages), sampling_params, use_tqdm)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Iterator[RequestOutput]:
        """Like `generate`, but an output for every new token; its ``outputs[0].delta`` is the text it adds.

        Leaving the loop early aborts what is unfinished.
        """
        return self._run(self._add(as_prompts(prompts), sampling_params, stream=True))

    def stream_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Iterator[RequestOutput]:
        """Like `chat`, token by token."""
        return self.stream(self._chat_prompts(messages), sampling_params)

    def _chat_prompts(self, messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Prompt]:
        several = not messages or not isinstance(messages[0], dict)
        conversations: Any = messages if several else [messages]
        tokenizer = self.engine.tokenizer
        texts = [tokenizer.apply_chat_template(list(conversation)) for conversation in conversations]
        return [
            {"prompt": text, "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts
        ]

    def _add(
        self, prompts: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None, stream: bool
    ) -> list[Request]:
        """Queue all prompts or, if one is refused, none."""
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts, but {len(params)} sampling_params; give one for all, or one for each"
            )
        requests: list[Request] = []
        try:
            for prompt, one in zip(prompts, params):
                requests.append(self.engine.add_request(prompt, one, stream))
        except BaseException:
            self._abort(requests)
            raise
        return requests

    def _run(self, requests: list[Request]) -> Iterator[RequestOutput]:
        """Step until these requests have ended. Left early (an error, Ctrl-C, a closed loop), they are aborted."""
        outputs = self._outputs(requests)
        next(outputs)  # to its first yield: a generator that never began would not abort them either
        return outputs

    def _outputs(self, requests: list[Request]) -> Generator[Any, None, None]:
        open_ids = {request.id for request in requests}
        self._others.update({request.id: [] for request in requests})
        try:
            yield
            while open_ids:
                for output in self._next_outputs(open_ids):
                    if output.finished:
                        open_ids.discard(output.request_id)
                    yield output
        finally:
            self._abort(request for request in requests if request.id in open_ids)
            for request in requests:
                self._others.pop(request.id, None)

    def _next_outputs(self, ids: set[int]) -> Iterable[RequestOutput]:
        """Outputs for these requests: what an interleaved call has put by for them, else those of the next step."""
        if not any(self._others[id] for id in ids):
            for output in self.engine.step():
                if output.request_id in self._others:
                    self._others[output.request_id].append(output)
            if not self.engine.has_requests:
                for id in [id for id in ids if not self._others[id]]:
                    # It ended where nobody looked: in a step that was cut short, or aborted by somebody else.
                    if final := self.engine.abort(id):
                        self._others[id].append(final)
                    else:
                        ids.discard(id)
        waiting = [output for id in sorted(ids) for output in self._others[id]]
        for id in ids:
            self._others[id] = []
        return waiting

    def _abort(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.engine.abort(request.id)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt (text, ids, a dict) or a sequence of them, as a list."""
    if isinstance(prompts, (str, dict, bytes)) or not isinstance(prompts, Iterable):
        return [prompts]
    listed: list[Any] = list(prompts)
    return [listed] if listed and isinstance(listed[0], int) else listed


class _progress:
    """A bar of finished requests and tokens a second, on standard error. Enters as ``advance(tokens)``."""

    def __init__(self, total: int, wanted: bool) -> None:
        self.total, self.wanted = total, wanted
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not self.wanted:
            return lambda _tokens: None
        import time

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        task = self.bar.add_task("Generating", total=self.total, speed="")
        start, tokens = time.perf_counter(), 0
        self.bar.start()

        def advance(count: int) -> None:
            nonlocal tokens
            tokens += count
            self.bar.update(task, advance=1, speed=f"{tokens / (time.perf_counter() - start):.0f} tokens/s")

        return advance

    def __exit__(self, *_exc: object) -> None:
        if self.bar:
            self.bar.stop()
