"""``minillm generate``: prompts in, answers out."""

import sys
import time
from typing import Any

from minillm.cli.guard import deferred_interrupt
from minillm.debug import open_line
from minillm.debug.profiler import profiled
from minillm.debug.views.profile_table import show_profile
from minillm.kvcache.pages import pages_for
from minillm.llm import LLM
from minillm.request import RequestOutput, SamplingParams


def run(
    prompts: list[str], model: str, params: SamplingParams, settings: dict[str, Any], stream: bool, chat: bool | None,
    profile: str | None = None,
) -> None:  # fmt: skip
    """Answer all prompts in one batch; a line of statistics goes to stderr. ``chat`` None: if the model knows how.
    ``profile``: where a trace goes, if one is wanted."""
    prompts = [read_stdin() if prompt == "-" else prompt for prompt in prompts]
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty; give it some text, or - to read standard input")
    llm = LLM(model, **settings)
    printer = Printer(prompts, stream, params.n)
    finals: list[RequestOutput] = []
    if llm.client.tokenizer.has_chat_template if chat is None else chat:
        outputs = llm.stream_chat([[{"role": "user", "content": prompt}] for prompt in prompts], params)
    else:
        outputs = llm.stream(prompts, params)
    with profiled(llm.engine, profile, show_profile), deferred_interrupt() as interrupt:
        start = time.perf_counter()
        for output in outputs:
            if interrupt.asked:
                raise KeyboardInterrupt
            printer.take(output)
            if output.finished:
                finals.append(output)
        seconds = time.perf_counter() - start
    print(statistics(llm, finals, seconds), file=sys.stderr)


def read_stdin() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt is -, which reads standard input, but that is no UTF-8 text ({error})") from None
    if not text:
        raise ValueError("the prompt is -, which reads standard input, but there was nothing in it")
    return text


class Printer:
    """Prints answers in the order of their prompts, ``n`` to each. Several are made at once; one whose turn has not
    come waits."""

    def __init__(self, prompts: list[str], stream: bool, n: int = 1) -> None:
        self.prompts, self.stream, self.n = prompts, stream, n
        self.first_id: int | None = None
        self.turn = 0  # whose answer is being printed
        self.texts = [""] * len(prompts) * n  # made, not yet printed
        self.done = [False] * len(prompts) * n
        self.headed = -1

    def take(self, output: RequestOutput) -> None:
        if self.first_id is None:
            self.first_id = output.request_id  # the oldest request answers first
        for i, answer in enumerate(output.outputs, output.request_id - self.first_id):  # each of n has a number
            self.texts[i] += answer.delta
            self.done[i] = output.finished or answer.finish_reason is not None
        while self.turn < len(self.texts) and (self.stream or self.done[self.turn]):
            self._print()
            if not self.done[self.turn]:
                return
            open_line.stream("\n")
            self.turn += 1

    def _print(self) -> None:
        """What there is of the answer whose turn it is."""
        if self.headed < self.turn and len(self.texts) > 1:
            prompt = self.prompts[self.turn // self.n].replace("\n", " ")
            number = f"{self.turn // self.n + 1}" + (f".{self.turn % self.n + 1}" if self.n > 1 else "")
            print(f"{chr(10) if self.turn else ''}[{number}] {prompt[:100]}{'...' if len(prompt) > 100 else ''}")
            self.headed = self.turn
        open_line.stream(self.texts[self.turn])
        self.texts[self.turn] = ""


def statistics(llm: LLM, finals: list[RequestOutput], seconds: float) -> str:
    """One line: tokens in and out, speed, pages."""
    pool = llm.engine.pool
    prompt = sum(len(output.prompt_token_ids) for output in finals)
    made = sum(len(answer.token_ids) for output in finals for answer in output.outputs)
    # The last token of an answer is never computed, so it has no place in the cache.
    lengths = [
        len(output.prompt_token_ids) + len(answer.token_ids) - 1 for output in finals for answer in output.outputs
    ]
    pages = sum(pages_for(length, pool.page_size) for length in lengths)
    return (
        f"[{prompt} prompt tokens, {made} generated in {seconds:.2f} s: {made / seconds:.1f} tokens/s; "
        f"{pages} of {pool.num_pages} pages of {pool.page_size} tokens]"
    )
