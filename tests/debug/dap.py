"""A small client of the Debug Adapter Protocol, which is what an editor speaks with debugpy.

A program is started under debugpy and waits; `Session` attaches as VS Code does, and then sees what a learner would
see: where it stopped, which variables are there.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

TIMEOUT = 200.0  # seconds for anything: slow machines are no failure, hanging is


class Client:
    """The editor's end of the line: starts what opens a port for it, and connects. Leaves no process behind."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        # With port 0 the system chooses, and debugpy's adapter writes down what.
        self._endpoints = folder / "endpoints.json"
        self.environment = {**os.environ, **environment, "DEBUGPY_ADAPTER_ENDPOINTS": str(self._endpoints)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self._socket: socket.socket | None = None
        try:
            self.connect(self._port())
        except BaseException:
            self.close()
            raise

    def connect(self, port: int) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._stream = self._socket.makefile("rwb")

    def stopped(self) -> "Stop":
        return Stop(self, self.event("stopped")["body"])

    def go_on(self, stop: "Stop") -> None:
        self.ask("continue", threadId=stop.thread)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer's body."""
        return self._answer(self._send(command, arguments))

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; others before it are let go."""
        while True:
            while self._events:
                event = self._events.popleft()
                if event["event"] == name:
                    return event
                assert event["event"] not in ("terminated", "stopped"), f"waiting for {name!r} and got {event}"
            self._receive()

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        # The adapter is nobody's child. What it and the program have in common is the environment they were given.
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEBUGPY_ADAPTER_ENDPOINTS") == str(self._endpoints):
                    process.kill()
            except psutil.Error:
                continue
        self.process.communicate()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _send(self, command: str, arguments: dict[str, Any]) -> int:
        self._number += 1
        self.write(seq=self._number, type="request", command=command, arguments=arguments)
        return self._number

    def _answer(self, number: int) -> dict[str, Any]:
        while number not in self._answers:
            self._receive()
        answer = self._answers.pop(number)
        assert answer["success"], answer
        return answer.get("body", {})

    def _receive(self) -> None:
        length = 0
        while line := self._stream.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert length, "debugpy hung up"
        message = json.loads(self._stream.read(length))
        if message["type"] == "event":
            self._events.append(message)
        elif message["type"] == "response":
            self._answers[message["request_seq"]] = message
        else:
            self.serve(message["command"], message["arguments"], message["seq"])

    def serve(self, command: str, arguments: dict[str, Any], number: int) -> None:
        """What debugpy asks of the editor. An attached one is asked nothing."""
        raise AssertionError(f"debugpy asks for {command}({arguments})")

    def write(self, **message: Any) -> None:
        body = json.dumps(message).encode()
        self._stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._stream.flush()

    def _port(self) -> int:
        def written() -> int | None:
            assert self.process.poll() is None, self.process.communicate()[0]
            text = self._endpoints.read_text() if self._endpoints.exists() else ""
            return json.loads(text)["client"]["port"] if text.endswith("\n") else None

        return _wait(written)


class Session(Client):
    """A script under debugpy that waits for an editor to attach."""

    def __init__(self, script: Path, *arguments: str, environment: dict[str, str], folder: Path) -> None:
        command = ["debugpy", "--listen", "127.0.0.1:0", "--wait-for-client", str(script), *arguments]
        super().__init__(command, environment, folder)

    def attach(self, **arguments: Any) -> None:
        """The handshake of an editor without breakpoints of its own. The program runs once it is done."""
        self.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True)
        attached = self._send("attach", {"justMyCode": False, **arguments})  # answered only after configurationDone
        self.event("initialized")
        self.ask("configurationDone")
        self._answer(attached)

    def ended(self) -> tuple[int, str]:
        """Wait for the program's end: its exit code and what it printed."""
        self.event("terminated")
        self.ask("disconnect")
        output, _ = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output


class Stop:
    """Where a program stands still."""

    def __init__(self, session: Client, body: dict[str, Any]) -> None:
        self._session, self.thread, self.reason = session, body["threadId"], body["reason"]
        self.frames = session.ask("stackTrace", threadId=self.thread)["stackFrames"]

    @property
    def file(self) -> str:
        return self.frames[0]["source"]["path"]

    @property
    def line(self) -> int:
        return self.frames[0]["line"]

    @property
    def function(self) -> str:
        return self.frames[0]["name"]

    def local_variables(self) -> dict[str, str]:
        """What the variables pane shows: name and text of each."""
        scopes = self._session.ask("scopes", frameId=self.frames[0]["id"])["scopes"]
        reference = next(scope["variablesReference"] for scope in scopes if scope["name"] == "Locals")
        shown = self._session.ask("variables", variablesReference=reference)["variables"]
        return {variable["name"]: variable["value"] for variable in shown}

    def evaluate(self, expression: str) -> str:
        """What the watch pane shows for an expression."""
        frame = self.frames[0]["id"]
        return self._session.ask("evaluate", expression=expression, frameId=frame, context="watch")["result"]


def _wait(ready: Callable[[], Any]) -> Any:
    """Ask again and again until something comes."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if (value := ready()) is not None:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"nothing came within {TIMEOUT} seconds")
