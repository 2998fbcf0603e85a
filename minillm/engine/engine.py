"""The engine: it is born from a configuration, takes requests, and makes tokens one step at a time."""

import copy
import random
from dataclasses import replace
from functools import partial

import torch

from minillm.attention.backend import choose_backend
from minillm.config import EngineConfig
from minillm.engine.overlap import Overlap
from minillm.hub import resolve_model
from minillm.kernels.choose import choose_kernels
from minillm.kvcache.pages import PagePool
from minillm.kvcache.prefix import NoPrefixCache
from minillm.kvcache.radix import RadixCache
from minillm.kvcache.storage import KVCache
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.weights import build_model, load_weights
from minillm.probe import probe, set_step
from minillm.quantization.dense import choose_format
from minillm.quantization.format import OneFormat
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.sampling.grammar import Grammars
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler
from minillm.setup import context_limit, understand
from minillm.text.answer import Answer, prompt_logprobs
from minillm.text.intake import Prompt, bad_word_ids, check_params, check_prompt, salt_of, tokens_of
from minillm.text.tokenizer import NoTokenizer, Tokenizer
from minillm.worker.device import DeviceMemory, room_for
from minillm.worker.memory import LOWER, measures, plan_memory, refuse_the_impossible
from minillm.worker.runner import ModelRunner, why_eager
from minillm.worker.trial import Trial

__all__ = ["Engine", "Prompt"]


