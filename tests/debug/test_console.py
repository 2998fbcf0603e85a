"""The debug console's helpers, asked as a learner asks them: in pdb, and in an editor's debug console."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from debug.dap import Session
from debug.test_pdb import run

from minillm.config import EngineConfig
from minillm.debug import console
from minillm.debug.console import pages, shapes, table, tree, where, why
from minillm.kvcache.manager import KVCacheManager
from minillm.request import Request, SamplingParams
from minillm.scheduler.scheduler import Scheduler

PROGRAM = Path(__file__).with_name("scheduling.py")
CLI = "import sys\nfrom minillm.__main__ import main\nsys.argv = ['minillm', *{arguments!r}]\nmain()\n"


def answers(commands: list[str], program: Path = PROGRAM, **environment: str) -> list[str]:
    """What pdb prints after each command."""
    done = run("\n".join([*commands, "disarm()", "c"]) + "\n", program, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [part.strip("\n") for part in done.stdout.split("(Pdb) ")[1:]]
    return parts[: len(commands)]


def make(num_pages: int = 5) -> Scheduler:
    scheduler = Scheduler(EngineConfig(max_model_len=20, page_size=4, max_num_seqs=4), KVCacheManager(num_pages, 4))
    for i in range(3):
        scheduler.add(Request(i, prompt_ids=[1] * 6, params=SamplingParams(), max_tokens=5, seed=0))
    return scheduler


def test_in_pdb() -> None:
    commands = [
        "where(request, 5)",
        "p where('A', 3)",
        "where(request, 37)",
        "why(request)",
        "why()",
        "shapes()",
        "table()",
    ]
    found = answers([*commands, "where", "pages()"], MINILLM_BREAK="kv.allocate", MINILLM_BREAK_WHEN="request.id == 1")
    assert found[:4] == [
        "request 1 (B), position 5: page 3, offset 1, slot 13 (not computed yet)",
        "request 0 (A), position 3: page 0, offset 3, slot 3 (not computed yet)",
        "request 1 (B), position 37: no page yet; its 2 pages of 4 tokens end at position 7",
        "runs: 6 tokens pending, 2 pages",
    ]
    assert found[4].splitlines()[-1] == "request 2 (C) waits: needs 2 pages, 1 free"
    assert found[5] == "no tensors among this frame's variables"
    assert found[6].startswith("step 1\n") and "A " in found[6]  # planned so far: request 0
    assert "in main\n" in found[7] or "main()" in found[7]  # without brackets it is pdb's own: the stack
    assert found[8].startswith("5 pages of 4 tokens: 4 in use, 1 free\n") and "2 B" in found[8]


def test_the_header_says_that_they_are_there() -> None:
    done = run("q\n", MINILLM_BREAK="kv.allocate")
    assert (
        "   ask: where(request, position), why(request), shapes(),\n"
        "        pages(), table(), tree(), look(), disarm()\n" in done.stdout
    )


def test_disarm_lets_the_program_run_to_its_end() -> None:
    done = run("disarm()\nc\n", MINILLM_BREAK="*", MINILLM_LOG="kv.free")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("── step ") == 1
    assert done.stdout.endswith("done after 10 steps and 1 preemptions\n")


def test_deep_in_the_model_in_an_editor(tmp_path: Path) -> None:
    """A layer's frame knows no scheduler; the way up the stack does. Locals of the same name win."""
    script = tmp_path / "program.py"
    arguments = ["generate", "What is a page?", "--max-tokens", "3", "--set", "page_size=4", "--no-stream"]
    script.write_text(CLI.format(arguments=arguments))
    environment = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "MINILLM_BREAK": "attention.attend", "MINILLM_LOG": ""}
    environment["MINILLM_BREAK_WHEN"] = "layer == 1 and step == 2"
    with Session(script, environment=environment, folder=tmp_path) as session:
        session.attach()
        stop = session.stopped()
        context = stop.evaluate("batch.context_lens[0]")
        position = int(context) - 1
        slot = int(stop.evaluate("int(batch.slots[0])"))
        assert stop.evaluate(f"where(0, {position})") == (
            f"request 0 (A), position {position}: page {slot // 4}, offset {slot % 4}, slot {slot} (not computed yet)"
        )
        shown = dict(line.split("  ", 1) for line in stop.evaluate("shapes()").splitlines())
        assert shown["q"].split("  ")[-1].strip() == "[1, 8, 64]"
        assert {"batch.input_ids", "batch.slots", "batch.page_table", "k", "v"} <= {name.strip() for name in shown}
        assert "A" in stop.evaluate("pages()") and "this step" in stop.evaluate("pages()")
        assert "decode" in stop.evaluate("table()")
        assert stop.evaluate("why(0)").startswith("runs: 1 tokens pending")
        assert "✓" in stop.evaluate("look()") and "Error" not in stop.evaluate("look()")
        stop.evaluate("disarm()")
        session.go_on(stop)
        code, output = session.ended()
        assert code == 0, output


