"""``minillm learn``, as a learner types it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from learners import Done, Learn, clean, environment, solve

from minillm.debug.views.theme import make_console
from minillm.learn.diff import diff, first_difference
from minillm.learn.mine import MineError
from minillm.learn.race import race
from minillm.learn.registry import task, tasks
from minillm.learn.stub import is_stub

ROOT = Path(__file__).resolve().parents[2]


def test_before_anything_was_started(learn: Learn, my: Path) -> None:
    text = clean(learn())
    assert "3.1  take pages off the free list" in text
    assert f"0 of {len(tasks())} done. Next: python -m minillm learn start 01" in " ".join(text.split())
    assert "nothing has been started yet; begin with: python -m minillm learn start 01" in clean(learn("check"), 2)
    assert not my.exists()


def test_the_list_has_the_quiz(learn: Learn, my: Path) -> None:
    my.mkdir()
    scores = {"03": {"right": 4, "asked": 6}, "04": {"right": 5, "asked": 5}, "05": None, "02": {"right": "x"}}
    (my / "progress.json").write_text(json.dumps({"quiz": scores}))
    text = clean(learn())
    assert "\n03  paged attention  quiz: 4 of 6 right\n" in text and "batching  quiz: 5 of 5 right\n" in text
    assert f"0 of {len(tasks())} done. Quiz: 9 of 11 right. Next: " in text
    assert text.count("quiz") == 2


def test_start_twice_keeps_the_work_and_says_so(learn: Learn, my: Path) -> None:
    assert "5 of the engine's functions" in clean(learn("start", "03"))
    path = solve(my, "03", "3.1", "3.3")
    written = path.read_text(encoding="utf-8")
    text = clean(learn("start", "3"))
    assert "is there already and stays as it is: 2 of 5 written" in text and "learn reset 3.1" in text
    assert path.read_text(encoding="utf-8") == written
    assert "Next: write 3.1" in clean(learn())


def test_a_broken_file_is_shown_with_its_line(learn: Learn, my: Path) -> None:
    path = solve(my, "03")
    text = path.read_text(encoding="utf-8").replace('raise Todo("3.2")', "return (")
    path.write_text(text, encoding="utf-8")
    line = text.splitlines().index("        return (") + 1
    for command in (("check", "3.1"), ("diff", "3.2"), ("race", "03"), ("reset", "3.2")):
        assert f"ex03.py, line {line}, is no Python" in clean(learn(*command), 2)
    assert "is no Python" in clean(learn("start", "03"))
    clean(learn("reset", "03"))
    assert is_stub(path.read_text(encoding="utf-8"), task("3.2"))
    assert (my / "ex03.before1.py").read_text(encoding="utf-8") == text


def test_a_renamed_function(learn: Learn, my: Path) -> None:
    path = solve(my, "03", "3.1")
    path.write_text(path.read_text(encoding="utf-8").replace("def append", "def apend"), encoding="utf-8")
    text = clean(learn("check", "3.2"), 1)
    assert "has no PagePool.append, which is exercise 3.2; there is allocate, apend, free" in text
    assert text.count("has no PagePool.append") == 1 and text.count("  (the same)\n") >= 2  # not once for each test
    assert "rename it back, or begin anew" in text and "failed on setup" not in text


def test_unknown_tasks_and_lessons_list_what_there_is(learn: Learn, my: Path) -> None:
    for command in ("hint", "diff", "check"):
        assert "there is no exercise '99.1'; there are\n  1.1  RMSNorm" in clean(learn(command, "99.1"), 2)
    for command in ("start", "watch", "race", "check", "reset"):
        assert "lesson '77' has no exercises; these have\n  01  first token" in clean(learn(command, "77"), 2)


def test_hints_come_one_by_one(learn: Learn, my: Path) -> None:
    counts = [clean(learn("hint", "3.1")).count(" of 3\n") for _ in range(4)]
    assert counts == [1, 2, 3, 3]
    last = clean(learn("hint", "3.1"))
    assert "--break kv.allocate" in last and "docs/lessons/03_paged_attention.md" in last and "learn diff 3.1" in last
    assert "3.1  take pages off the free list  3 hints" in clean(learn())


def test_check_says_what_is_to_do_what_is_wrong_and_what_is_done(learn: Learn, my: Path) -> None:
    path = solve(my, "03", "3.4", **{"3_2": ("pages.extend(new)", "pages = pages + new")})
    text = clean(learn("check", "03"), 1)
    assert "Still to be written: 3.1, 3.3, 3.5. A hint: python -m minillm learn hint 3.1\n" in text
    assert "✗ a page is added only when the last one is full" in text
    assert "with 1 tokens the page table is [], and [0] is right" in text
    assert re.search(r"3\.4 .*\n(  ✓ .*\n){4,}  done.* Race it: \S+ -m minillm learn race 3\.4\n", text)
    listed = clean(learn())
    assert "✓ 3.4" in listed and "✓ 3.1" not in listed and "✓ 3.2" not in listed
    path.write_text(path.read_text(encoding="utf-8").replace("pages * page_size +", "pages +"), encoding="utf-8")
    text = clean(learn("check", "3.4"), 1)
    assert "the request in seat 2, position 0: slot 6" in text
    assert "✓ 3.4" not in clean(learn())  # no longer
    text = clean(learn("check", "3.1"), 1)
    assert "3.1  take pages off the free list\n  ○ pages come from the top of the free list\n" in text
    assert re.search(r"still to be written in \S*ex03\.py\. A hint: python -m minillm learn hint 3\.1", text)


def test_an_error_in_the_learners_function_has_its_line(learn: Learn, my: Path) -> None:
    path = solve(my, "03", **{"3_4": ("return pages", "return nothing\n    return pages")})
    line = path.read_text(encoding="utf-8").splitlines().index("    return nothing") + 1
    text = clean(learn("check", "3.4"), 1)
    assert "NameError: name 'nothing' is not defined" in text and f"ex03.py, line {line}" in text
    text = clean(learn("diff", "3.4"))
    assert f"ex03.py, line {line}, in slot_mapping: NameError" in text


def test_diff_shows_both_names_the_place_and_notes_the_peek(learn: Learn, my: Path) -> None:
    solve(my, "03", **{"3_4": ("positions % page_size", "0")})
    text = clean(learn("diff", "3.4"))
    assert "yours" in text and "the engine's own, minillm/worker/page_table.py" in text
    assert "step 1, request 0, position 1: the slot of a token" in text
    assert "page 0 slot 0 (slot 0 of the cache)" in text and "page 0 slot 1 (slot 1 of the cache)" in text
    assert "peeked" in clean(learn())
    assert json.loads((my / "progress.json").read_text())["tasks"]["3.4"]["peeked"]
    assert "exercise 3.1 is still to be written" in first_difference(task("3.1"))
    (my / "progress.json").write_text(json.dumps({"tasks": {"3.4": {"done": "now"}}}))
    diff(task("3.4"), make_console(plain=True))
    assert "peeked" not in json.loads((my / "progress.json").read_text())["tasks"]["3.4"]  # it was done before


@pytest.mark.ci
def test_race_compares_tokens_and_speed(learn: Learn, my: Path) -> None:
    solve(my, "03", "3.1", "3.4")
    text = clean(learn("race", "03"))
    assert "tokens/s" in text and re.search(r"The same \d+ tokens\.", text)
    assert "Your 3.1, 3.4 against" in text and "the engine's own on both sides: 3.2, 3.3, 3.5" in text
    assert "exercise 3.2 is still to be written" in clean(learn("race", "3.2"), 2)
    solve(my, "03", **{"3_4": ("positions % page_size", "0")})
    assert re.search(r"Other tokens: request \d's answer differs", clean(learn("race", "3.4"), 1))
    solve(my, "03", **{"3_4": ("return pages * page_size + positions % page_size", "return pages[:1]")})
    with pytest.raises(MineError, match=r"^your 3\.4 is not right yet: python -m minillm learn check 3\.4\n"):
        race([task("3.4")], make_console(plain=True))


def test_reset(learn: Learn, my: Path) -> None:
    path = solve(my, "03", "3.1", "3.4")
    entry = {"3.4": {"done": "yesterday", "hints": 1, "peeked": "today"}}
    (my / "progress.json").write_text(json.dumps({"tasks": entry}))
    assert "✓ 3.4" in clean(learn())
    text = clean(learn("reset", "3.4"))
    assert "ex03.py has 3.4 new" in text and "ex03.before1.py" in text
    left = path.read_text(encoding="utf-8")
    assert is_stub(left, task("3.4")) and not is_stub(left, task("3.1"))
    listed = clean(learn())
    assert "✓ 3.4" not in listed and "1 hint" not in listed
    assert "peeked" in listed  # what was seen stays seen


@pytest.mark.ci
def test_a_lesson_on_ones_own_functions(my: Path, tmp_path: Path) -> None:
    def lesson(number: str) -> Done:
        command = [sys.executable, "-m", "minillm", "lesson", number, "--mine", "--plain"]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment(my), timeout=240
        )

    assert "begin with: python -m minillm learn start 03" in clean(lesson("03"), 2)
    solve(my, "02")
    assert "exercise 2.1 is still to be written; a hint: python -m minillm learn hint 2.1" in clean(lesson("02"), 1)
    path = solve(my, "03", "3.1", "3.5")
    wrong = path.read_text(encoding="utf-8").replace("taken = [", "taken = nothing + [")
    path.write_text(wrong, encoding="utf-8")
    text = clean(lesson("03"), 2)
    assert re.search(r"ex03\.py, line \d+, in allocate: NameError", text)
    assert "runs on your own PagePool.allocate, gather_kv from" in text
    text = " ".join(text.split())
    assert "Still the engine's own, because you have not written them yet: PagePool.append, PagePool.free" in text
    solve(my, "02", "2.1")
    assert "runs on your own GatherAttention.decode" in clean(lesson("02"))


def test_pytest_alone_skips_fresh_stubs_with_the_hint_command(my: Path) -> None:
    solve(my, "03")
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"]
    file = "tests/checkpoints/test_03_paged_attention.py"
    done = subprocess.run([*command, file], cwd=ROOT, capture_output=True, encoding="utf-8", env=environment(my))
    text = clean(done)
    assert "pytest -rs says which" not in text
    assert re.search(r"2\d skipped", text) and "passed" not in text and "failed" not in text
    assert "python -m minillm learn hint 3.1" in text
    done = subprocess.run(
        [*command[:3], "-k", "test_pages_come_from", file],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env=environment(my),
    )
    assert re.search(r"\d+ tests? w.* skipped: .* still to be written; pytest -rs says which", clean(done))
