#!/usr/bin/env python3
"""One command from a fresh clone to a running lesson or to the tests.

    python3 scripts/start.py lesson 03     run lesson 03; what follows goes to the lesson (--plain, --step, ...)
    python3 scripts/start.py test          run the tests; what follows goes to pytest (-k pages, -x, ...)
    python3 scripts/start.py setup         only set up; extras may follow: setup dev docs

It needs nothing but Python 3.10 and makes its own virtual environment, so that nothing else on the machine changes.
When all is in place it only looks at a small stamp file and hands over, which takes a few hundredths of a second.
"""

import sys

# Before anything that an older Python could trip over, so that its user reads this and not a traceback.
if sys.version_info < (3, 10):  # noqa: UP036 (the very point: this file also starts under the Pythons we do not support)
    sys.stderr.write(
        f"minillm needs Python 3.10 or newer; this is {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}).\n"
        "Install a newer one and start with it, for example: python3.12 scripts/start.py lesson 01\n"
    )
    sys.exit(1)

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = os.name == "nt"
STAMP = "minillm-ready.json"  # in the environment: what was installed there, see `describe`
PIP_LOG = "minillm-pip.log"  # in the environment: everything pip said the last time
HEARTBEAT = 10.0  # seconds between signs of life where the output is not a terminal

USAGE = """\
usage: python3 scripts/start.py [--venv DIR] COMMAND ...

  lesson NN [...]     run lessons/NN_*.py; what follows is the lesson's:  lesson 03 --plain
  test [...]          run the tests; what follows is pytest's:            test -k pages -x
  setup [EXTRA ...]   only set up; extras of pyproject.toml may follow:   setup dev

Each of them first makes .venv and installs what it needs, if that is not done yet (the first time takes minutes).
--venv DIR, or the environment variable MINILLM_VENV, takes another folder than .venv.
"""

# What pip's message means, for those who have not met it: (a pattern in pip's output, what to do).
ADVICE = (
    (
        r"No space left on device",
        "The disk is full. PyTorch takes more than 1 GB, with the CUDA libraries (Linux) several.",
    ),
    (
        r"from versions: none\)[\s\S]*No matching distribution found for torch",
        "PyTorch has no build for this Python ({python}) on this machine, or the package index was out of reach.\n"
        "Try a Python between 3.10 and 3.13 (64 bit); Macs with an Intel processor have no recent PyTorch.",
    ),
    (
        r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ProxyError|is unreachable|ConnectionReset",
        "The package index was out of reach. Check the network (or the proxy: HTTPS_PROXY) and run the same command\n"
        "again; what is already downloaded is kept.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "A certificate was refused. Behind a company proxy set PIP_CERT to its certificate file.",
    ),
    (
        r"ResolutionImpossible|conflicting dependencies",
        "An extra constraint disagrees with constraints.txt. Is PIP_CONSTRAINT set?",
    ),
    (
        r"Permission denied|Access is denied",
        "A file could not be written. Close programs that use the environment, or take another --venv.",
    ),
)
NOISE = ("Requirement already satisfied", "Collecting", "Obtaining", "  Using cached", "  Downloading")