def test_why_counts_what_is_left_of_the_step() -> None:
    found = answers(["why(request)"], MINILLM_BREAK="scheduler.wait")
    assert found == ["waits: needs 2 pages, 1 free"]


def test_why_of_one_whose_turn_has_not_come() -> None:
    """Between two steps nothing may be short; while others are admitted, it may still come in."""
    scheduler = make(9)
    assert repr(why(2)) == "waits: nothing is short, its turn comes in the next step"
    found = answers(["why(1)", "why(2)"], MINILLM_BREAK="scheduler.admit", MINILLM_BREAK_WHEN="request.id == 0")
    assert found == ["waits: nothing is short, its turn comes in this step"] * 2
    assert scheduler.waiting


def test_a_helper_without_brackets_says_what_it_is_and_what_else_may_be_meant() -> None:
    found = answers(["p pages", "p table", "p new_pages", "p look()"], MINILLM_BREAK="kv.allocate")
    assert found[0] == ("a helper, to be called: pages(); the value 'pages' of probe kv.allocate is here: new_pages")
    assert found[1:3] == ["a helper, to be called: table()", "[0, 1]"]
    assert found[3].startswith("   request.pages = [0, 1]   (the page table") and "✗" not in found[3]


def test_without_a_debugger_they_find_what_is_alive() -> None:
    scheduler = make()
    scheduler.schedule()
    assert repr(where(1, 0)) == "request 1 (B), position 0: page 2, offset 0, slot 8 (not computed yet)"
    assert repr(where(2)) == "request 2 (C), position 5: no page yet; it holds no pages"
    assert repr(where("b", 0)) == repr(where("B", 0)) == repr(where("r1", 0)) == repr(where(1, 0))
    assert "counted from 0" in repr(where(1, -1))
    assert repr(why(2)) == "waits: needs 2 pages, 1 free"
    assert repr(pages()).startswith("5 pages of 4 tokens: 4 in use, 1 free")
    assert "nothing is planned here yet" in repr(table())
    with pytest.raises(LookupError, match=r"no request 7 runs or waits; there are: 0 \(A\), 1 \(B\), 2 \(C\)"):
        where(7, 0)


def test_the_nearest_engine_counts() -> None:
    far = make(9)

    def near(scheduler: Scheduler) -> str:
        return repr(pages())

    assert near(make(5)).startswith("5 pages") and near(far).startswith("9 pages")
    assert repr(why(0)).startswith("waits") and far


def test_where_nothing_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minillm.debug.scope.gc.get_objects", list)
    with pytest.raises(LookupError, match=r"no engine is alive here yet: go on .* request\.add"):
        ask(why)


def ask(helper: Callable[[], Any]) -> Any:
    return helper()


