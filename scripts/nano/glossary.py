"""Read the glossary: what the bundled model is taught to answer.

A glossary file is a YAML list of entries `{term, answer, questions, held_out, vllm?, sglang?, see?}`. `questions` are
trained; `held_out` are other phrasings of the same question which no training example may contain, so that the rate of
right answers to them says whether the model learned the question or only the sentence.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

GLOSSARY = Path(__file__).parents[2] / "minillm" / "assets" / "glossary"
SMALL_TALK = Path(__file__).with_name("small_talk.yaml")


@dataclass
class Entry:
    """One answer and the ways to ask for it."""

    term: str
    answer: str
    questions: list[str]
    held_out: list[str] = field(default_factory=list)


def load_entries(folder: Path = GLOSSARY, files: str = "*.yaml") -> list[Entry]:
    """All entries of all files, in the files' order. `answer` is flattened to one line: YAML may have folded it."""
    paths = sorted(folder.glob(files))
    if not paths:
        raise SystemExit(f"No glossary files {files} in {folder}: nothing to teach.")
    rows = [row for file in paths for row in yaml.safe_load(file.read_text(encoding="utf-8"))]
    return [
        Entry(row["term"], " ".join(row["answer"].split()), list(row["questions"]), list(row.get("held_out") or []))
        for row in rows
    ]


def load_small_talk(name: str, size: str) -> dict:
    """`off_topic` (one answer for everything that is not in the glossary) and a few pleasantries, as model `name` has
    them; `size` is its parameters in words."""
    return yaml.safe_load(SMALL_TALK.read_text(encoding="utf-8").replace("NAME", name).replace("SIZE", size))


def normalise(question: str) -> str:
    """The words alone, lower case, without articles: two questions with the same words are the same question."""
    words = re.findall(r"[a-z0-9]+", question.lower())
    return " ".join(word for word in words if word not in {"a", "an", "the", "please"})
