"""VS Code's part in F5, without VS Code.

A real F5 is put together from three: VS Code replaces the variables of the configuration, the Python extension adds the
interpreter and starts debugpy's adapter, and the adapter asks VS Code to run the program in a terminal.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from debug.dap import TIMEOUT, Client


class Editor(Client):
    """One debugging session of a launch configuration whose variables have been replaced."""

    def __init__(self, settings: dict[str, Any], environment: dict[str, str], folder: Path) -> None:
        self.settings = settings
        self.terminal: subprocess.Popen[str] | None = None
        super().__init__(["debugpy.adapter", "--host", "127.0.0.1", "--port", "0"], environment, folder)

    def start(self, breakpoints: dict[Path, list[int]] | None = None) -> None:
        """What happens between F5 and the program's first line. ``breakpoints``: the learner's own, by file."""
        self.ask(
            "initialize",
            clientID="vscode",
            adapterID="debugpy",
            pathFormat="path",
            linesStartAt1=True,
            columnsStartAt1=True,
            supportsRunInTerminalRequest=True,
        )
        started = self._send(self.settings["request"], {"python": [sys.executable], **self.settings})
        self.event("initialized")
        for file, lines in (breakpoints or {}).items():
            self.ask("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": line} for line in lines])
        self.ask("setExceptionBreakpoints", filters=["uncaught"])  # what VS Code ticks by itself
        self.ask("configurationDone")
        self._answer(started)

    def serve(self, command: str, arguments: dict[str, Any], number: int) -> None:
        """Open a terminal, which is all that debugpy asks of an editor."""
        assert command == "runInTerminal" and arguments["kind"] == "integrated", (command, arguments)
        self.terminal = subprocess.Popen(
            arguments["args"],
            cwd=arguments["cwd"],
            env={**self.environment, **arguments.get("env", {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.write(seq=number, type="response", request_seq=number, command=command, success=True, body={})

    def ended(self) -> tuple[int, str]:
        """Wait for the program's end: its exit code, and what the terminal shows."""
        code = self.event("exited")["body"]["exitCode"]
        self.event("terminated")
        self.ask("disconnect")
        assert self.terminal
        output, _ = self.terminal.communicate(timeout=TIMEOUT)
        return code, output

    def stop_it(self) -> None:
        """Shift+F5: the program is gone, wherever it stood."""
        self.ask("disconnect", terminateDebuggee=True)
        assert self.terminal
        self.terminal.communicate(timeout=TIMEOUT)

    def child(self) -> "Child":
        """Wait until the program starts another Python, which debugpy follows: VS Code opens a session for it too."""
        return Child(self.event("debugpyAttach")["body"])

    def close(self) -> None:
        super().close()
        if self.terminal:
            self.terminal.communicate()


class Attached(Editor):
    """The same for "request": "attach": the program runs already and waits, with an adapter of its own."""

    def __init__(self, settings: dict[str, Any], command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.settings, self.terminal = settings, None
        assert command[0] == "-m"
        Client.__init__(self, command[1:], environment, folder)
        assert self._socket and self._socket.getpeername()[1] == int(settings["connect"]["port"])

    def ended(self) -> tuple[int, str]:
        self.event("terminated")
        self.ask("disconnect")
        output, _ = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output


class Child(Editor):
    """The session of a process that a debugged program has started. Its adapter is the program's."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.connect(settings["connect"]["port"])

    def ended(self) -> tuple[int, str]:
        self.event("terminated")
        self.ask("disconnect")
        return 0, ""

    def close(self) -> None:
        if self._socket:
            self._socket.close()