class Failure(Exception):
    """Something the user has to know: the text is shown as it is, `status` becomes the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


# ---------------------------------------------------------------------------------------------------------- the command


def main(argv: list[str]) -> int:
    """Read the command line, do it, and return the exit status."""
    try:
        return command(argv)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print("\nStopped. The same command, given again, goes on from here.", file=sys.stderr)
        return 130


def command(argv: list[str]) -> int:
    venv, rest = split_venv(argv)
    if not rest or rest[0] in ("-h", "--help", "help") or rest[1:2] in (["-h"], ["--help"]):
        print(USAGE + "\n" + lesson_list())
        return 0
    name, arguments = rest[0], rest[1:]
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if name == "lesson":
        if not arguments:
            raise Failure("Which lesson?\n\n" + lesson_list(), status=2)
        script = find_lesson(arguments[0])  # before the set-up: a typing mistake should not cost minutes
        python = set_up(venv, [])
        return hand_over([str(python), str(script), *arguments[1:]])
    if name == "test":
        python = set_up(venv, ["dev"])
        os.chdir(ROOT)  # pytest takes its settings and its test paths from the folder it starts in
        return hand_over([str(python), "-m", "pytest", "-n", "2", "-p", "randomly", *arguments])
    if name == "setup":
        check_extras(arguments)
        python = set_up(venv, arguments)
        print(f"Ready: {python}")
        return 0
    raise Failure(f"There is no command {name!r}.\n\n{USAGE}", status=2)


def split_venv(argv: list[str]) -> tuple[Path, list[str]]:
    """Take ``--venv DIR`` out of the arguments, wherever it stands before a ``--``. Returns the folder and the rest."""
    end = argv.index("--") if "--" in argv else len(argv)
    chosen, rest, words = os.environ.get("MINILLM_VENV") or ROOT / ".venv", [], iter(argv[:end])
    for word in words:
        if word == "--venv" or word.startswith("--venv="):
            chosen = next(words, "") if word == "--venv" else word.partition("=")[2]
            if not chosen:
                raise Failure("--venv needs a folder.", status=2)
        else:
            rest.append(word)
    return Path(os.path.abspath(Path(chosen).expanduser())), rest + argv[end:]


def lessons() -> dict[str, Path]:
    """Number -> script, in order."""
    found = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
    return {path.name[:2]: path for path in found}


def find_lesson(word: str) -> Path:
    """The script for ``3``, ``03`` or ``03_paged_attention``."""
    wanted = word.removesuffix(".py")
    for number, path in lessons().items():
        if wanted == path.stem or (wanted.isdecimal() and int(wanted) == int(number)):
            return path
    raise Failure(f"There is no lesson {word!r}.\n\n{lesson_list()}", status=2)


def lesson_list() -> str:
    """The lessons there are, each with the first line of its docstring."""
    lines = [f"  {number}  {path.stem[3:]:<24} {first_line(path)}".rstrip() for number, path in lessons().items()]
    return "\n".join(["Lessons:", *lines]) if lines else f"There are no lessons in {ROOT / 'lessons'}."


def first_line(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, OSError, UnicodeDecodeError):  # a lesson that is being written right now
        return ""
    return text.partition("\n")[0].encode("ascii", "replace").decode()  # a Windows console may know no more than that


def check_extras(names: list[str]) -> None:
    """Pip only warns of an unknown extra; a typing mistake had better stop."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10, hence by hand
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    known = re.findall(r"^([\w-]+)\s*=", table, flags=re.MULTILINE)
    for name in names:
        if name not in known:
            raise Failure(f"There is no extra {name!r}; there are: {', '.join(known)}.", status=2)


def hand_over(arguments: list[str]) -> int:
    """Run the program in our place; its exit status is ours."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see minillm/openmp.py; whatever the program imports first
    if not WINDOWS:
        os.execv(arguments[0], arguments)  # signals, the terminal and the exit status are then the program's own
    process = subprocess.Popen(arguments)  # Windows' exec returns to the prompt at once, so wait there
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


# ------------------------------------------------------------------------------------------------------ the environment


def set_up(venv: Path, extras: list[str]) -> Path:
    """Have the project and these extras installed in the environment; return its Python. Quick when all is there."""
    python = interpreter(venv)
    if is_ready(venv, extras):
        return python
    started = time.monotonic()
    if not (ROOT / "pyproject.toml").is_file() or not (ROOT / "constraints.txt").is_file():
        raise Failure(f"{ROOT} is not a whole copy of the project: pyproject.toml or constraints.txt is missing.")
    extras = sorted({*extras, *read_stamp(venv).get("extras", [])})  # what is there stays up to date
    fresh = not usable(venv)
    if fresh:
        announce(venv)
        make_venv(venv)
    else:
        print(f"minillm: bringing {venv} up to date (mostly less than a minute) ...", flush=True)
    (venv / STAMP).unlink(missing_ok=True)  # from here until pip is through, it is not ready
    install(venv, extras)
    write_stamp(venv, extras)
    print(f"minillm: ready after {time.monotonic() - started:.0f} s.\n", flush=True)
    return python


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if WINDOWS else "bin/python")


def describe(venv: Path) -> dict[str, object]:
    """What the environment depends on; when any of it changes, pip is asked again."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        path = ROOT / name
        digest.update(path.read_bytes() if path.is_file() else b"")
        digest.update(b"\0")
    return {
        "files": digest.hexdigest(),
        "root": str(ROOT),  # the editable install points there: a moved clone needs a new one
        "python": os.path.realpath(interpreter(venv)),  # another one after an upgrade of the system's Python
    }


