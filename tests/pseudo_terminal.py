"""A program in a real terminal: what it shows, and keys that are pressed."""

import os
import re
import select
import struct
import time
from pathlib import Path


class Terminal:
    """``with Terminal(...) as terminal``: `until` some words are on the screen, then `press`."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], columns: int = 100) -> None:
        import fcntl
        import pty
        import termios

        self.process, self.file = pty.fork()
        if not self.process:
            os.chdir(folder)
            os.execvpe(command[0], command, {**environment, "TERM": "xterm-256color"})
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.seen = self.everything = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process:
            os.kill(self.process, 9)
            os.waitpid(self.process, 0)
        os.close(self.file)

    def until(self, words: str, seconds: float = 40) -> str:
        """What was shown since the last time, up to these words."""
        end = time.monotonic() + seconds
        while words not in self.seen and time.monotonic() < end and self._read():
            pass
        assert words in self.seen, f"{words!r} never came; there was\n{self.everything}"
        before, _, self.seen = self.seen.partition(words)
        return before + words

    def press(self, keys: str) -> None:
        os.write(self.file, keys.encode())

    def ended(self, seconds: float = 30) -> int:
        """Its exit status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read()
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.process = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it has not ended; there was\n{self.everything}")

    def _read(self) -> bool:
        """A little more; False at the end."""
        if not select.select([self.file], [], [], 0.2)[0]:
            return True
        try:
            raw = os.read(self.file, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            return False
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw).replace("\r", "")
        self.seen += text
        self.everything += text
        return bool(raw)
