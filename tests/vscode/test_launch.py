"""F5, for every configuration of launch.json: it starts, stops where its name says, shows what it should, and ends.

The learner only presses Enter at each prompt. What they then see is held against the catalogue of probes.
"""

import ast
import inspect
import socket
import textwrap
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from debug.dap import Stop
from vscode.editor import Attached, Editor

from minillm.debug.catalogue import PACKAGE, catalogue, locations
from minillm.debug.launch import LAUNCH, configurations, read_jsonc
from minillm.kvcache.pages import PagePool

ROOT = PACKAGE.parent
OPEN = {  # the file in front of the learner, for the configurations that run that one
    "Lesson: current file": ROOT / "lessons" / "04_continuous_batching.py",
    "Checkpoint: current test": ROOT / "tests" / "debug" / "test_scheduling.py",
}
ALL = {one.title: one for one in configurations()}
QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def press_f5(tmp_path: Path) -> Iterator[Callable[..., Editor]]:
    editors: list[Editor] = []

    def press_f5(
        title: str,
        environment: dict[str, str] | None = None,
        breakpoints: dict[Path, list[int]] | None = None,
        **answers: str,
    ) -> Editor:
        variables = {"file": str(OPEN[title])} if title in OPEN else {}
        settings = next(one for one in configurations(answers, **variables) if one.title == title).settings
        for path in (settings.get("program"), variables.get("file")):
            if path and not Path(path).exists():
                pytest.skip(f"{path} is not there yet")
        if title.startswith("Lesson"):
            settings["args"].append("--plain")
        editors.append(Editor(settings, {**QUIET, **(environment or {})}, tmp_path))
        editors[-1].start(breakpoints)
        return editors[-1]

    yield press_f5
    for editor in editors:
        editor.close()


def check_stop(stop: Stop, probe: str) -> None:
    """It stands on the statement after the probe, and all that the catalogue says to look at is there to be seen."""
    place = Path(stop.file).resolve().relative_to(ROOT).as_posix(), stop.line
    assert place in [(file, stops_at) for file, _, stops_at in locations()[probe]]
    info = catalogue()[probe]
    for expression in info.watch:
        stop.evaluate(expression)  # fails if it cannot be evaluated
    assert {expression: stop.evaluate(expression) for expression in info.must} == dict.fromkeys(info.must, "True")
    frame = stop.local_variables()
    assert frame
    assert "request" not in info.values or stop.evaluate("request.id")


def run_through(editor: Editor, stop: Stop) -> str:
    """No more stops, and on to the end; what the terminal shows."""
    stop.evaluate("disarm()")
    editor.go_on(stop)
    code, output = editor.ended()
    assert code == 0, output
    return output


def skip_without_triton(probe: str) -> None:
    if catalogue()[probe].interpreted and find_spec("triton") is None:
        pytest.skip("triton is not installed")


STOPPING = [title for title, one in ALL.items() if one.probes]
LATER = [title for title in STOPPING if title.startswith("Lesson ") and not title.startswith("Lesson 01")]
WHOLE = [title for title in STOPPING if title.startswith("Engine")]  # quick ones; the others go to their end in CI


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[] if title.startswith("Lesson 03") else [pytest.mark.ci]) for title in LATER]
)
def test_it_starts_and_stops(title: str, press_f5: Callable[..., Editor]) -> None:
    """And Stop ends it there. A lesson goes its whole way in other tests; under a debugger that takes long."""
    probe = ALL[title].probes[0]
    skip_without_triton(probe)
    editor = press_f5(title)
    check_stop(editor.stopped(), probe)
    editor.stop_it()


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[] if title in WHOLE else [pytest.mark.ci]) for title in STOPPING]
)
def test_it_starts_stops_and_ends(title: str, press_f5: Callable[..., Editor]) -> None:
    probe = ALL[title].probes[0]
    skip_without_triton(probe)
    editor = press_f5(title)
    stop = editor.stopped()
    check_stop(stop, probe)
    output = run_through(editor, stop)
    assert f"── {probe} ── step " in output and "Traceback" not in output


def test_other_probes_and_a_condition_can_be_chosen(press_f5: Callable[..., Editor]) -> None:
    """And the engine is the learner's own code: its frames are shown, torch's are not, and stepping in skips them."""
    when = "request.num_computed > 0 if event == 'kv.allocate' else step == 1"
    editor = press_f5("Engine: generate", probesOfBirth="model.embed,kv.a*", condition=when)
    stop = editor.stopped()
    check_stop(stop, "model.embed")
    called = [frame["name"] for frame in stop.frames[:6]]  # model, runner, runner, worker, executor, executor
    assert called == ["forward", "start", "launch", "launch", "launch", "execute"]
    assert all(Path(frame["source"]["path"]).is_relative_to(ROOT / "minillm") for frame in stop.frames[:5])
    editor.ask("stepIn", threadId=stop.thread)
    stepped = editor.stopped()
    assert (Path(stepped.file), stepped.frames[0]["name"]) == (ROOT / "minillm" / "models" / "llama.py", "embed")
    editor.go_on(stepped)
    stop = editor.stopped()
    check_stop(stop, "kv.allocate")
    assert int(stop.evaluate("request.num_computed")) == 16  # the second page, not the first
    run_through(editor, stop)