def test_the_tree() -> None:
    """Without an engine near there is no tokenizer: token ids then. With one, text."""
    scheduler = Scheduler(EngineConfig(max_model_len=20, page_size=4), KVCacheManager(8, 4, shares_prefixes=True))
    assert repr(tree()) == "0 nodes, 0 pages of 4 tokens: the tree is empty"
    for i, last in enumerate((8, 9)):
        scheduler.add(Request(i, [1, 2, 3, 4, 5, 6, 7, last], SamplingParams(), max_tokens=2, seed=0))
    scheduler.schedule()
    lines = repr(tree()).splitlines()
    assert lines[0] == "3 nodes, 3 pages of 4 tokens: 3 locked, 0 can be evicted"
    assert [line.split() for line in lines[4:7]] == [
        ["└─", "'1", "2", "3", "4'", "4", "0", "A+B"],
        ["├─", "'5", "6", "7", "8'", "4", "1", "A"],
        ["└─", "'5", "6", "7", "9'", "4", "2", "B"],
    ]


def test_the_tree_where_there_is_none_and_in_an_engine(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    arguments = ["generate", "What is a page?", "--max-tokens", "3", "--set", "page_size=4", "--no-stream"]
    script.write_text(CLI.format(arguments=arguments))
    (found,) = answers(["tree()"], script, MINILLM_BREAK="engine.step")
    assert "What is" in found and " A\n" in found and "locked: a request's path" in found
    script.write_text(CLI.format(arguments=[*arguments, "--set", "prefix_cache=none"]))
    assert answers(["tree()"], script, MINILLM_BREAK="engine.step") == [
        "there is no tree: this engine's prefix_cache is 'none'"
    ]


def test_shapes_look_one_level_inside() -> None:
    hidden = torch.zeros(3, 4, dtype=torch.bfloat16)
    pair, several = (torch.ones(2), "x"), {"k": torch.zeros(1, dtype=torch.int8)}
    seats, kind = np.zeros((2, 2)), torch.Tensor
    text = repr(shapes())
    assert text.splitlines() == [
        "hidden        bfloat16  [3, 4]",
        "pair[0]       float32   [2]",
        "several['k']  int8      [1]",
        "seats         float64   [2, 2]",
    ]
    assert hidden is not None and pair and several and seats.any() == 0 and kind


def test_all_are_offered_and_none_is_a_name_of_python_s_own() -> None:
    import builtins

    from minillm.debug.condition import _BUILTINS
    from minillm.debug.debuggers import HELPERS

    assert {name.partition("(")[0] for name in HELPERS} == set(console.__all__)
    assert not set(console.__all__) & set(_BUILTINS)
    assert builtins.len is len


def test_conditions_do_not_see_them() -> None:
    """``pages`` at a probe without such a value is a mistake that is reported, not a function that is true."""
    done = run("c\n" * 20, MINILLM_BREAK="kv.allocate,scheduler.begin", MINILLM_BREAK_WHEN="pages and request.id == 1")
    assert done.returncode == 0
    assert "NameError: name 'pages' is not defined" in done.stderr
    assert done.stdout.count("── kv.allocate ──") == 2 and "── scheduler.begin ──" not in done.stdout


@pytest.mark.parametrize(
    ("when", "asked", "expected"),
    [
        ("request.id == 2", "request.id", "2"),
        ("7 in request.pages", "request.id, request.pages[-1]", "(1, 7)"),
        ("event == 'scheduler.preempt'", "victim.id, victim.num_preemptions", "(2, 0)"),
        ("event == 'kv.free' and request.finished", "request.finish_reason", "'length'"),
        ("layer == 3 and step == 2", "self.layer", "3"),
    ],
)
def test_conditions_in_the_engine_s_words(when: str, asked: str, expected: str, tmp_path: Path) -> None:
    """At stops of the real engine: three requests that share ten pages, not enough for all."""
    script = tmp_path / "program.py"
    script.write_text(
        "from minillm import LLM, SamplingParams\n"
        "llm = LLM('nano-llama', page_size=4, num_pages=10, max_model_len=32, prefix_cache='none')\n"
        "params = SamplingParams(temperature=0, max_tokens=14, ignore_eos=True)\n"
        "llm.generate([[5, 6, 7, 8, 9]] * 3, params, use_tqdm=False)\n"
    )
    names = "request.*,scheduler.*,kv.*,attention.attend"
    (found,) = answers([f"p {asked}"], script, MINILLM_BREAK=names, MINILLM_BREAK_WHEN=when)
    assert found == expected
