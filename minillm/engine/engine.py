"""The engine: it is born from a configuration, takes requests, and makes tokens one step at a time."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from minillm.attention.backend import choose_backend
from minillm.config import EngineConfig, ModelConfig
from minillm.debug.probes import probe, set_step
from minillm.debug.stops import arm_from_environment
from minillm.detokenizer import Detokenizer
from minillm.engine.memory import free_bytes, plan_memory
from minillm.engine.runner import ModelRunner
from minillm.hub import resolve_model
from minillm.kernels.choose import choose_kernels
from minillm.kvcache.pages import PagePool
from minillm.kvcache.prefix import NoPrefixCache
from minillm.kvcache.radix import RadixCache
from minillm.kvcache.storage import KVCache
from minillm.layers.build import LayerBuild
from minillm.models.weights import build_model, load_weights
from minillm.quantization.packed import choose_format
from minillm.request import CompletionOutput, Request, RequestOutput, SamplingParams
from minillm.scheduler.scheduler import Scheduler
from minillm.tokenizer import Tokenizer

# Text, token ids, or a dict with "prompt" or "prompt_token_ids" and perhaps "cache_salt": requests with different salts
# never share cached prefixes, so that nobody can learn from the time it takes what others asked (as in vLLM).
Prompt = str | Sequence[int] | dict[str, Any]
PROMPT_KEYS = {"prompt", "prompt_token_ids", "cache_salt"}


class Engine:
    """One model on one device, and the requests that it serves."""

    def __init__(self, config: EngineConfig) -> None:
        arm_from_environment()
        # 1. What was asked for, and what "auto" means here.
        self.config = config
        self.folder = resolve_model(config.model)
        self.model_config = ModelConfig.from_folder(self.folder)
        self.device, self.dtype, reasons = understand(config, self.model_config)
        config.resolve(_context_limit(config, self.model_config))
        probe.on and probe(
            "engine.config", config=config, model_config=self.model_config, folder=self.folder, reasons=reasons
        )
        self.tokenizer = Tokenizer(resolve_model(config.tokenizer) if config.tokenizer else self.folder)
        # 2. The model: its structure, the memory that it will take, then its weights.
        kernels = choose_kernels(config.kernels, self.device, self.dtype)
        build = LayerBuild(self.dtype, choose_format(self.device, self.dtype, config.pack_weights, kernels), kernels)
        model = build_model(self.model_config, build)
        free = free_bytes(self.device)
        self.memory = plan_memory(config, self.model_config, model, self.dtype, free, cpu=self.device.type == "cpu")
        load_weights(model, self.folder, self.device)
        model.make_tables(config.max_model_len, self.device)  # type: ignore[operator]
        # 3. Where keys and values live, and who works with them.
        pool = PagePool(self.memory.num_pages, self.memory.page_size)
        heads = self.model_config.num_key_value_heads
        cache = KVCache(self.model_config, pool.num_pages, pool.page_size, heads, self.dtype, self.device)
        probe.on and probe("kv.create", cache=cache, pool=pool)
        backend = choose_backend(config.attention_backend, kernels)
        self.scheduler = Scheduler(
            config, pool, RadixCache(pool) if config.prefix_cache == "radix" else NoPrefixCache()
        )
        self.runner = ModelRunner(config, model, cache, backend, self.device)
        self._requests: dict[int, Request] = {}  # not finished yet
        self._detokenizers: dict[int, Detokenizer] = {}
        self._outbox: list[RequestOutput] = []  # empty between steps, unless one was cut short
        self._next_id = 0

    @property
    def model(self) -> torch.nn.Module:
        return self.runner.model

    @property
    def pool(self) -> PagePool:
        return self.scheduler.pool

    @property
    def has_requests(self) -> bool:
        return not self.scheduler.idle or bool(self._outbox)

    def add_request(
        self, prompt: Prompt, params: SamplingParams | None = None, stream: bool = False, priority: int = 0
    ) -> Request:
        """Queue a prompt. ValueError says what is wrong with it; then nothing was queued."""
        params = params or SamplingParams()
        text, token_ids = self._tokens_of(prompt)
        self._check_prompt(token_ids)
        room = self._max_len - len(token_ids)
        request = Request(
            id=self._next_id,
            prompt_ids=token_ids,
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            seed=_seed(self.config.seed, self._next_id) if params.seed is None else params.seed % 2**63,
            prompt=text,
            stop_ids=frozenset(params.stop_token_ids).union(
                () if params.ignore_eos else self.model_config.eos_token_ids
            ),
            stream=stream,
            priority=priority,
            namespace=prompt.get("cache_salt") if isinstance(prompt, dict) else None,
        )
        self.scheduler.add(request)
        self._next_id += 1
        self._requests[request.id] = request
        self._detokenizers[request.id] = Detokenizer(self.tokenizer)
        return request

    def step(self) -> list[RequestOutput]:
        """Schedule, execute, commit. Outputs for requests that ended, and for streaming ones that got a token.

        If it is cut short (Ctrl-C, an error), nothing is lost but its work: the next step does it again.
        """
        if self.scheduler.idle:
            return self._hand_out()
        set_step(self.scheduler.num_steps + 1)
        try:
            plan = self.scheduler.schedule()
            result = self.runner.execute(plan)
            advanced = self.scheduler.commit(plan, result)
        except BaseException:
            self.scheduler.start_over()
            raise
        if self.config.debug_checks:
            self.scheduler.check()
        for request in advanced:
            if request.stream or request.finished:
                self._outbox.append(self._output(request))
        probe.on and probe("engine.step", plan=plan, result=result, outputs=self._outbox, engine=self)
        return self._hand_out()

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        self.scheduler.flush_cache()

    def _hand_out(self) -> list[RequestOutput]:
        outputs, self._outbox = self._outbox, []
        return outputs

    def abort(self, request_id: int) -> RequestOutput | None:
        """End a request now: what it has so far, or None if it had ended already and the output was handed out."""
        kept = [output for output in self._outbox if output.request_id == request_id]
        self._outbox = [output for output in self._outbox if output.request_id != request_id]
        request = self._requests.get(request_id)
        if request is None:
            return kept[-1] if kept else None
        self.scheduler.abort(request)
        return self._output(request)

    def _output(self, request: Request) -> RequestOutput:
        detokenizer = self._detokenizers[request.id]
        new_ids = request.output_ids[len(detokenizer.token_ids) :]
        if request.stop_reason is not None:
            new_ids = new_ids[:-1]  # a stop token ends the text and is no part of it, as in vLLM
        delta = detokenizer.add(new_ids, last=request.finished)
        probe.on and probe("request.text", request=request, delta=delta, text=detokenizer.text)
        if request.finished:
            probe.on and probe("request.finish", request=request, text=detokenizer.text)
            del self._requests[request.id], self._detokenizers[request.id]
        completion = CompletionOutput(
            0, detokenizer.text, list(request.output_ids), request.finish_reason, request.stop_reason, delta=delta
        )
        return RequestOutput(
            request.id, request.prompt, request.prompt_ids, [completion], request.finished, request.num_cached
        )

    def _tokens_of(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, dict):
            if unknown := set(prompt) - PROMPT_KEYS:
                raise ValueError(f"prompt has unknown keys {sorted(unknown)}; known: {', '.join(sorted(PROMPT_KEYS))}")
            text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if token_ids is None:
                return self._tokens_of(text)  # type: ignore[arg-type]
            return text, self._tokens_of(list(token_ids) if isinstance(token_ids, Sequence) else token_ids)[1]
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode(prompt)
        if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
            raise ValueError(
                f"the prompt is {prompt!r}; it must be text, token ids, or a dict with 'prompt' or 'prompt_token_ids'"
            )
        return None, list(prompt)  # type: ignore[arg-type]

    def _check_prompt(self, token_ids: list[int]) -> None:
        V = self.model_config.vocab_size
        if not token_ids:
            raise ValueError("the prompt is empty; give at least one token")
        if wrong := [t for t in token_ids if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < V]:
            raise ValueError(f"token id {wrong[0]!r} is not in the vocabulary, which has ids 0 to {V - 1}")
        if len(token_ids) >= self._max_len:
            raise ValueError(
                f"the prompt has {len(token_ids)} tokens, the context limit (max_model_len) is {self._max_len}, and "
                "at least one token of it must be left for the answer; shorten the prompt or raise max_model_len"
            )

    @property
    def _max_len(self) -> int:
        assert self.config.max_model_len is not None
        return self.config.max_model_len


def understand(config: EngineConfig, model_config: ModelConfig) -> tuple[torch.device, torch.dtype, dict[str, str]]:
    """The device and dtype that a configuration means on this machine, with the reason for each that was "auto"."""
    reasons = {}
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reasons["device"] = f"{device}: torch sees {'a' if device == 'cuda' else 'no'} CUDA device"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else model_config.dtype
        reasons["dtype"] = (
            "float32: exact, and fast on every CPU" if device == "cpu" else f"{dtype}: the checkpoint's own"
        )
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda, or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device here; use device='cpu'")
    return found, getattr(torch, dtype), reasons


def _context_limit(config: EngineConfig, model_config: ModelConfig) -> int:
    longest = model_config.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ValueError(
            f"max_model_len is {config.max_model_len}, but the model was made for at most {longest} positions"
        )
    return config.max_model_len or longest


def _seed(engine_seed: int, request_id: int) -> int:
    """A seed for a request that brought none: the same again when the same program runs again."""
    return random.Random(f"{engine_seed} {request_id}").getrandbits(63)
