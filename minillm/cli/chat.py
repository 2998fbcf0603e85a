"""``minillm chat``: a conversation in the terminal, or through a pipe."""

import sys
from contextlib import closing, suppress
from typing import Any

from minillm.cli.guard import deferred_interrupt
from minillm.debug import open_line
from minillm.llm import LLM
from minillm.request import SamplingParams
from minillm.text.messages import Message

HELP = """\
/reset   forget the conversation and begin a new one
/help    this
/exit    end, as Ctrl-D does
Ctrl-C   stop the answer that is being made, and keep what there is of it"""


def run(model: str, params: SamplingParams, settings: dict[str, Any], system: str | None) -> None:
    """Read lines and answer them until the input ends or someone leaves."""
    session = ChatSession(LLM(model, **settings), params, system)
    # If there is no template, say so right away.
    session.llm.client.tokenizer.apply_chat_template([{"role": "user", "content": ""}])
    if sys.stdin.isatty():
        _remember_lines()
        note(f"{model}; /help lists the commands, Ctrl-D ends")
    while (line := read_line()) is not None:
        command = line.strip()
        if command in ("/exit", "/quit", "exit", "quit"):
            return
        if command == "/reset":
            session.reset()
            note("forgotten; a new conversation begins")
        elif command == "/help":
            print(HELP, flush=True)
        elif command.startswith("/"):
            note(f"unknown command {command.split()[0]}; /help lists them")
        elif command:
            session.answer(line)


class ChatSession:
    """The conversation so far, and the model that goes on with it."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None = None) -> None:
        self.llm, self.params = llm, params
        self.system: list[Message] = [{"role": "system", "content": system}] if system else []
        self.turns: list[Message] = []  # user, assistant, user, ...

    def reset(self) -> None:
        self.turns = []

    def answer(self, text: str) -> None:
        """Print the answer as it is made, and remember it. Ctrl-C stops it; what it said stays said."""
        self.turns.append({"role": "user", "content": text})
        if not self.make_room():
            self.turns.pop()
            note("this message alone is too long for the model's context; nothing was sent")
            return
        said, reason = "", None
        try:
            outputs = self.llm.stream_chat(self.system + self.turns, self.params)
        except ValueError as error:
            self.turns.pop()
            note(f"nothing was sent: {error}")
            return
        # Closed before its end, the stream aborts the request in the engine.
        with deferred_interrupt() as interrupt, closing(outputs):  # type: ignore[type-var]
            for output in outputs:
                said, reason = output.outputs[0].text, output.outputs[0].finish_reason
                open_line.stream(output.outputs[0].delta)
                if interrupt.asked:
                    break
        open_line.stream("\n")
        if interrupt.asked:
            note("stopped")
        elif reason == "length":
            note("cut off: the answer reached --max-tokens or the context limit")
        self.turns.append({"role": "assistant", "content": said})

    def make_room(self) -> bool:
        """Drop the oldest turns until prompt and answer fit the context. False if not even the last message does."""
        limit = self.llm.engine.setup.max_model_len
        assert limit is not None
        for_answer = min(self.params.max_tokens or limit, limit // 4)
        dropped = 0
        while self._prompt_length() + for_answer > limit and len(self.turns) > 1:
            del self.turns[:2]  # a question and its answer
            dropped += 1
        if dropped:
            note(f"the conversation outgrew the context of {limit} tokens; dropped the {dropped} oldest turn(s)")
        return self._prompt_length() < limit

    def _prompt_length(self) -> int:
        return len(self.llm.client.tokenizer.encode_chat(self.system + self.turns))


def read_line() -> str | None:
    """The next line, None at the end of the input. Ctrl-C clears a line that is being typed."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        return input("> ")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        note("Ctrl-D or /exit ends")
        return ""


def note(text: str) -> None:
    """Something about the conversation that is no part of it."""
    print(f"[{text}]", file=sys.stderr, flush=True)


def _remember_lines() -> None:
    """Arrow keys edit and recall lines, where the system has readline; they are kept in memory only."""
    with suppress(ImportError):
        import readline  # noqa: F401 (importing it is what gives `input` its history)
