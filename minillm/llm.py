"""LLM: the engine as a Python object. The interface is vLLM's, so what runs there runs here with its import changed."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

from minillm.config import EngineConfig
from minillm.debug.stops import arm_from_environment
from minillm.engine.client import EngineClient, InProcessClient
from minillm.engine.engine import Engine, Prompt
from minillm.files import read_json
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.text.messages import Message

Params = SamplingParams | Iterable[SamplingParams] | None

# What generation_config.json may say of sampling.
DEFAULTS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    "max_new_tokens": "max_tokens",
}


class LLM:
    """``LLM("nano-llama", page_size=16).generate(["Hello"], SamplingParams(max_tokens=32))``.

    Settings are those of `EngineConfig`, under its names, vLLM's or SGLang's.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        arm_from_environment()
        given = settings if model is None else {"model": model, **settings}  # SGLang calls it model_path
        self.engine = Engine(EngineConfig.from_settings(**given))  # for whoever looks inside
        self.client: EngineClient = InProcessClient(self.engine)

    def get_tokenizer(self) -> Any:
        """The tokenizer as transformers has it, as in vLLM; and ``token(id)``, one token as text."""
        theirs = self.client.tokenizer.transformers
        theirs.token = self.client.tokenizer.token
        return theirs

    def get_default_sampling_params(self) -> SamplingParams:
        """What counts where no sampling parameters are given: what generation_config.json says, else vLLM's own."""
        path = self.client.setup.folder / "generation_config.json"
        raw = read_json(path) if path.exists() else {}
        try:
            return SamplingParams(**{DEFAULTS[name]: raw[name] for name in DEFAULTS if raw.get(name) is not None})
        except ValueError as error:
            raise ValueError(f"{path}: {error}; mend it there, or give sampling_params") from None

    def flush_cache(self) -> bool:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        self.client.flush_cache()
        return True

    reset_prefix_cache = flush_cache  # vLLM's name

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """The answers to one prompt or many, in their order.

        sampling_params: one for all, or one for each; None is `get_default_sampling_params`.
        priority: one for all, or one for each; lower goes first, with ``scheduling_policy="priority"``.
        """
        finals: dict[int, RequestOutput] = {}
        requests = self._add(as_prompts(prompts), sampling_params, priority, stream=False)
        with _progress(len(requests), use_tqdm) as advance:
            for output in self.client.outputs(requests):
                if output.finished:
                    finals[output.request_id] = output
                    advance(sum(len(answer.token_ids) for answer in output.outputs))
        return [finals[request.id] for request in requests]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params = None,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
        **chat: Any,
    ) -> list[RequestOutput]:
        """The assistant's answer to one conversation or to many, through the checkpoint's chat template.

        messages: in OpenAI's form (`minillm.text.messages`). chat: as in vLLM, ``tools``, ``chat_template`` (its text,
            or a file), ``chat_template_kwargs`` (what it may ask for by name, such as ``enable_thinking``),
            ``add_generation_prompt`` (True), ``continue_final_message`` (False).
        """
        return self.generate(self._chat_prompts(messages, **chat), sampling_params, use_tqdm, priority)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        priority: int | Sequence[int] | None = None,
    ) -> Iterator[RequestOutput]:
        """Like `generate`, but an output for every new token; its ``outputs[0].delta`` is the text it adds.

        Leaving the loop early aborts what is unfinished.
        """
        return self.client.outputs(self._add(as_prompts(prompts), sampling_params, priority, stream=True))

    def stream_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params = None,
        priority: int | Sequence[int] | None = None,
        **chat: Any,
    ) -> Iterator[RequestOutput]:
        """Like `chat`, token by token."""
        return self.stream(self._chat_prompts(messages, **chat), sampling_params, priority)

    def _chat_prompts(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[Prompt]:
        several = not messages or isinstance(messages[0], (list, tuple))
        conversations: Any = messages if several else [messages]
        tokenizer = self.client.tokenizer
        texts = [
            tokenizer.apply_chat_template(
                conversation, add_generation_prompt, continue_final_message, tools, chat_template,
                **chat_template_kwargs or {},
            )
            for conversation in conversations
        ]  # fmt: skip
        return [
            {"prompt": text, "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts
        ]

    def _add(
        self, prompts: list[Prompt], params: Params, priority: int | Sequence[int] | None, stream: bool
    ) -> list[Request]:
        """Queue all prompts or, if one is refused, none."""
        given = _one_each("sampling_params", self.get_default_sampling_params() if params is None else params, prompts)
        if wrong := [one for one in given if not isinstance(one, SamplingParams)]:
            raise ValueError(
                f"sampling_params has {wrong[0]!r}; it must be SamplingParams, one for all or one for each prompt"
            )
        priorities = self._priorities(priority, prompts)
        requests: list[Request] = []
        try:
            for prompt, one, rank in zip(prompts, given, priorities):
                requests.append(self.client.add_request(prompt, one, stream, rank))
        except BaseException:
            self.client.abort_all(requests)
            raise
        return requests

    def _priorities(self, priority: int | Sequence[int] | None, prompts: list[Prompt]) -> list[int]:
        """One for each prompt."""
        given = _one_each("priorities", 0 if priority is None else priority, prompts)
        if isinstance(priority, bool) or not all(isinstance(one, Integral) for one in given):
            raise ValueError(f"priority is {priority!r}; it must be a whole number, or one for each prompt")
        policy = self.client.setup.config.scheduling_policy
        if any(given) and policy != "priority":
            raise ValueError(
                f"priority is {priority!r}, but scheduling_policy is {policy!r}; build the LLM with "
                "scheduling_policy='priority', or leave priority out"
            )
        return [int(one) for one in given]


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt (text, ids, a dict) or a sequence of them, as a list."""
    if isinstance(prompts, (str, dict, bytes)) or not isinstance(prompts, Iterable):
        return [prompts]
    if callable(getattr(prompts, "tolist", None)):  # an array of token ids, or of several prompts' token ids
        prompts = prompts.tolist()  # type: ignore[union-attr]
    listed: list[Any] = list(prompts)
    return [listed] if listed and hasattr(listed[0], "__index__") and not getattr(listed[0], "ndim", 0) else listed


def _one_each(name: str, given: Any, prompts: list[Prompt]) -> list[Any]:
    """What was given for each prompt, or for all of them."""
    if not isinstance(given, Iterable) or isinstance(given, (str, dict)):
        return [given] * len(prompts)
    each = list(given)
    if len(each) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(each)} {name}; give one for all, or one for each")
    return each


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
