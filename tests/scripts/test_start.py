"""scripts/start.py, run as a user runs it: in a small copy of the repository, with real environments and the real pip.

Nothing here needs a network. The copy is a project without dependencies whose own build back-end is a few lines, and
its environments get pip by a path to ours, which saves the seconds that copying pip would take.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType

import pip
import pytest

START = Path(__file__).resolve().parents[2] / "scripts" / "start.py"
BIN = "Scripts" if os.name == "nt" else "bin"
PYTHON = "python.exe" if os.name == "nt" else "python"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1"

[project.optional-dependencies]
dev = []
docs = []

[tool.other]
no-extra = []
"""

# The least that pip takes for a build back-end: an editable install is a .pth file that points here.
BACKEND = """
import pathlib, zipfile

INFO = {
    "METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: dev\\nProvides-Extra: docs\\n",
    "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.writestr("tiny.pth", str(pathlib.Path.cwd()))
        for file, text in INFO.items():
            wheel.writestr(f"tiny-1.dist-info/{file}", text)
    return name
"""

LESSON = '''"""One page about {title}.

More of it.
"""
import os, sys
print("arguments", sys.argv[1:])
print("python", sys.executable)
sys.exit(7)
'''


class Repo:
    """A small repository with start.py in it, and the ways to run that."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("scripts/start.py", START.read_text(encoding="utf-8"))
        self.write("pyproject.toml", PYPROJECT)
        self.write("constraints.txt", "# none\n")
        self.write("backend.py", BACKEND)
        self.write("lessons/01_first_token.py", LESSON.format(title="one token"))
        self.write("lessons/03_paged_attention.py", LESSON.format(title="pages"))
        self.venv = root / ".venv"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")

    def start(
        self, *arguments: str, cwd: Path | None = None, before: str = "", **environ: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run start.py; ``before`` is Python that runs first in the same process."""
        script = self.root / "scripts" / "start.py"
        command = [sys.executable, str(script), *arguments]
        if before:
            code = f"import runpy, sys\n{before}\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
            command = [sys.executable, "-c", code, *command[1:]]
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "MINILLM_"))}
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env={**outside, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def make_venv(self, folder: Path | None = None, pip_too: bool = True) -> Path:
        folder = folder or self.venv
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        if pip_too:
            packages = next(folder.rglob("site-packages"))
            (packages / "outside.pth").write_text(str(Path(pip.__file__).parents[1]))
        return folder

    def module(self) -> ModuleType:
        """The copy of start.py as a module, for the functions in it."""
        spec = importlib.util.spec_from_file_location("start_under_test", self.root / "scripts" / "start.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def ready(self, folder: Path | None = None, extras: tuple[str, ...] = ()) -> None:
        """An environment that start.py takes for complete."""
        folder = self.make_venv(folder, pip_too=False)
        self.module().write_stamp(folder, list(extras))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "a clone")  # with a space: every path in these tests has one


# --- what needs no environment


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"], ["test", "--help"], ["lesson", "-h"]])
def test_help_names_the_commands_and_the_lessons(repo: Repo, arguments: list[str]) -> None:
    done = repo.start(*arguments)
    assert done.returncode == 0
    for word in ("lesson NN", "test", "setup", "--venv", "MINILLM_VENV"):
        assert word in done.stdout
    assert re.search(r"03 +paged_attention +One page about pages\.", done.stdout)
    assert not repo.venv.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lesson"], "Which lesson?"),
        (["lesson", "04"], "There is no lesson '04'."),
        (["lesson", "paged"], "There is no lesson 'paged'."),
        (["fly"], "There is no command 'fly'."),
        (["--venv"], "--venv needs a folder."),
        (["--venv=", "test"], "--venv needs a folder."),
        (["setup", "dve"], "There is no extra 'dve'; there are: dev, docs."),
    ],
)
def test_a_typing_mistake_costs_nothing(repo: Repo, arguments: list[str], text: str) -> None:
    done = repo.start(*arguments)
    assert (done.returncode, done.stdout.splitlines()[0]) == (2, text)
    assert "Traceback" not in done.stdout
    if arguments[0] == "lesson":
        assert "01  first_token" in done.stdout and "03  paged_attention" in done.stdout
    assert not repo.venv.exists()