@pytest.mark.ci
def test_inside_a_kernel(press_f5: Callable[..., Editor]) -> None:
    """Triton's interpreter runs the kernel: its own file and lines, its variables, a step to the next line and into
    what it calls."""
    skip_without_triton("kernel.scores")
    kernel = ROOT / "minillm" / "kernels" / "triton" / "attention.py"
    editor = press_f5("Lesson 08: attention kernels", condition="name == 'kernel.scores' and at == 32")
    stop = editor.stopped()
    check_stop(stop, "kernel.scores")
    assert (Path(stop.file), stop.function) == (kernel, "_paged_decode")
    statement = kernel.read_text(encoding="utf-8").splitlines()[stop.line - 1]
    assert statement.strip().startswith("top, total, acc = add_block(scores, v, ")
    seen = stop.local_variables()
    assert {"scores", "top", "total", "acc", "slots", "at", "head", "split", "BLOCK"} <= set(seen)
    assert (
        stop.evaluate("at") in ("32", "array([32], dtype=int32)")
        and stop.evaluate("scores.handle.data.shape") == "(16, 32)"
    )
    before = float(stop.evaluate("float(total.handle.data[0])"))
    assert before >= 1  # the block before this one
    editor.ask("stepIn", threadId=stop.thread)
    inside = editor.stopped()
    assert (Path(inside.file), inside.function) == (kernel, "add_block")
    editor.ask("stepOut", threadId=inside.thread)
    back = editor.stopped()
    assert (Path(back.file), back.function) == (kernel, "_paged_decode") and back.line in (stop.line, stop.line - 5)
    run_through(editor, back)


@pytest.mark.ci
def test_my_exercise(press_f5: Callable[..., Editor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's own breakpoint in my/ex03.py is met, in the process that runs the checkpoint's tests."""
    from minillm.learn.registry import task
    from minillm.learn.stub import start

    if not (ROOT / task("3.1").checkpoint).exists():
        pytest.skip(f"{task('3.1').checkpoint} is not there yet")
    monkeypatch.setenv("MINILLM_MY", str(tmp_path))
    start("03")
    mine = tmp_path / "ex03.py"
    stub = '        raise Todo("3.1")\n'
    text = mine.read_text(encoding="utf-8")
    assert stub in text
    line = text[: text.index(stub)].count("\n") + 1
    mine.write_text(text.replace(stub, body_of(PagePool.allocate)), encoding="utf-8")
    editor = press_f5("Checkpoint: my exercise", {"MINILLM_MY": str(tmp_path)}, {mine: [line]}, exercise="3.1")
    with editor.child() as child:
        child.start({mine: [line]})
        stop = child.stopped()
        assert (Path(stop.file), stop.line, stop.function) == (mine, line, "allocate")
        assert {"self", "count"} <= set(stop.local_variables())
        child.ask("setBreakpoints", source={"path": str(mine)}, breakpoints=[])
        child.go_on(stop)
        child.ended()
    code, output = editor.ended()
    assert code == 0, output


def body_of(function: Callable[..., Any]) -> str:
    """The statements of a method after its docstring, as they stand in the source."""
    lines = inspect.getsource(function).splitlines(keepends=True)
    (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
    assert isinstance(tree, ast.FunctionDef)
    return "".join(lines[tree.body[1].lineno - 1 :])


def test_attach(tmp_path: Path) -> None:
    """The task "Wait for Attach" starts a program that waits; "Attach" finds it, and it stops where it was told to."""
    tasks = {task["label"]: task for task in read_jsonc((LAUNCH.parent / "tasks.json").read_text())["tasks"]}
    (label,) = (label for label in tasks if label.startswith("Wait for Attach"))
    inputs = {one["id"]: one["default"] for one in read_jsonc((LAUNCH.parent / "tasks.json").read_text())["inputs"]}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = [text.replace("${input:port}", port) for text in tasks[label]["args"]]
    arguments = [text.replace("${input:probes}", inputs["probes"]) for text in arguments]
    settings = next(one for one in configurations({"port": port}) if one.title == "Attach").settings
    with Attached(settings, arguments, QUIET, tmp_path) as editor:
        editor.start()
        stop = editor.stopped()
        check_stop(stop, inputs["probes"].split(",")[0])
        stop.evaluate("disarm()")
        editor.go_on(stop)
        code, output = editor.ended()
        assert code == 0, output
