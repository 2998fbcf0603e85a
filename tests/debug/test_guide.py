"""The breakpoint guide: whole, right to the line, and its checklist works in a running engine."""

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from minillm.debug.catalogue import PACKAGE, catalogue, locations
from minillm.debug.first_walk import CHECKLIST, STAGES
from minillm.debug.guide import markdown
from minillm.debug.launch import configurations
from minillm.probe import Event, listen

if TYPE_CHECKING:
    from tiny import Oracle

PAGE = markdown()


def test_every_probe_stands_once_in_the_walk_and_once_by_topic() -> None:
    walk, topics = PAGE.partition("## By topic")[::2]
    names = re.findall(r"^#### \d+\. (\S+) \{ #probe-[a-z-]+ \}$", walk, re.MULTILINE)
    assert names == list(catalogue())
    rows = re.findall(r"^\| \[(\S+)\]\(#probe-", topics.partition("## To tick off")[0], re.MULTILINE)
    assert sorted(rows) == sorted(catalogue())


def test_the_walk_s_parts() -> None:
    assert list(STAGES) == [name for name in catalogue() if name in STAGES]  # in the same order, and each is there
    assert next(iter(STAGES)) == next(iter(catalogue()))
    assert [title for title in STAGES.values() if f"\n### {title}\n" not in PAGE] == []


def test_each_stop_is_quoted_with_its_line() -> None:
    quoted = re.findall(r"^Stops at `(\S+):(\d+)`:\n\n```python\n(.*)\n```$", PAGE, re.MULTILINE)
    assert len(quoted) == sum(map(len, locations().values()))
    for file, line, statement in quoted:
        source = (PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()
        assert source[int(line) - 1].strip() == statement


def test_every_link_leads_somewhere() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= set(re.findall(r"\{ #([^ ]+) \}", PAGE))


def test_tables_have_equally_many_cells_in_every_row() -> None:
    for table in re.findall(r"(?:^\|.*\n?)+", PAGE, re.MULTILINE):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1, table


@pytest.mark.parametrize("one", configurations(), ids=lambda one: one.title)
def test_every_configuration_is_listed(one) -> None:
    (row,) = re.findall(rf"^\| \*\*{re.escape(one.title)}\*\* \| (.+) \|$", PAGE, re.MULTILINE)
    assert all(f"[{name}]" in row for name in one.probes) or row == one.note


def test_the_checklist_can_be_typed_where_it_says(oracle: "Oracle") -> None:
    from minillm import LLM, SamplingParams

    wanted: dict[str, list[str]] = defaultdict(list)
    for items in CHECKLIST.values():
        for probe, expression, say in items:
            assert probe in catalogue() and say
            wanted[probe].append(expression)
    tried = set()

    def type_it(event: Event) -> None:
        for expression in wanted[event.name]:
            eval(expression, event.frame.f_globals, event.frame.f_locals)
            tried.add(expression)

    with listen(list(wanted), type_it):
        llm = LLM(str(oracle.folder), page_size=4, num_pages=16, max_model_len=32)
        llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=2), use_tqdm=False)
    assert tried == {expression for expressions in wanted.values() for expression in expressions}
