"""The lessons' traces: for each part of a run a picture, and what it must have shown.

Times differ from run to run and from machine to machine, so a picture cannot be compared with a new run. But with a
clock that counts instead of measuring (see record.py) a lesson prints the same each time: that text is kept, in
docs/generated/traces, and a new run of this kind must print it again, apart from a number's last digits. Each picture
says in its first line which text it belongs to. A picture is made anew only when its text has changed.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from pages.piece import COMMAND, ROOT, Piece, lesson_files

TEXTS = ROOT / "docs" / "generated" / "traces"
PICTURES = ROOT / "docs" / "img" / "traces"
LAST = "Try next"  # the part that every lesson ends with; a chapter says this in its own words
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

Part = dict[str, str]  # title, text, svg


def pieces(number: str, parts: list[Part], svgs: list[Part]) -> list[Piece]:
    """All files of a lesson: the text of ``parts`` (counted time), the pictures of ``svgs`` (measured time)."""
    made = [Piece(text_path(number), as_text(parts))]
    shown = shown_parts(parts)
    for index, (part, drawn) in enumerate(zip(shown, shown_parts(svgs))):
        made.append(Piece(picture_path(number, index), stamp(part) + drawn["svg"]))
    made += [Piece(snippet_path(number, index), figure(number, index, part)) for index, part in enumerate(shown)]
    everything = "\n".join(figure(number, index, part) for index, part in enumerate(shown))
    return [*made, Piece(f"docs/generated/lesson{number}_trace.md", everything)]


def stale(number: str, parts: list[Part]) -> list[str]:
    """The files of a lesson that a run with the counting clock does not agree with."""
    path = ROOT / text_path(number)
    if not path.is_file():
        return [text_path(number)]
    kept = from_text(path.read_text(encoding="utf-8"))
    if not agree(kept, parts):
        return [f"{text_path(number)} ({first_difference(kept, parts)})"]
    found = []
    for index, part in enumerate(shown_parts(kept)):
        picture = ROOT / picture_path(number, index)
        if not picture.is_file() or not picture.read_text(encoding="utf-8").startswith(stamp(part)):
            found.append(picture_path(number, index))
        if Piece(snippet_path(number, index), figure(number, index, part)).is_stale:
            found.append(snippet_path(number, index))
    return found


def run(number: str, same_clock: bool) -> list[Part]:
    """Run the lesson and return its parts; RuntimeError with its last words if it fails."""
    script = lesson_files()[number]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "parts.json"
        options = ["--same-clock"] if same_clock else []
        ours = ("MINILLM_BREAK", "MINILLM_LOG", "MINILLM_MINE", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
        environment = {key: value for key, value in os.environ.items() if key not in ours}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("record.py")), str(script), str(out), *options],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{script.name} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def agree(kept: list[Part], new: list[Part]) -> bool:
    return [part["title"] for part in kept] == [part["title"] for part in new] and all(
        same(old["text"], part["text"]) for old, part in zip(kept, new)
    )


def first_difference(kept: list[Part], new: list[Part]) -> str:
    """Where two runs part, in words."""
    for old, part in zip_longest(kept, new, fillvalue={"title": "no such part", "text": ""}):
        if old["title"] != part["title"]:
            return f"part {old['title']!r} is now {part['title']!r}"
        for before, after in zip_longest(old["text"].split("\n"), part["text"].split("\n"), fillvalue=""):
            if not same(before, after):
                return f"part {old['title']!r} said {before.strip()!r}, now {after.strip()!r}"
    return "words moved from line to line"


def same(kept: str, new: str) -> bool:
    """Whether two texts say the same: word for word, but numbers with a point may differ a little, bars by a step."""
    old_words, new_words = words(kept), words(new)
    return len(old_words) == len(new_words) and all(
        old == new or close(old, new) for old, new in zip(old_words, new_words)
    )


def words(text: str) -> list[str]:
    """Words and numbers, each apart, without the spaces and rules that only set them out."""
    text = re.sub("[▁▂▃▄▅▆▇█]", "█", text)
    text = re.sub("[─━]+", " ", text)
    return re.findall(NUMBER.pattern + r"|[^\s\d]+", text)


def close(old: str, new: str) -> bool:
    if "." not in old + new or not (NUMBER.fullmatch(old) and NUMBER.fullmatch(new)):
        return False
    a, b = (float(text.replace(",", "")) for text in (old, new))
    return abs(a - b) <= 0.02 * max(abs(a), abs(b)) + 0.011


def as_text(parts: list[Part]) -> str:
    return "".join(f"=== {part['title']}\n{part['text']}\n" for part in parts)


def from_text(text: str) -> list[Part]:
    found = re.findall(r"^=== (.*)\n((?:(?!=== ).*\n)*)", text, flags=re.MULTILINE)
    return [{"title": title, "text": body.removesuffix("\n")} for title, body in found]


def shown_parts(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part["title"] != LAST]


def stamp(part: Part) -> str:
    digest = hashlib.sha256((part["title"] + "\n" + part["text"]).encode()).hexdigest()[:16]
    return f"<!-- {COMMAND} recorded this; text {digest} -->\n"


def figure(number: str, index: int, part: Part) -> str:
    """A picture as a page takes it in. Part 0 is the head of the run, with the settings."""
    name = Path(picture_path(number, index)).name
    what = f"Part {index}: {part['title']}" if index else "How the run begins"
    said = f"What lesson {number} prints. {what}".replace("[", "(").replace("]", ")").replace('"', "'")
    return f'<div class="trace" tabindex="0" markdown>\n\n![{said}](../img/traces/{name}){{ loading=lazy }}\n\n</div>\n'


def text_path(number: str) -> str:
    return f"docs/generated/traces/lesson{number}.txt"


def picture_path(number: str, index: int) -> str:
    return f"docs/img/traces/lesson{number}_{index}.svg"


def snippet_path(number: str, index: int) -> str:
    return f"docs/generated/lesson{number}_trace_{index}.md"
