"""What records lessons and compares them tells a change from noise, and a quiet machine from a busy one."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import record_runs  # noqa: E402
from pages import recorder, runs  # noqa: E402
from pages.quiet import LIMIT, Others  # noqa: E402
from pages.runs import Part, Run  # noqa: E402

COUNTED = [
    Part("One", [["page 1"], [], ["3 free"]], ["page 1", "", "3 free"]),
    Part("Try next", [["- more"]], ["- more"]),
]


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two lessons that print next to nothing and are kept in a folder of the test's own, on a quiet machine."""
    (tmp_path / "03_c.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(runs, "FOLDER", tmp_path)
    for module in (recorder, record_runs):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "lesson_files", lambda: {"03": tmp_path / "03_c.py", "09": tmp_path / "09_d.py"})
    monkeypatch.setattr(recorder.pictures, "measure", lambda number: {})
    monkeypatch.setattr(record_runs, "busy_now", lambda: 0.0)
    monkeypatch.setattr(recorder, "Others", busy(0.0))
    monkeypatch.setattr(recorder, "_run", run_of("4 free"))
    return tmp_path


def busy(processors: float) -> type:
    """Stands for the measurement of what other programs do."""

    class Stand(Others):
        def __exit__(self, *_exc: object) -> None:
            self.busy = processors

    return Stand


def run_of(free: str, title: str = "One") -> Any:
    """Stands for a run: with a real clock it takes a measured time more."""

    def run(number: str, *options: str) -> dict[str, Any]:
        took = [] if options else [[["dim", "took "], "3.1 ms"]]
        parts = [
            {"title": title, "lines": [["page 1"], [], [free], *took]},
            {"title": "Try next", "lines": [["- more"]]},
        ]
        return {"machine": {"cpu": "a processor", "cores": 2}, "parts": parts}

    return run


def record(*options: str) -> int:
    sys.argv = ["record_runs.py", *options]
    return record_runs.main()


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_what_is_recorded_survives_its_file(lessons: Path) -> None:
    lines: list[Any] = [["a == ", ["bold #56b4e9", 'b "[c]"']], [], [["dim", "▁▂ 一"]]]
    run = Run(
        "03", {"date": "2026-01-02"}, [Part("One [1]", lines, ["counted"]), COUNTED[0]], pictures={"map": [[1, 2]]}
    )
    path = runs.save(run)
    assert path == lessons / "lesson_03" / "run.json" and runs.load("03") == run
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["parts"][1]["lines"] == ["page 1", "", "3 free"]
    assert '    "3 free"\n' in text and text.count("\n") < 40, "a line of text is a line of the file"


def test_it_says_where_a_run_has_changed() -> None:
    new = [Part("One", [], ["page 1", "", "4 free"])]
    assert runs.first_difference(COUNTED, new) == "part 'One' said '3 free', now '4 free'"
    assert runs.first_difference(COUNTED, COUNTED[:1]) == "part 'Try next' is now 'no such part'"


@pytest.mark.parametrize(
    "kept, new, agree",
    [
        ("  mean  0.123 ▁▅", " mean 0.124  ▂▄", True),  # a last digit, a bar by a step, spaces
        ("free list (32 pages)", "free list (31 pages)", False),  # whole numbers are exact
        ("0.50", "0.61", False),
        ("page 2 -> page 3", "page 3 -> page 2", False),
        ("A takes page 16", "A gets page 16", False),
        ("1,439 tokens", "1,439 tokens more", False),
    ],
)
def test_noise_is_no_change(kept: str, new: str, agree: bool) -> None:
    assert runs.same(kept, new) is agree


