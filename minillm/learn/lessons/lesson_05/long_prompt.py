"""Three requests that write, and a long prompt that comes among them: when does each token come out?"""

import time
from dataclasses import dataclass, field
from itertools import pairwise

from minillm.debug.views.batch_table import batch_table
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.timeline import Cell, SeatLog, Track, token_timeline
from minillm.engine.engine import Engine
from minillm.hub import resolve_model
from minillm.learn.asking import ask
from minillm.learn.example import OTHER_ENDING, TALK, conversation, running_example
from minillm.model_config import ModelConfig
from minillm.probe import Event, listen
from minillm.request import Request
from minillm.text.tokenizer import Tokenizer

SHORT = "a question", "another ending", "code"  # of the running example
LONG = 800  # tokens of the long prompt; less if the model's context is shorter


@dataclass
class Served:
    """One run. Times are seconds from its start.

    times: for each request, when each of its tokens came. arrived: when each was added; the long one is the last.
    mixed: the batch table of one step with decode rows and a part of the long prompt.
    """

    seats: SeatLog = field(default_factory=SeatLog)
    arrived: list[float] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    mixed: Drawing | None = None

    @property
    def gaps(self) -> list[float]:
        """The times between tokens of all but the long one."""
        return [gap for times in self.times[:-1] for gap in between(times)]

    @property
    def longest_gap(self) -> float:
        return max(self.gaps)

    @property
    def first_token(self) -> float:
        """How long the long one waited for its first token."""
        return self.times[-1][0] - self.arrived[-1]

    @property
    def seconds(self) -> float:
        return max(times[-1] for times in self.times)

    @property
    def chunks(self) -> int:
        """The steps that the long prompt took."""
        return sum(Cell(len(self.times) - 1, "prefill") in seats.values() for seats in self.seats.steps)

    def in_time(self, until: float) -> Drawing:
        """Who computes what, and when a token comes out, to the scale of a run of ``until`` seconds."""
        tracks = [Track(i, *facts) for i, facts in enumerate(zip(self.arrived, self.times, strict=True))]
        return token_timeline(tracks, until=1.4 * until)


def between(times: list[float]) -> list[float]:
    """From each token to the next."""
    return [later - earlier for earlier, later in pairwise(times)]


@dataclass
class Traffic:
    """Prompts, the long one last. The others want ``writes`` tokens each; the long one comes when they have written
    ``arrives`` of them, and wants ``answer``."""

    prompts: list[list[int]]
    writes: int = 36
    answer: int = 8
    arrives: int = 12

    def serve(self, engine: Engine) -> Served:
        """Let it all come in, and note when each token comes."""
        served, start = Served(), time.perf_counter()
        requests: list[Request] = []

        def add(prompt_ids: list[int], tokens: int) -> None:
            requests.append(ask(engine, prompt_ids, tokens))
            served.arrived.append(time.perf_counter() - start)
            served.times.append([])

        def plan(event: Event) -> None:
            served.seats.note(event)
            if served.mixed is None and len(event.plan.rows) > 3 and event.plan.rows[-1].start > 0:
                served.mixed = batch_table(event.plan, requests, engine.config.max_num_batched_tokens)

        for prompt_ids in self.prompts[:-1]:
            add(prompt_ids, self.writes)
        with listen("scheduler.plan", plan):
            while engine.has_requests:
                if len(requests) < len(self.prompts) and len(requests[0].output_ids) == self.arrives:
                    add(self.prompts[-1], self.answer)
                engine.step()
                now = time.perf_counter() - start
                for request, times in zip(requests, served.times, strict=True):
                    if len(times) < len(request.output_ids):
                        times.append(now)
        served.tokens = [request.output_ids for request in requests]
        return served


def example_traffic(tokenizer: Tokenizer, context: int, own: str | None) -> Traffic:
    """The running example's three short prompts (one may be the reader's own), and its long talk over and over."""
    example = running_example(tokenizer, own)
    talk = conversation(tokenizer, TALK * 12, OTHER_ENDING)[: min(LONG, context - Traffic.answer)]
    return Traffic([*(example[name] for name in SHORT), talk])


def context_limit(model: str) -> int | None:
    """None is the model's own. A longer context than 2048 is cut: without chunks, a step must hold all of it."""
    longest = ModelConfig.from_folder(resolve_model(model)).max_position_embeddings
    return 2048 if longest > 2048 else None
