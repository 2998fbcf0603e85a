"""A real debugger, attached as VS Code attaches: it must land in the engine, on the line after the probe."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from debug.dap import Session, Stop

from minillm.debug.catalogue import PACKAGE, locations

if TYPE_CHECKING:
    from tiny import Oracle

PROGRAM = Path(__file__).with_name("scheduling.py")
ENGINE = """
import sys
from minillm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], page_size=4, num_pages=16, max_model_len=32)
outputs = llm.generate([[5, 6, 7, 8, 9]], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
print("tokens:", len(outputs[0].outputs[0].token_ids))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def start(script: Path, *arguments: str, **environment: str) -> Session:
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        sessions.append(Session(script, *arguments, environment={**quiet, **environment}, folder=tmp_path))
        sessions[-1].attach()
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


def place_of(stop: Stop) -> tuple[str, int]:
    return Path(stop.file).resolve().relative_to(PACKAGE.parent).as_posix(), stop.line


def documented(name: str) -> tuple[str, int]:
    ((file, _, stops_at),) = locations()[name]
    return file, stops_at


def test_stops_on_the_statement_after_the_probe(start: Callable[..., Session]) -> None:
    session = start(PROGRAM, MINILLM_BREAK="kv.allocate")
    whose = []
    for _ in range(6):
        stop = session.stopped()
        assert (place_of(stop), stop.function) == (documented("kv.allocate"), "take")
        names = stop.local_variables()
        assert {"self", "request", "start", "end", "new_pages"} <= set(names)
        assert names["request"].startswith("Request(")
        whose.append((stop.evaluate("request.id"), stop.evaluate("request.pages")))
        session.go_on(stop)
    assert [request for request, _ in whose] == ["0", "1", "0", "1", "2", "2"]
    assert [pages for _, pages in whose] == ["[0, 1]", "[2, 3]", "[0, 1, 4]", "[4, 1, 0]", "[3, 2]", "[3, 2, 0]"]
    code, output = session.ended()
    assert code == 0, output
    assert "── kv.allocate ── step 1 ──" in output  # the terminal says which probe it is
    assert output.endswith("done after 10 steps and 1 preemptions\n")


def test_stops_only_where_the_condition_holds_and_steps_on_from_there(start: Callable[..., Session]) -> None:
    session = start(PROGRAM, MINILLM_BREAK="*", MINILLM_BREAK_WHEN="event == 'scheduler.preempt'")
    stop = session.stopped()
    assert place_of(stop) == documented("scheduler.preempt")
    assert [frame["name"] for frame in stop.frames[:3]] == ["_make_room", "schedule", "main"]
    assert stop.evaluate("victim.pages") == "[2, 3]"
    session.ask("next", threadId=stop.thread)
    stepped = session.stopped()
    assert stepped.function == "_make_room" and stepped.line == stop.line + 1
    assert stepped.evaluate("victim.pages") == "[]"
    session.go_on(stepped)
    code, output = session.ended()
    assert code == 0, output


def test_the_whole_engine(start: Callable[..., Session], tmp_path: Path, oracle: "Oracle") -> None:
    """From its birth (a probe that takes several lines) into the model's layers."""
    script = tmp_path / "program.py"
    script.write_text(ENGINE)
    when = "event == 'engine.config' or (layer == 1 and step == 2)"
    session = start(script, str(oracle.folder), MINILLM_BREAK="engine.config,attention.attend", MINILLM_BREAK_WHEN=when)
    stop = session.stopped()
    assert (place_of(stop), stop.function) == (documented("engine.config"), "__init__")
    assert stop.evaluate("config.page_size") == "4"
    session.go_on(stop)
    stop = session.stopped()
    assert (place_of(stop), stop.function) == (documented("attention.attend"), "forward")
    assert {"q", "k", "v", "batch"} <= set(stop.local_variables())
    assert stop.evaluate("batch.context_lens") == "[6]"
    session.go_on(stop)
    code, output = session.ended()
    assert code == 0, output
    assert output.endswith("tokens: 3\n")