def read_stamp(venv: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, extras: list[str]) -> None:
    text = json.dumps({**describe(venv), "extras": extras}, indent=1)
    part = venv / (STAMP + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(venv / STAMP)  # all or nothing: no half-written stamp is ever read


def is_ready(venv: Path, extras: list[str]) -> bool:
    """Whether nothing has to be done. Only looks at small files: this is on the way of every start."""
    stamp = read_stamp(venv)
    return (
        interpreter(venv).exists()  # false too for a link to a Python that is gone
        and home_exists(venv)
        and all(stamp.get(key) == value for key, value in describe(venv).items())
        and set(extras) <= set(stamp.get("extras", []))
    )


def home_exists(venv: Path) -> bool:
    """Whether the Python it was made from is still there: on Windows, that ``python.exe`` exists does not say so."""
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    home = re.search(r"^home\s*=\s*(.+?)\s*$", text, flags=re.MULTILINE)
    return home is not None and os.path.isdir(home[1])


def usable(venv: Path) -> bool:
    """Whether the environment's Python starts, is new enough and has pip, if need be after putting pip there."""
    python = interpreter(venv)
    if not python.exists() or not home_exists(venv):
        return False
    check = "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 1)"
    if not succeeds([str(python), "-c", check]):
        return False
    # A set-up that was cut short leaves a good Python without pip (so does uv, by intent): then only pip is missing.
    return succeeds([str(python), "-m", "pip", "--version"]) or succeeds([str(python), "-m", "ensurepip", "--upgrade"])


def succeeds(arguments: list[str]) -> bool:
    try:
        return (
            subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def announce(venv: Path) -> None:
    print(f"minillm: first time here: making a virtual environment in {venv}")
    print("         and installing PyTorch and a few others into it: about 2 minutes and 1.3 GB.")
    if sys.platform == "linux":
        print("         On Linux, PyTorch's ordinary build brings NVIDIA's CUDA libraries: several GB, so longer.")
        print('         The README, under "Installing", says how to get the smaller CPU build instead.')
    sys.stdout.flush()


def make_venv(venv: Path) -> None:
    """Make the environment anew. What stands there goes, if it is an environment; anything else is left alone."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise Failure(
            f"This Python ({sys.executable}) cannot make virtual environments: no module {' and '.join(missing)}.\n"
            f"On Debian or Ubuntu:  sudo apt install python3-venv   (or python{version}-venv)\n"
            "Then run the same command again."
        )
    if venv.exists():
        remove_broken(venv)
    try:
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise Failure(f"The virtual environment could not be made: {error}") from None
    if made.returncode != 0:
        raise Failure(
            f"The virtual environment could not be made in {venv}. Python says:\n\n{made.stdout.strip()}\n\n"
            "Is the disk full, or the folder not writable? Another folder: --venv DIR."
        )


def remove_broken(venv: Path) -> None:
    parts = {"bin", "lib", "lib64", "include", "Include", "Lib", "Scripts", "share", "etc"}
    if not venv.is_dir():
        raise Failure(f"{venv} is not a folder. Name another one with --venv DIR.")
    left = {path.name for path in venv.iterdir()}
    if not (venv / "pyvenv.cfg").is_file() and not left <= parts:
        raise Failure(
            f"{venv} holds other things than a virtual environment, so it is left alone.\n"
            "Name another folder: --venv DIR."
        )
    if not left:
        return
    print("         (The environment that is there does not work; it is made anew.)", flush=True)
    try:
        if venv.is_symlink():
            venv.unlink()
        else:
            shutil.rmtree(venv)
    except OSError as error:
        raise Failure(
            f"The broken environment could not be removed: {error}\nDelete {venv} by hand and try again."
        ) from None


# ------------------------------------------------------------------------------------------------------------------ pip


def install(venv: Path, extras: list[str]) -> None:
    """``pip install -e .[extras] -c constraints.txt`` with a sign of life, and with pip's own words where it fails."""
    target = "." + (f"[{','.join(extras)}]" if extras else "")
    arguments = [
        str(interpreter(venv)),
        "-u",
        "-m",
        "pip",
        "install",
        "--no-input",
        "-e",
        target,
        "-c",
        "constraints.txt",
    ]
    settings = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_USER": "0",
        "PYTHONIOENCODING": "utf-8",
    }
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,  # so that "." is the project, however its path is spelt
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    said: list[str] = []
    progress = Progress()
    try:
        for line in lines_of(process):
            if line is not None:
                said.append(line)
                progress.see(line)
            progress.beat()
        status = process.wait()
    except KeyboardInterrupt:
        progress.clear()
        stop(process)
        raise
    progress.clear()
    log = venv / PIP_LOG
    log.write_text("".join(said), encoding="utf-8")
    if status != 0:
        raise Failure(explain(said, arguments, log))


def lines_of(process: "subprocess.Popen[str]") -> Iterator["str | None"]:
    """The lines of a program as they come; None whenever half a second has brought none."""
    import queue
    import threading

    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


class Progress:
    """What pip is doing, on one line that is written over in a terminal, and now and then a line elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.started = self.last = time.monotonic()
        self.doing = "starting pip"

    def see(self, line: str) -> None:
        """Keep what a line of pip's says, in short."""
        text = line.strip()
        # (No `:=` here: Python 3.6 has to get through this file as far as the message at its top.)
        download = re.match(r"Downloading (?:\S*/)?(\S+?)-\d\S* \(([\d.]+) ([kMG]?B)\)", text)
        lookup = re.match(r"Collecting ([\w.-]+)", text)
        build = re.match(r"(?:Installing build|Getting requirements|Preparing|Building)[\w ]*", text)
        if download:
            name, size, unit = download.groups()
            self.doing = f"downloading {name} ({size} {unit})"
            if unit == "GB" or (unit == "MB" and float(size) >= 20):
                self.show()  # worth a line even where nothing is written over: it explains a long silence
        elif lookup:
            self.doing = f"looking up {lookup[1]}"
        elif build:
            self.doing = build[0].lower()
        elif text.startswith("Requirement already satisfied:"):
            self.doing = "checking what is there"
        elif text.startswith("Installing collected packages:"):
            self.doing = f"installing {text.count(',') + 1} packages"
            self.show()

    def beat(self) -> None:
        if time.monotonic() - self.last >= (0.5 if self.terminal else HEARTBEAT):
            self.show()

    def show(self) -> None:
        self.last = time.monotonic()
        text = f"  {self.last - self.started:4.0f} s  {self.doing}"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="", flush=True)
        else:
            print(text, flush=True)

    def clear(self) -> None:
        if self.terminal:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)


def stop(process: "subprocess.Popen[str]") -> None:
    """The Ctrl-C has reached pip too; give it a moment, then insist."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def explain(said: list[str], arguments: list[str], log: Path) -> str:
    """Pip's own message, what it means where we know, and how to go on."""
    text = "".join(said)
    shown = "\n".join([line.rstrip() for line in said if not line.startswith(NOISE)][-25:])
    advice = [hint.format(python=sys.version.split()[0]) for pattern, hint in ADVICE if re.search(pattern, text)]
    return "\n".join(
        [
            "The installation failed. pip says:",
            "",
            shown or "(nothing)",
            "",
            *(advice or ["Run the same command again once that is mended; what is already downloaded is kept."]),
            f"All of pip's output: {log}",
            f"By hand, in {ROOT}:  {subprocess.list2cmdline([a for a in arguments if a not in ('-u', '--no-input')])}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
