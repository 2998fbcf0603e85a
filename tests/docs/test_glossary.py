"""The glossary's page says of each word what is so today: the words themselves were written before."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import glossary  # noqa: E402

from minillm.config import ATTENTION_BACKENDS  # noqa: E402
from minillm.debug.catalogue import catalogue  # noqa: E402

ROWS = yaml.safe_load(glossary.REMARKS.read_text(encoding="utf-8"))
TERMS = {entry["term"] for name in glossary.topic_names() for entry in glossary.entries(name)}


def test_every_remark_is_on_its_word() -> None:
    named = [term for row in ROWS for term in row["terms"]]
    assert set(named) <= TERMS and len(named) == len(set(named))
    page = glossary.page()
    assert page.count("Not built yet: to come with lesson") == sum(len(row["terms"]) for row in ROWS if "lesson" in row)
    marlin = page.partition("### Marlin {")[2].partition("\n### ")[0]
    assert '<p class="names">Not built yet: to come with lesson 14.</p>' in marlin


def test_what_is_to_come_is_not_there() -> None:
    """When a lesson brings it, its words are not to come any more."""
    for row in ROWS:
        if "lesson" in row:
            for absent in (row["absent"], f"lessons/{row['lesson']}_*.py"):
                there = list(ROOT.glob(absent))
                assert not there, f"{there[0]} is there: take {row['terms']} out of scripts/pages/remarks.yaml"


def test_words_about_the_engine_name_what_it_has() -> None:
    said = glossary.remarks()["attention backend"]
    assert re.findall(r"(\w+)(?=, |: | and |\. )", said)[0] and all(name in said for name in ATTENTION_BACKENDS)
    assert f"there are {('', 'one', 'two', 'three', 'four', 'five', 'six', 'seven')[len(ATTENTION_BACKENDS)]}" in said


def test_a_name_that_means_something_else_is_said_to() -> None:
    table = glossary.settings()
    assert (
        "| `gpu_memory_utilization` | `gpu_memory_utilization` | `mem_fraction_static` (there of weights and" in table
    )
    assert "| `page_size` | `block_size` |" in table and "| `max_cached_tokens` |  | `max_total_tokens` |" in table


def test_a_condition_that_never_holds_says_so() -> None:
    """Every way in which a layer holds its weight today is dense."""
    formats = [
        path for path in (ROOT / "minillm" / "quantization").glob("*.py") if path.stem not in ("__init__", "format")
    ]
    meaning = next(words for text, words in catalogue()["weights.process"].conditions.items() if "dense" in text)
    assert ("none so far" in meaning) == ([path.stem for path in formats] == ["dense"])
