"""Sentences of a chapter that speak of measured things: each needs a claim behind it (claims.py), or says where its
numbers come from: by a link to the page of measurements, or by ``<!-- from: ... -->``."""

import re
from collections.abc import Iterator

from pages.claims import COMMENT

MEASURED = re.compile(
    r"""\d\ ?(?:ns|us|µs|ms|s|seconds?|microseconds?|milliseconds?|minutes?|%)(?!\w)
      | \d\ ?(?:MB|GB|TB|KiB|MiB|GiB|GFLOP)\b
      | \d\ (?:tokens/s|tokens\ a\ second|times|points|percent|billion|million|operations)\b
      | \b(?:two|three|four|five|six|ten|hundred|thousand|many|several|about|nearly)\ times\b
      | \btwice\ as\b | \bhalf\ (?:as|the\ time)\b
      | \b(?:faster|slower|fastest|slowest|quicker)\b
      | \b(?:most|part|rest|half|quarter|third|tenths)\ of\ (?:the|a|its|all)\ (?:\w+\ )?(?:time|step|steps)\b
      | \bhardly\b | \bnear\ each\ other\b | \bare\ close\b | \bnoise\b""",
    re.VERBOSE,
)
RUN = "The run"  # where a chapter speaks of its lesson's run: there, every number counts
ANY = re.compile(r"(?<![\w-])\d[\d,.]*\b")
# No numbers of a run: code, links, and names such as "lessons 13 to 16" and "part 6".
NAMES = re.compile(
    r"`[^`]*`|!?\[.*?\]\(.*?\)|\b(?:lessons?|parts?|step|tasks?|engine) [\d.]+(?: (?:to|and) [\d.]+)?",
    flags=re.IGNORECASE,
)
SKIPPED = ("Check yourself", "Further reading")  # sums that a reader does; titles
PAGE = "performance.md"  # where measurements are kept
NO_TEXT = re.compile(r"\||!!!|\?\?\?|> \[!|</?(?:details|summary)")
ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def unclaimed(text: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) of each sentence that speaks of something measured while nobody says where that is from."""
    for section, line, words in paragraphs(text):
        if "<!-- all from:" in words:
            continue
        for sentence, comments in parted(words):
            said = NAMES.sub("", sentence)
            speaks = MEASURED.search(said) or (section == RUN and ANY.search(said))
            if speaks and not comments and PAGE not in sentence:
                yield line, " ".join(sentence.split())


def paragraphs(text: str) -> Iterator[tuple[str, int, str]]:
    """(section, line, text) of each paragraph or list item: no code, tables, headings, and none of the skipped."""
    section, fenced, began = "", False, 0
    words: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        bare = line.strip().removeprefix("> ").removeprefix(">")
        inside = "\n".join(words).rfind("<!--") > "\n".join(words).rfind("-->")  # of a comment
        fence, heading = bare.startswith("```"), re.match(r"## (.*)", line)
        no_text = fence or fenced or bare.startswith("#") or NO_TEXT.match(bare) or NO_TEXT.match(line.strip())
        if words and not inside and (not bare or no_text or ITEM.match(bare)):
            yield section, began, "\n".join(words)
            words = []
        fenced ^= fence
        if heading and not fenced:
            section = heading[1]
        elif bare and (inside or not no_text) and section not in SKIPPED:
            began = began if words else number
            words.append(bare)


def parted(words: str) -> Iterator[tuple[str, list[str]]]:
    """A paragraph's sentences, each with the comments behind it."""
    words = ITEM.sub("", words, count=1) if ITEM.match(words) else words
    comments = [found[0] for found in COMMENT.finditer(words)]
    held = COMMENT.sub("\x00", words)  # a full stop in a comment ends no sentence
    for piece in re.findall(r"(?:[^.!?\x00]|[.!?](?![\s*)\x00\"]|$))+[.!?:]*[*)\"]*(?:\s*\x00)*|\x00", held):
        count = piece.count("\x00")
        taken, comments = comments[:count], comments[count:]
        if sentence := piece.replace("\x00", "").strip():
            yield sentence, taken