def test_all_are_recorded_once(lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second time there is nothing to do; --again records all the same."""
    assert record("--check") == 1
    said = capsys.readouterr().out
    assert "Lesson 03: was never recorded" in said and "python scripts/record_runs.py 03 09" in said
    assert record() == 0 and "2 lessons, about 1 minutes." in capsys.readouterr().out
    files = {number: runs.path_of(number).read_text(encoding="utf-8") for number in ("03", "09")}
    assert record() == 0 and capsys.readouterr().out.count("prints what is recorded") == 2
    assert files == {number: runs.path_of(number).read_text(encoding="utf-8") for number in ("03", "09")}
    assert record("--check") == 0
    assert record("--again", "3") == 0 and "Lesson 03: recorded again" in capsys.readouterr().out
    run = runs.load("03")
    assert run.about["cpu"] == "a processor" and run.about["others"] <= LIMIT and "seconds" in run.about
    assert run.parts[0].plain == ["page 1", "", "4 free", "took 3.1 ms"]
    assert run.parts[0].counted == ["page 1", "", "4 free"], "what a run with the counting clock must say again"


def test_a_change_is_found_and_recorded(
    lessons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record() == 0
    monkeypatch.setattr(recorder, "_run", run_of("5 free"))
    assert record("--check", "03") == 1
    said = capsys.readouterr().out
    assert "Lesson 03: part 'One' said '4 free', now '5 free'" in said and "record_runs.py 03\n" in said
    assert record("03") == 0 and record("--check", "03") == 0 and record("--check", "09") == 1
    monkeypatch.setattr(recorder.pictures, "measure", lambda number: {"map": [1]})
    assert record("--check", "03") == 1 and "own pictures" in capsys.readouterr().out


def test_a_lesson_that_is_gone_leaves_nothing_behind(lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record() == 0
    runs.save(Run("12", {"date": "2026-01-02"}, COUNTED))
    assert record("--check") == 1 and "git rm lesson_12/run.json" in capsys.readouterr().out


def test_a_lesson_that_fails_does_not_stop_the_others(
    lessons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = run_of("4 free")

    def run(number: str, *options: str) -> dict[str, Any]:
        if number == "03":
            raise recorder.Failed("03_c.py ended with status 1")
        return good(number, *options)

    monkeypatch.setattr(recorder, "_run", run)
    assert record() == 1
    said = capsys.readouterr().out
    assert (
        "Lesson 03: FAILED: 03_c.py ended with status 1" in said and "again: python scripts/record_runs.py 03" in said
    )
    assert runs.path_of("09").exists() and not runs.path_of("03").exists()
    assert record("--check", "03") == 1


def test_a_busy_machine_is_refused(
    lessons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record_runs, "busy_now", lambda: 1.5)
    assert record() == 1 and "Other programs keep 1.5 processors busy" in capsys.readouterr().out
    assert not runs.path_of("03").exists()
    monkeypatch.setattr(recorder, "Others", busy(1.5))
    assert record("--anyway") == 0 and runs.load("03").about["others"] == 1.5
    assert runs.where(runs.load("03")).endswith("a processor, 2 cores. Other programs ran meanwhile.")


def test_what_was_busy_meanwhile_is_not_kept(
    lessons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorder, "Others", busy(0.9))
    assert record("03") == 1 and "0.9 processors busy meanwhile" in capsys.readouterr().out
    assert not runs.path_of("03").exists()


def test_other_programs_are_told_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of this process and of those it waited for is not others'."""
    seconds = iter([100.0, 103.0])  # of all processors, before and after
    monkeypatch.setattr("pages.quiet._all_seconds", lambda: next(seconds))
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 12.0]).__next__)
    ours = iter([5.0, 6.0])
    monkeypatch.setattr("pages.quiet._our_seconds", lambda: next(ours))
    with Others() as others:
        pass
    assert others.busy == 1.0


def test_the_clock_counts_and_parts_are_kept_apart(tmp_path: Path) -> None:
    """A script in a process of its own, as a lesson runs: the same twice with the counting clock, in its colours."""
    script = tmp_path / "lesson.py"
    script.write_text(
        "import time\nfrom minillm.learn.lesson import Lesson\n"
        "lesson = Lesson(1, 'A test', turns_on='nothing', buys='nothing', breaks='kv.free')\n"
        "def main():\n    lesson.part('Clocks')\n    begin = time.perf_counter(); time.sleep(9)\n"
        "    lesson.say(f'[bold]took[/] {time.perf_counter() - begin:.3f} s')\n    lesson.end('more')\n"
        "lesson.run(main)\n",
        encoding="utf-8",
    )
    found = []
    for _ in range(2):
        path = tmp_path / "out.json"
        command = [sys.executable, "-m", "pages.record", str(script), str(path), "--same-clock"]
        paths = f"{ROOT / 'scripts'}:{ROOT}"
        subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": paths, "PATH": ""}, check=True, timeout=120)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    first, second = found
    assert first["parts"] == second["parts"]
    assert [part["title"] for part in first["parts"]] == ["What is set", "Clocks", "Try next"]
    assert first["parts"][1]["lines"][-1] == [["bold", "took"], " 0.001 s"]
    assert first["machine"]["cores"] >= 1 and first["machine"]["torch"]


def test_an_unknown_lesson_is_refused() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "record_runs.py"), "--check", "99"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "There is no lesson 99" in done.stderr


def test_a_lesson_prints_the_same_whatever_the_variables_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real run of a script that prints what depends on them: the width, colours, and where temporary files lie."""
    script = tmp_path / "03_short.py"
    script.write_text(
        "import tempfile\n"
        "from minillm.learn.lesson import Lesson\n"
        "lesson = Lesson(3, 'Short', turns_on='nothing', buys='nothing', breaks='kv.allocate')\n"
        "def main():\n"
        "    lesson.part('One')\n"
        "    lesson.say(tempfile.gettempdir() + ' word' * 40)\n"
        "lesson.run(main)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(recorder, "lesson_files", lambda: {"03": script})
    usual = recorder.counting("03")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, value in {"TERM": "dumb", "COLUMNS": "40", "NO_COLOR": "1", "MINILLM_LOG": "kv.*"}.items():
        monkeypatch.setenv(name, value)
    assert recorder.counting("03") == usual
