"""Replay: at each step the recording says what the engine had then; the screen's keys; files that are no good."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import Oracle
from workload import make_engine

from minillm.cli.replay import run
from minillm.cli.replay_app import ReplayApp
from minillm.cli.replay_step import as_text, draw, find
from minillm.debug.recorder import record
from minillm.debug.recording import read_recording
from minillm.debug.replay import Frame, frames
from minillm.debug.timeline import chrome_trace
from minillm.probe import Event, listen
from minillm.request import SamplingParams

State = dict[str, Any]


@pytest.fixture(scope="module")
def recorded(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[State]]:
    """A crowded run, and its state at each step, noted a second time."""
    path, states = tmp_path_factory.mktemp("replay") / "run.jsonl", []

    def planned(event: Event) -> None:
        scheduler = event.scheduler
        running = {r.id: (list(r.pages), r.num_computed, r.num_tokens, r.seat) for r in scheduler.running}
        rows = [(row.request_id, row.start, row.count, row.new_pages, row.samples) for row in event.plan.rows]
        waiting = [(r.id, r.num_tokens) for r in scheduler.waiting]
        references = list(scheduler.pool.references)
        states.append({"running": running, "waiting": waiting, "rows": rows, "references": references})
        states[-1]["preempted"] = list(event.plan.preempted)

    def built(event: Event) -> None:
        states[-1]["slots"] = sorted(event.batch.slots.tolist())

    def ended(event: Event) -> None:
        states[-1]["tokens"] = dict(event.result.tokens)

    with record(path), listen("scheduler.plan", planned), listen("batch.build", built), listen("engine.step", ended):
        engine = make_engine(oracle.folder, page_size=4, num_pages=14, max_num_seqs=3, max_num_batched_tokens=12)
        for i in range(5):
            params = SamplingParams(temperature=0, max_tokens=10 + 3 * i, ignore_eos=True)
            engine.add_request([5 + i] * (8 + 4 * i), params)
        done: list[int] = []
        while engine.has_requests:
            done += [output.request_id for output in engine.step() if output.finished]
            states[-1]["finished"] = list(done)
    assert engine.scheduler.num_preemptions
    return path, states


@pytest.fixture(scope="module")
def steps(recorded: tuple[Path, list[State]]) -> list[Frame]:
    return frames(read_recording(recorded[0]).records)


def test_the_state_at_each_step_is_the_engines(recorded: tuple[Path, list[State]], steps: list[Frame]) -> None:
    for number, (frame, state) in enumerate(zip(steps, recorded[1], strict=True), 1):
        assert (frame.step, frame.engine, frame.whole, frame.token_budget) == (number, 1, True, 12)
        running = {r.id: (r.pages, r.num_computed, r.num_tokens, r.seat) for r in frame.running}
        assert running == state["running"]
        assert [(r.id, r.num_tokens) for r in frame.waiting] == state["waiting"]
        plan = frame.plan
        rows = [(row.request_id, row.start, row.count, row.new_pages, row.samples) for row in plan.rows]
        assert rows == state["rows"] and plan.preempted == state["preempted"]
        assert frame.pool.references == state["references"]
        held = {page for pages, *_ in state["running"].values() for page in pages}
        alone = {page for page, count in enumerate(state["references"]) if count and page not in held}
        text = as_text(draw(steps, number - 1), 80).plain
        assert {int(page) for page in re.findall(r"(\d+) ~ +~", text)} == alone
        assert (f"; {len(alone)} kept by the prefix cache alone" in " ".join(text.split())) == bool(alone)
        assert sorted(frame.written) == state["slots"]
        assert frame.tokens == state["tokens"]
        assert [r.id for r in frame.finished] == state["finished"]
    assert any(frame._cached for frame in steps), "the prefix cache was on"


def press(app: ReplayApp, script: Callable[[ReplayApp, Any], Any], size: tuple[int, int] = (100, 40)) -> None:
    async def play() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(play())


def test_keys_go_through_the_run(steps: list[Frame]) -> None:
    last = len(steps) - 1

    async def script(app: ReplayApp, pilot: Any) -> None:
        for key, at in (
            ("right", 1), ("n", 2), ("left", 1), ("b", 0), ("b", 0), ("end", last), ("right", last), ("home", 0),
        ):  # fmt: skip
            await pilot.press(key)
            assert app.at == at, key
            assert f"step {at + 1} of {last + 1}," in str(app.query_one("#step").render())

        await pilot.press("j", "1", "2", "enter", "n")
        assert app.at == 12, "step 12 is at 11, and the keys work again"
        await pilot.press("j", "9", "9", "9", "enter")
        assert app.at == 12 and "no step 999" in str(app.query_one("#note").render())
        await pilot.press("n")
        assert app.at == 13 and not app.query_one("#note").display, "the next key takes the line away"
        await pilot.press("question_mark")
        assert "space: play" in str(app.query_one("#note").render())
        await pilot.press("j", "3", "escape", "b")
        assert app.at == 12, "a jump that was given up"
        await pilot.press("ctrl+c")
        assert not app.is_running or app._exit

    press(ReplayApp(steps), script)


@pytest.mark.parametrize("seconds", [0.01, 1000.0], ids=["by the clock", "by hand"])
def test_space_plays_and_pauses(steps: list[Frame], monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("minillm.cli.replay_app.SECONDS_A_STEP", seconds)

    async def by_the_clock(app: ReplayApp, pilot: Any) -> None:
        await pilot.press("space")
        while app.playing:
            await pilot.pause(0.02)
        assert app.at == len(steps) - 1

    async def by_hand(app: ReplayApp, pilot: Any) -> None:
        await pilot.press("space")
        app._tick()
        assert app.playing and app.at == 1
        await pilot.press("space")
        assert not app.playing and app.at == 1
        await pilot.press("end", "space")
        assert app.playing and app.at == 0, "at the end, it begins again"

    press(ReplayApp(steps), by_the_clock if seconds < 1 else by_hand)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_fits_the_screen_and_says_what_is_wrong(steps: list[Frame], width: int) -> None:
    assert all(line.cell_len <= width for line in as_text(draw(steps, 9), width).split("\n"))

    async def script(app: ReplayApp, pilot: Any) -> None:
        assert "cut here" in str(app.query_one("#note").render())
        await pilot.press("n", "down", "up")
        assert app.at == 1

    press(ReplayApp(steps, "cut here"), script, size=(width, 24))


def test_without_a_terminal_it_prints_a_step(recorded: tuple[Path, list[State]], capsys: Any) -> None:
    run(recorded[0], None, None, True)
    text, last = capsys.readouterr().out, len(recorded[1])
    assert f"step {last} of {last}," in text and text.isascii() and "finished" in text
    run(recorded[0], 3, 1, True)
    assert "step 3 of" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"no step 1000 was recorded; there are steps 1 to {last}"):
        run(recorded[0], 1000, None, True)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_recording_cut_in_the_middle(
    recorded: tuple[Path, list[State]], tmp_path: Path, capsys: Any, part: float
) -> None:
    """All that stands before the cut is shown, and one line says that it is cut."""
    content, path = recorded[0].read_bytes(), tmp_path / "cut.jsonl"
    end = int(len(content) * part)
    path.write_bytes(content[: end - (content[end - 1 : end] in b"\n}")])
    run(path, None, None, True)
    text = capsys.readouterr().out
    assert text.count("is cut or damaged at line") == 1
    before = [json.loads(line) for line in content[:end].split(b"\n")[1:-1]]
    begun = [entry["step"] for entry in before if entry["name"] == "scheduler.plan"]
    assert f"step {begun[-1]} of {begun[-1]}," in text
    ended = [entry["step"] for entry in before if entry["name"] == "engine.step"]
    assert ("only planned" in text) == (ended[-1] < begun[-1])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is no recording"),
        (b"hello\n", "is no recording"),
        (b"\xff\xfe\x00", "is no recording"),
        (b'{"traceEvents": []}\n', "is no recording"),
        (b"[1]\n", "is no recording"),
        (b'{"format": "minillm recording", "version": 99}\n', "version 99, and this minillm reads version 1"),
        (
            b'{"format":"minillm recording","version":1}\n'
            b'{"name":"scheduler.plan","engine":1,"step":1,"time":0,"values":{}}\n',
            "damaged: its event scheduler.plan",
        ),
    ],
)
def test_what_is_no_recording(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run(path, None, None, True)


def test_no_file_and_no_steps(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none.jsonl: No such file"):
        run(tmp_path / "none.jsonl", None, None, True)
    with record(tmp_path / "empty.jsonl"):
        pass
    run(tmp_path / "empty.jsonl", None, None, True)
    assert "No step was recorded" in capsys.readouterr().out


def test_a_jump_stays_in_its_engine(oracle: Oracle, tmp_path: Path) -> None:
    with record(tmp_path / "two.jsonl"):
        for _ in range(2):
            engine = make_engine(oracle.folder)
            engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
            while engine.has_requests:
                engine.step()
    made = frames(read_recording(tmp_path / "two.jsonl").records)
    assert [(frame.engine, frame.step) for frame in made] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    assert find(made, 2) == 1 and find(made, 2, near=5) == 4 and find(made, None) == 5


def test_engines_are_told_apart_by_what_differs(oracle: Oracle, tmp_path: Path, capsys: Any) -> None:
    """In the header, in what is said of a step that several have, in errors, and in the time line."""
    path = tmp_path / "two.jsonl"
    with record(path):
        for batching, tokens in (("static", 3), ("continuous", 4)):
            engine = make_engine(oracle.folder, batching=batching)
            engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
            while engine.has_requests:
                engine.step()
    run(path, 2, None, True)
    said = capsys.readouterr().out
    assert said.startswith("step 2 of 3, engine 1 (batching=static), ")
    assert "Another engine has a step 2, too" in said and "engine 2 (batching=continuous): steps 1 to 4" in said
    run(path, 4, None, True)
    said = capsys.readouterr().out
    assert said.startswith("step 4 of 4, engine 2 (batching=continuous), ") and "Another" not in said
    assert "finished  A length  (after this step)" in said
    with pytest.raises(
        ValueError, match=r"no step 9 was recorded; there are\n  engine 1 \(batching=static\): steps 1 to 3"
    ):
        run(path, 9, None, True)
    with pytest.raises(ValueError, match="engine 7 was not recorded; there are\n  engine 1 "):
        run(path, None, 7, True)
    trace = chrome_trace(read_recording(path).records)["traceEvents"]
    names = [event["args"]["name"] for event in trace if event["name"] == "process_name"]
    assert names == ["engine 1 batching=static", "engine 2 batching=continuous"]