def test_no_lessons_at_all(repo: Repo) -> None:
    shutil.rmtree(repo.root / "lessons")
    done = repo.start("lesson", "01")
    assert done.returncode == 2
    assert "There are no lessons in" in done.stdout


def test_an_old_python_is_told_so(repo: Repo) -> None:
    done = repo.start("lesson", "01", before="sys.version_info = (3, 9, 18)")
    assert done.returncode == 1
    assert "needs Python 3.10 or newer; this is 3.9" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_python_that_cannot_make_environments(repo: Repo) -> None:
    done = repo.start("lesson", "01", before="sys.modules['ensurepip'] = None")  # as on a Debian without python3-venv
    assert done.returncode == 1
    assert "no module ensurepip" in done.stdout
    assert "sudo apt install python3-venv" in done.stdout


def test_a_folder_with_other_things_is_left_alone(repo: Repo) -> None:
    repo.write("precious/thesis.txt", "years of work")
    done = repo.start("--venv", "precious", "lesson", "01")
    assert done.returncode == 1
    assert "left alone" in done.stdout
    assert (repo.root / "precious" / "thesis.txt").read_text() == "years of work"


def test_where_venv_stands_on_the_command_line(repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    split = repo.module().split_venv
    monkeypatch.delenv("MINILLM_VENV", raising=False)
    monkeypatch.chdir(tmp_path)
    assert split(["test", "-x"]) == (repo.venv, ["test", "-x"])
    assert split(["--venv", "e", "test", "-x"]) == (tmp_path / "e", ["test", "-x"])
    assert split(["test", "--venv=e", "-x"]) == (tmp_path / "e", ["test", "-x"])
    assert split(["test", "--", "--venv", "e"]) == (repo.venv, ["test", "--", "--venv", "e"])
    monkeypatch.setenv("MINILLM_VENV", str(tmp_path / "m"))
    assert split(["test"]) == (tmp_path / "m", ["test"])
    assert split(["test", "--venv=e"]) == (tmp_path / "e", ["test"])


# --- what is ready, and what no longer is


@pytest.mark.parametrize("word", ["3", "03", "03_paged_attention", "03_paged_attention.py"])
def test_a_lesson_gets_its_arguments_and_gives_its_status(repo: Repo, tmp_path: Path, word: str) -> None:
    repo.ready()
    done = repo.start("lesson", word, "--plain", "--prompt", "two words", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "arguments ['--plain', '--prompt', 'two words']",
        f"python {repo.venv / BIN / PYTHON}",
    ]
    assert done.returncode == 7


def test_the_tests_run_in_the_root_with_what_was_asked(repo: Repo, tmp_path: Path) -> None:
    repo.ready(extras=("dev",))
    packages = next(repo.venv.rglob("site-packages"))
    (packages / "pytest.py").write_text("import os, sys; print(os.getcwd()); print(sys.argv[1:]); sys.exit(5)")
    done = repo.start("test", "-k", "a and b", cwd=tmp_path)
    assert done.stdout.splitlines() == [str(repo.root), str(["-n", "2", "-p", "randomly", "-k", "a and b"])]
    assert done.returncode == 5


def test_another_environment_by_option_or_variable(repo: Repo, tmp_path: Path) -> None:
    other = tmp_path / "other env"
    repo.ready(other)
    assert f"python {other}" in repo.start("lesson", "1", "--venv", str(other)).stdout
    assert f"python {other}" in repo.start("lesson", "1", MINILLM_VENV=str(other)).stdout
    assert not repo.venv.exists()


def test_what_makes_an_environment_stale(repo: Repo) -> None:
    start = repo.module()
    assert not start.is_ready(repo.venv, [])
    repo.ready(extras=("docs",))
    assert start.is_ready(repo.venv, [])
    assert start.is_ready(repo.venv, ["docs"])
    assert not start.is_ready(repo.venv, ["dev"])
    for name in ("pyproject.toml", "constraints.txt"):
        before = (repo.root / name).read_text()
        repo.write(name, before + "# changed\n")
        assert not start.is_ready(repo.venv, [])
        repo.write(name, before)
        assert start.is_ready(repo.venv, [])
    stamp = repo.venv / start.STAMP
    for broken in ("", "{", "[]", json.dumps({**json.loads(stamp.read_text()), "root": "/where/it/was"})):
        before = stamp.read_text()
        stamp.write_text(broken)
        assert not start.is_ready(repo.venv, [])
        stamp.write_text(before)
    config = repo.venv / "pyvenv.cfg"
    config.write_text(re.sub(r"(?m)^home = .*$", "home = /no/such/folder", config.read_text()))
    assert not start.is_ready(repo.venv, [])
    assert not start.usable(repo.venv)


@pytest.mark.skipif(os.name == "nt", reason="no links to the interpreter there")
def test_an_environment_whose_python_is_gone_is_made_anew(repo: Repo) -> None:
    repo.ready()
    python = repo.venv / BIN / PYTHON
    python.unlink()
    python.symlink_to("/no/such/python3")
    start = repo.module()
    assert not start.is_ready(repo.venv, []) and not start.usable(repo.venv)
    start.remove_broken(repo.venv)
    assert not repo.venv.exists()


# --- installing, with the real pip


def test_set_up_once_then_only_when_something_changed(repo: Repo, tmp_path: Path) -> None:
    repo.make_venv()
    first = repo.start("lesson", "01", cwd=tmp_path)
    assert first.returncode == 7, first.stdout
    assert "installing 1 packages" in first.stdout and "ready after" in first.stdout
    stamp = json.loads((repo.venv / "minillm-ready.json").read_text())
    assert stamp["extras"] == [] and stamp["root"] == str(repo.root)
    code = "import backend; print(backend.__file__)"  # the editable install points into the clone
    done = subprocess.run([repo.venv / BIN / PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(repo.root / "backend.py")

    began = time.monotonic()
    again = repo.start("lesson", "01")
    assert (again.returncode, len(again.stdout.splitlines())) == (7, 2)  # nothing but what the lesson prints
    assert time.monotonic() - began < 2

    more = repo.start("setup", "dev")
    assert more.returncode == 0 and "bringing" in more.stdout and "Ready:" in more.stdout
    assert json.loads((repo.venv / "minillm-ready.json").read_text())["extras"] == ["dev"]


def test_a_failed_installation_shows_what_pip_says(repo: Repo) -> None:
    repo.make_venv()
    repo.write("pyproject.toml", PYPROJECT.replace("requires = []", 'requires = ["no-such"]'))
    done = repo.start("lesson", "01")
    assert done.returncode == 1
    assert "The installation failed. pip says:" in done.stdout
    assert "No matching distribution found for no-such" in done.stdout
    assert "Run the same command again" in done.stdout
    log = re.search(r"All of pip's output: (.+)", done.stdout)
    assert log and "no-such" in Path(log[1]).read_text()
    assert not (repo.venv / "minillm-ready.json").exists()
    assert 'Traceback (most recent call last):\n  File "' + str(repo.root / "scripts") not in done.stdout


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "ERROR: Could not satisfy torch (from versions: none)\nERROR: No matching distribution found for torch==2",
            "64 bit",
        ),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", "out of reach"),
        ("ssl.SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
    ],
)
def test_common_failures_come_with_advice(repo: Repo, said: str, advice: str) -> None:
    text = repo.module().explain(said.splitlines(keepends=True), ["python", "-u", "-m", "pip", "install"], Path("log"))
    assert said.splitlines()[0] in text and advice in text


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_during_the_installation(repo: Repo) -> None:
    repo.make_venv()
    repo.write("backend.py", "import time, pathlib\npathlib.Path('here').touch()\ntime.sleep(60)\n" + BACKEND)
    process = subprocess.Popen(
        [sys.executable, str(repo.root / "scripts" / "start.py"), "lesson", "01"],
        env={**os.environ, "PIP_NO_INDEX": "1", "MINILLM_VENV": str(repo.venv)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C goes to the whole group, so give it one
    )
    end = time.monotonic() + 20
    while not (repo.root / "here").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130, out
    assert "Stopped. The same command, given again, goes on from here." in out
    assert "Traceback" not in out
    assert not (repo.venv / "minillm-ready.json").exists()