class Engine:
    """One model on one device, and the requests that it serves."""

    def __init__(self, config: EngineConfig) -> None:
        # 1. What was asked for, and what "auto" means here.
        self.config = config
        self.folder = resolve_model(config.model)
        self.model_config = ModelConfig.from_folder(self.folder)
        self.device, self.dtype, reasons = understand(config, self.model_config)
        config.resolve(context_limit(config, self.model_config))
        probe.on and probe(
            "engine.config", config=config, model_config=self.model_config, folder=self.folder, reasons=reasons
        )
        where = resolve_model(config.tokenizer) if config.tokenizer else self.folder
        self.tokenizer = NoTokenizer(where) if config.skip_tokenizer_init else Tokenizer(where)
        # 2. The model: its structure, on no memory yet; then its weights, unless they can never fit.
        memory = DeviceMemory.look(self.device)
        self.kernels = kernels = choose_kernels(config.kernels, self.device, self.dtype)
        format = choose_format(self.device, self.dtype, config.pack_weights, kernels)
        build = LayerBuild(self.dtype, OneFormat(format), kernels)
        model = build_model(self.model_config, build)
        refuse_the_impossible(config, self.model_config, model, self.dtype, memory)
        with room_for("loading the weights", memory, "use a smaller model or dtype, or free the device"):
            load_weights(model, self.folder, self.device, config.load_format)
            model.make_tables(config.max_model_len, self.device)  # type: ignore[operator]
        # 3. What they leave becomes pages, where keys and values live; and who works with these.
        choose = partial(
            choose_backend, config.attention_backend, kernels, num_heads=self.model_config.num_attention_heads
        )
        trial = Trial(config, self.model_config, model, self.dtype, memory, choose, kernels)
        measured = measures(config, memory)
        with room_for("trying the largest step", memory, f"{LOWER}, or use a smaller model"):
            self.memory = plan_memory(
                config, self.model_config, model, self.dtype, memory, trial.measure if measured else None
            )
        pool = PagePool(self.memory.num_pages, self.memory.page_size)
        heads = self.model_config.num_key_value_heads
        with room_for("making the KV cache", memory, "lower gpu_memory_utilization, or say num_pages"):
            cache = KVCache(self.model_config, pool.num_pages, pool.page_size, heads, self.dtype, self.device)
        probe.on and probe("kv.create", cache=cache, pool=pool)
        backend = choose(cache)
        self.scheduler = Scheduler(
            config, pool, RadixCache(pool) if config.prefix_cache == "radix" else NoPrefixCache()
        )
        self.runner = ModelRunner(config, model, cache, backend, self.device)
        self.runner.draws_fast = kernels.name == "triton"
        # Why decode steps are not replayed, if they are not.
        self.eager = why_eager(config, model, backend, self.device)
        probe.on and probe("graph.choose", eager=self.eager, config=config, backend=backend)
        if self.eager is None:
            with room_for("recording CUDA graphs", memory, f"{LOWER}, or set enforce_eager=True"):
                self.runner.record_graphs(config.max_num_seqs, kernels)
        if measured:
            with room_for("warming up", memory, f"lower gpu_memory_utilization, or {LOWER}"):
                trial.warm_up(backend)
                self.runner.sampling.reserve()  # in the room that the trial's rows have left
        self.grammars = Grammars(self.tokenizer, self.model_config.vocab_size, self.model_config.eos_token_ids)
        self.overlap = Overlap(self.scheduler, self.runner, self.grammars) if config.async_scheduling else None
        self._answers: dict[int, list[Answer]] = {}  # by the id of the first one's request, until all have ended
        self._cut_short = False  # whether the last step was
        self._to_tell: dict[int, None] = {}  # whose output is due, in order; empty between steps,
        self._outbox: list[RequestOutput] = []  # as is this, unless one was cut short
        self._next_id = 0

    @property
    def model(self) -> torch.nn.Module:
        return self.runner.model

    @property
    def choices(self) -> dict[str, str]:
        """What "auto" became for all that computes, each with the reason: also why something faster is not there."""
        kernels, backend = self.kernels, self.runner.backend
        return {
            "kernels": f"{kernels.name}: {kernels.reason}",
            "attention_backend": f"{backend.name}: {backend.reason}",
            "recorded steps": f"none: {self.eager}" if self.eager else "replayed",
            "memory": f"{self.memory.num_pages} pages: {self.memory.why}; the largest step {self.memory.how}",
        }

    @property
    def pool(self) -> PagePool:
        return self.scheduler.pool

    @property
    def has_requests(self) -> bool:
        return bool(self._answers or self._outbox)

    def add_request(
        self, prompt: Prompt, params: SamplingParams | None = None, stream: bool = False, priority: int = 0
    ) -> Request:
        """Queue a prompt; the request that stands for it, the first of ``params.n``. ValueError says what is wrong with
        it; then nothing was queued."""
        params = copy.copy(params) if params else SamplingParams()  # what the caller does to them later is his own
        text, token_ids = tokens_of(prompt, self.tokenizer)
        check_prompt(token_ids, self.model_config.vocab_size, self._max_len)
        room = self._max_len - len(token_ids)
        check_params(params, self.model_config.vocab_size, room, self.tokenizer)
        compiled = self.grammars.compile(params.structured_outputs) if params.structured_outputs else None
        eos_ids = frozenset(self.model_config.eos_token_ids)
        stop_ids = frozenset(params.stop_token_ids)
        leader = Request(
            id=self._next_id,
            prompt_ids=token_ids,
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            seed=self._seed(params, self._next_id, 0),
            prompt=text,
            stop_ids=stop_ids if params.ignore_eos else stop_ids | eos_ids,
            stream=stream,
            priority=priority,
            namespace=salt_of(prompt),
            end_ids=stop_ids | eos_ids,
            bad_words=bad_word_ids(params.bad_words, self.tokenizer),
        )
        requests = [leader, *(self._sibling(leader, index) for index in range(1, params.n))]
        self._answers[leader.id] = [Answer(request, self.tokenizer) for request in requests]
        try:
            for request in requests:
                self.scheduler.add(request)
                if compiled is not None:
                    self.grammars.start(request, compiled)
        except BaseException:
            for request in requests:
                self.scheduler.abort(request)
                self.grammars.forget(request)
            del self._answers[leader.id]
            raise
        self._next_id += params.n
        return leader

    def _sibling(self, leader: Request, index: int) -> Request:
        """Another answer to the same prompt: only its seed is another."""
        id = leader.id + index
        seed = self._seed(leader.params, id, index)
        return replace(leader, id=id, seed=seed, leader=leader, index=index, output_ids=[], pages=[], logprobs=[])

    def _seed(self, params: SamplingParams, id: int, index: int) -> int:
        """The user's seed, another for each of several answers; or one that is the same again when the same program
        runs again."""
        if params.seed is not None:
            return (params.seed + index) % 2**63
        return random.Random(f"{self.config.seed} {id}").getrandbits(63)

    def step(self) -> list[RequestOutput]:
        """Schedule, execute, commit. Outputs for requests that ended, and for streaming ones that got a token.

        If it is cut short (Ctrl-C, an error), nothing is lost but its work: the next step does it again.
        """
        try:
            return self._step()
        except BaseException:
            self._cut_short = True
            if self.overlap:
                self.overlap.flying = None
            self.scheduler.start_over()
            raise

    def _step(self) -> list[RequestOutput]:
        if self._cut_short or self.scheduler.idle:  # some may have ended without anyone having been told
            answers = [answer for answers in self._answers.values() for answer in answers]
            self._tell([answer.request for answer in answers if answer.request.finished])
            self._cut_short = False
        if self.scheduler.idle:
            if self.overlap:
                self.overlap.flying = None  # rows of requests that have ended: nobody waits for them
            return self._hand_out()
        set_step(self.scheduler.num_steps + 1)
        done = self.overlap.step() if self.overlap else self._step_now()
        if done is None:
            return self._hand_out()
        plan, result = done
        for id, (position, logprobs) in result.prompt_logprobs.items():
            if id in self._answers:
                self._answers[id][0].request.take_prompt_logprobs(position, logprobs)
        advanced = self.scheduler.commit(plan, result)
        if self.config.debug_checks:
            self.scheduler.check()
        self._tell(advanced)
        probe.on and probe("engine.step", plan=plan, result=result, outputs=self._outbox, engine=self)
        return self._hand_out()

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        self.scheduler.flush_cache()

    def _step_now(self) -> tuple[StepPlan, StepResult]:
        """A step from plan to result."""
        plan = self.scheduler.schedule()
        plan.masks = self.grammars.masks(plan)
        return plan, self.runner.execute(plan)

    def _tell(self, advanced: list[Request]) -> None:
        """Make outputs for requests that got a token, as far as anyone is to hear of it."""
        for request in advanced:
            if request.stream or request.finished or request.params.stop:
                leader = request.leader or request
                answers = self._answers[leader.id]
                answers[request.index].read()
                if request.finished:
                    self.scheduler.end(request)  # if it was its text that ended it
                if request.stream or all(answer.request.finished for answer in answers):
                    self._to_tell[leader.id] = None  # once, however many of its answers went on
        while self._to_tell:
            id = next(iter(self._to_tell))
            if id in self._answers:
                self._outbox.append(self._output(id))
            self._to_tell.pop(id, None)

    def _hand_out(self) -> list[RequestOutput]:
        outputs, self._outbox = self._outbox, []
        return outputs

    def abort(self, request_id: int) -> RequestOutput | None:
        """End a request now: what it has so far, or None if it had ended already and the output was handed out."""
        kept = [output for output in self._outbox if output.request_id == request_id]
        self._outbox = [output for output in self._outbox if output.request_id != request_id]
        answers = self._answers.get(request_id)
        if answers is None:
            return kept[-1] if kept else None
        self._to_tell.pop(request_id, None)
        for answer in answers:
            self.scheduler.abort(answer.request)
            answer.read()
        return self._output(request_id)

    def _output(self, id: int) -> RequestOutput:
        """What there is of all answers to a prompt. If all have ended, it is forgotten here."""
        answers = self._answers[id]
        leader, finished = answers[0].request, all(answer.request.finished for answer in answers)
        for answer in answers if finished else ():
            request, detokenizer = answer.request, answer.detokenizer
            probe.on and probe("request.finish", request=request, text=detokenizer.text)
            self.grammars.forget(request)
        output = RequestOutput(
            id, leader.prompt, leader.prompt_ids, [answer.completion() for answer in answers], finished,
            leader.num_cached, prompt_logprobs(leader, self.tokenizer) if finished else None,
        )  # fmt: skip
        if finished:
            del self._answers[id]
        return output

    @property
    def _max_len(self) -> int:
        assert self.config.max_model_len is not None
        return self.config.max_model_len
