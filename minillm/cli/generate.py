"""``minillm generate``: prompts in, answers out."""

import sys
import time
from typing import Any

from minillm.cli.guard import deferred_interrupt
from minillm.debug import open_line
from minillm.kvcache.pages import pages_for
from minillm.llm import LLM
from minillm.request import RequestOutput, SamplingParams


def run(
    prompts: list[str], model: str, params: SamplingParams, settings: dict[str, Any], stream: bool, chat: bool | None
) -> None:
    """Answer all prompts in one batch; a line of statistics goes to stderr. ``chat`` None: if the model knows how."""
    prompts = [read_stdin() if prompt == "-" else prompt for prompt in prompts]
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty; give it some text, or - to read standard input")
    llm = LLM(model, **settings)
    printer = Printer(prompts, stream)
    finals: list[RequestOutput] = []
    start = time.perf_counter()
    if llm.get_tokenizer().has_chat_template if chat is None else chat:
        outputs = llm.stream_chat([[{"role": "user", "content": prompt}] for prompt in prompts], params)
    else:
        outputs = llm.stream(prompts, params)
    with deferred_interrupt() as interrupt:
        for output in outputs:
            if interrupt.asked:
                raise KeyboardInterrupt
            printer.take(output)
            if output.finished:
                finals.append(output)
    print(statistics(llm, finals, time.perf_counter() - start), file=sys.stderr)


def read_stdin() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt is -, which reads standard input, but that is no UTF-8 text ({error})") from None
    if not text:
        raise ValueError("the prompt is -, which reads standard input, but there was nothing in it")
    return text


class Printer:
    """Prints answers in the order of their prompts. Several are made at once; one whose turn has not come waits."""

    def __init__(self, prompts: list[str], stream: bool) -> None:
        self.prompts, self.stream = prompts, stream
        self.first_id: int | None = None
        self.turn = 0  # whose answer is being printed
        self.texts = [""] * len(prompts)  # made, not yet printed
        self.done = [False] * len(prompts)
        self.headed = -1

    def take(self, output: RequestOutput) -> None:
        if self.first_id is None:
            self.first_id = output.request_id  # the oldest request answers first
        i = output.request_id - self.first_id
        self.texts[i] += output.outputs[0].delta
        self.done[i] = output.finished
        while self.turn < len(self.prompts) and (self.stream or self.done[self.turn]):
            self._print()
            if not self.done[self.turn]:
                return
            open_line.stream("\n")
            self.turn += 1

    def _print(self) -> None:
        """What there is of the answer whose turn it is."""
        if self.headed < self.turn and len(self.prompts) > 1:
            prompt = self.prompts[self.turn].replace("\n", " ")
            print(f"{chr(10) if self.turn else ''}[{self.turn + 1}] {prompt[:100]}{'...' if len(prompt) > 100 else ''}")
            self.headed = self.turn
        open_line.stream(self.texts[self.turn])
        self.texts[self.turn] = ""


def statistics(llm: LLM, finals: list[RequestOutput], seconds: float) -> str:
    """One line: tokens in and out, speed, pages."""
    pool = llm.engine.pool
    prompt = sum(len(output.prompt_token_ids) for output in finals)
    made = sum(len(output.outputs[0].token_ids) for output in finals)
    # The last token of an answer is never computed, so it has no place in the cache.
    lengths = [len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1 for output in finals]
    pages = sum(pages_for(length, pool.page_size) for length in lengths)
    return (
        f"[{prompt} prompt tokens, {made} generated in {seconds:.2f} s: {made / seconds:.1f} tokens/s; "
        f"{pages} of {pool.num_pages} pages of {pool.page_size} tokens]"
    )
