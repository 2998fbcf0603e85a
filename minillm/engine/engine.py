"""The engine: a core that makes tokens, and text before and after it."""

import dataclasses
import random

import torch

from minillm.config import EngineConfig
from minillm.engine.core import EngineCore
from minillm.engine.overlap import Overlap
from minillm.hub import resolve_model
from minillm.kvcache.pages import PagePool
from minillm.model_config import ModelConfig
from minillm.probe import probe
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.scheduler.scheduler import Scheduler
from minillm.setup import Setup
from minillm.text.answer import Answer, prompt_logprobs
from minillm.text.intake import Prompt, bad_word_ids, check_params, check_prompt, salt_of, tokens_of
from minillm.text.tokenizer import NoTokenizer, Tokenizer
from minillm.worker.memory import MemoryPlan
from minillm.worker.runner import ModelRunner
from minillm.worker.worker import Worker

__all__ = ["Engine", "Prompt"]


class Engine:
    """One model on one machine, and the requests that it serves: prompts in, `RequestOutput` out."""

    def __init__(self, config: EngineConfig) -> None:
        # 1. What was asked for, and what it means here.
        self.config, self.setup = config, Setup.of(config)
        setup = self.setup
        probe.on and probe(
            "engine.config", config=config, model_config=setup.model_config, folder=setup.folder, reasons=setup.reasons,
            setup=setup,
        )  # fmt: skip
        # 2. Text; then all that computes: model, memory, cache (worker/worker.py).
        where = resolve_model(config.tokenizer) if config.tokenizer else setup.folder
        self.tokenizer = NoTokenizer(where) if config.skip_tokenizer_init else Tokenizer(where)
        self.core = EngineCore(setup, self.tokenizer)
        # 3. Who is to be told what.
        self._answers: dict[int, list[Answer]] = {}  # by the id of the first one's request, until all have ended
        self._cut_short = False  # whether the last step was
        self._to_tell: dict[int, None] = {}  # whose output is due, in order; empty between steps,
        self._outbox: list[RequestOutput] = []  # as is this, unless one was cut short
        self._next_id = 0

    @property
    def has_requests(self) -> bool:
        return bool(self._answers or self._outbox)

    def add_request(
        self, prompt: Prompt, params: SamplingParams | None = None, stream: bool = False, priority: int = 0
    ) -> Request:
        """Queue a prompt; the request that stands for it, the first of ``params.n``. ValueError says what is wrong with
        it; then nothing was queued."""
        # A copy: what the caller does to them later is his own. Made anew, to check what was set since they were.
        params = dataclasses.replace(params) if params else SamplingParams()
        text, token_ids = tokens_of(prompt, self.tokenizer)
        vocab_size, max_len = self.model_config.vocab_size, self.setup.max_model_len
        check_prompt(token_ids, vocab_size, max_len)
        room = max_len - len(token_ids)
        check_params(params, vocab_size, room, self.tokenizer)
        eos_ids = frozenset(self.core.eos_ids)
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
        seeds = (self._seed(params, leader.id + index, index) for index in range(1, params.n))
        requests = [leader, *(leader.sibling(index, seed) for index, seed in enumerate(seeds, 1))]
        answers = [Answer(request, self.tokenizer) for request in requests]
        self.core.add(requests, params.structured_outputs)
        self._answers[leader.id] = answers
        self._next_id += params.n
        return leader

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
            self.core.start_over()
            raise

    def _step(self) -> list[RequestOutput]:
        if self._cut_short or self.core.idle:  # some may have ended without anyone having been told
            answers = [answer for answers in self._answers.values() for answer in answers]
            self._tell([answer.request for answer in answers if answer.request.finished])
            self._cut_short = False
        done = self.core.step()
        if done is None:
            return self._hand_out()
        plan, result, advanced = done
        for id, (position, logprobs) in result.prompt_logprobs.items():
            if id in self._answers:
                self._answers[id][0].request.take_prompt_logprobs(position, logprobs)
        self._tell(advanced)
        probe.on and probe("engine.step", plan=plan, result=result, outputs=self._outbox, engine=self)
        return self._hand_out()

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        self.core.flush_cache()

    def _tell(self, advanced: list[Request]) -> None:
        """Make outputs for requests that got a token, as far as anyone is to hear of it."""
        for request in advanced:
            if request.stream or request.finished or request.params.stop:
                leader = request.leader or request
                answers = self._answers[leader.id]
                answers[request.index].read()
                if request.finished:
                    self.core.end(request)  # if it was its text that ended it
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
            self.core.abort(answer.request)
            answer.read()
        return self._output(request_id)

    def _output(self, id: int) -> RequestOutput:
        """What there is of all answers to a prompt. If all have ended, it is forgotten here."""
        answers = self._answers[id]
        leader, finished = answers[0].request, all(answer.request.finished for answer in answers)
        for answer in answers if finished else ():
            request, detokenizer = answer.request, answer.detokenizer
            probe.on and probe("request.finish", request=request, text=detokenizer.text)
            self.core.forget(request)
        output = RequestOutput(
            id, leader.prompt, leader.prompt_ids, [answer.completion() for answer in answers], finished,
            leader.num_cached, prompt_logprobs(leader, self.tokenizer) if finished else None,
        )  # fmt: skip
        if finished:
            del self._answers[id]
        return output

    # What lies further down, for whoever looks: a debugger, a lesson, a benchmark.

    @property
    def model_config(self) -> ModelConfig:
        return self.setup.model_config

    @property
    def device(self) -> torch.device:
        return self.setup.device

    @property
    def dtype(self) -> torch.dtype:
        return self.setup.dtype

    @property
    def scheduler(self) -> Scheduler:
        return self.core.scheduler

    @property
    def pool(self) -> PagePool:
        return self.core.scheduler.pool

    @property
    def overlap(self) -> Overlap | None:
        return self.core.overlap

    @property
    def memory(self) -> MemoryPlan:
        return self.core.executor.memory

    @property
    def worker(self) -> Worker:
        """The rank in this process."""
        return self.core.executor.worker

    @property
    def runner(self) -> ModelRunner:
        return self.worker.runner

    @property
    def model(self) -> torch.nn.Module:
        """The model, or this rank's part of it."""
        return self.worker.model

    @property
    def choices(self) -> dict[str, str]:
        """What "auto" became for all that computes, each with the reason: also why something faster is not there."""
        worker = self.worker
        kernels, backend, memory = worker.platform.kernels, worker.runner.backend, self.memory
        return self.setup.reasons | {
            "kernels": f"{kernels.name}: {kernels.reason}",
            "attention_backend": f"{backend.name}: {backend.reason}",
            "recorded steps": f"none: {worker.eager}" if worker.eager else "replayed",
            "end of an answer": self.core.ends,
            "memory": f"{memory.num_pages} pages: {memory.why}; the largest step {memory.how}",
        }
