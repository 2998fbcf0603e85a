"""Headless Chromium over its DevTools protocol, through two pipes: nothing to install but the browser itself."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "no-first-run",
         "disable-background-networking", "disable-component-update", "disable-sync", "disable-default-apps",
         "no-default-browser-check", "disable-extensions", "remote-debugging-pipe")  # fmt: skip


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One browser with one page. ``requests`` and ``complaints`` gather what the page asked for and complained of."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="minillm-chromium-")
        arguments = [program, *(f"--{name}" for name in QUIET), f"--user-data-dir={self.profile}", "about:blank"]
        to_it, ours = os.pipe()
        theirs, from_it = os.pipe()
        # The protocol wants its pipes as 3 and 4, so they first move out of the way of each other.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_it, from_it)]

        def as_three_and_four() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            arguments, preexec_fn=as_three_and_four, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_it, from_it, *high):
            os.close(end)
        self.into, self.out_of = ours, theirs
        self.buffer, self.last_id = b"", 0
        self.events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)

    session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.last_id += 1
        message: dict[str, Any] = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self._next(deadline)
            if answer is not None and answer.get("id") == self.last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
        raise TimeoutError(f"no answer to {method}")

    def open(self, url: str) -> None:
        """Go there and wait until the page and what it needs have come."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self._wait_for("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return done["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + 20
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {condition}")
            time.sleep(0.05)

    def look(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The window's size, and the colour scheme that the reader's system prefers."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path, whole: bool = True) -> None:
        import base64

        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.session = None
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.into)
        os.close(self.out_of)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _wait_for(self, event: str) -> None:
        deadline = time.monotonic() + 60
        while not any(seen["method"] == event for seen in self.events):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{event} did not come")
            self._next(deadline)

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """The next message; an event is noted and kept."""
        while b"\0" not in self.buffer:
            if not select.select([self.out_of], [], [], max(deadline - time.monotonic(), 0))[0]:
                return None
            read = os.read(self.out_of, 1 << 16)
            if not read:
                raise RuntimeError("the browser has gone")
            self.buffer += read
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.complaints.append(f"{params['response']['status']} {params['response']['url']}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.complaints.append(f"{params['errorText']} ({params['type']})")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
