"""The glossary: every word of minillm/assets/glossary, by topic and by letter, with vLLM's and SGLang's names."""

import html
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from pages.clone import ROOT
from pages.words import anchor

FOLDER = ROOT / "minillm" / "assets" / "glossary"
REMARKS = Path(__file__).parent / "remarks.yaml"
ONLY_OURS = ("max_cached_tokens",)  # settings that vLLM has not; the others have its names
# File -> the topic's title, in the order of the lessons.
TOPICS = {
    "basics": "Basics: text, tokens, sampling",
    "model": "The model",
    "cache": "The KV cache",
    "scheduling": "Scheduling and measuring",
    "engine": "The engine",
    "kernels": "Kernels and speed",
    "compression": "Compression, experts and adapters",
    "serving": "Serving",
}


def page() -> str:
    """All words, below the page's head."""
    topics = {name: entries(name) for name in topic_names()}
    everything = [entry for found in topics.values() for entry in found]
    parts = [by_topic(topics), by_letter(everything)]
    for name, found in topics.items():
        parts += [f"## {title(name)} {{ #topic-{name} }}", *(term(entry) for entry in found)]
    return "\n\n".join(parts)


def topic_names() -> list[str]:
    there = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return [name for name in TOPICS if name in there] + [name for name in there if name not in TOPICS]


def title(name: str) -> str:
    return TOPICS.get(name, name.capitalize())


def entries(name: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return sorted(found, key=lambda entry: entry["term"].lower())


def by_topic(topics: dict[str, list[dict[str, Any]]]) -> str:
    links = [f"[{title(name)}](#topic-{name}) ({len(found)})" for name, found in topics.items()]
    return "**By topic:** " + " · ".join(links)


def by_letter(everything: list[dict[str, Any]]) -> str:
    """A folded list of all words; the letters are shown before it."""
    letters = defaultdict(list)
    for entry in sorted(everything, key=lambda entry: entry["term"].lower()):
        letters[entry["term"][0].upper()].append(f"[{words(entry['term'])}](#{anchor(entry['term'])})")
    lines = [f'??? note "By letter: all {len(everything)} words"', ""]
    for letter, links in letters.items():
        lines += [f"    **{letter}** &nbsp; {' · '.join(links)}", ""]
    return "\n".join(lines)


def term(entry: dict[str, Any]) -> str:
    lines = [f"### {words(entry['term'])} {{ #{anchor(entry['term'])} }}", "", words(entry["answer"]).strip()]
    names = [
        f"{label}: {name_of(entry[key])}" for key, label in (("vllm", "vLLM"), ("sglang", "SGLang")) if key in entry
    ]
    if names:
        lines += ["", f'<p class="names">{" &nbsp;·&nbsp; ".join(names)}</p>']
    if remark := remarks().get(entry["term"]):
        lines += ["", f'<p class="names">{html.escape(remark, quote=False)}</p>']
    if entry.get("see"):
        links = ", ".join(f"[{words(target)}](#{anchor(target)})" for target in entry["see"])
        lines += ["", f"See also: {links}", "{ .see }"]
    return "\n".join(lines)


def remarks() -> dict[str, str]:
    """Word -> what the page adds to it: that it is not built yet, or what has changed."""
    found = yaml.safe_load(REMARKS.read_text(encoding="utf-8"))
    return {
        term: row.get("says") or f"Not built yet: to come with lesson {row['lesson']}."
        for row in found
        for term in row["terms"]
    }


def words(text: str) -> str:
    """Plain words as Markdown: nothing in them means anything to it."""
    return re.sub(r"([*_`\[\]<>|#])", r"\\\1", text)


def name_of(text: str) -> str:
    """A name as code; a remark after it stays a remark."""
    name, bracket, remark = text.partition(" (")
    names = ", ".join(f"<code>{html.escape(part)}</code>" for part in name.split(", "))
    return names + (f" ({html.escape(remark)}" if bracket else "")


def settings() -> str:
    """The table of settings that other engines call by another name, from the aliases in minillm/config.py."""
    source = (ROOT / "minillm" / "config.py").read_text(encoding="utf-8")
    ours: dict[str, dict[str, str]] = defaultdict(dict)
    for alias, name, engine, remark in re.findall(
        r'^    "(\w+)": "(\w+)",  # (vLLM|SGLang)(?:: (.*))?$', source, flags=re.MULTILINE
    ):
        ours[name][engine] = f"`{alias}`" + (f" ({remark})" if remark else "")
    rows = ["| minillm | vLLM | SGLang |", "| --- | --- | --- |"]
    for name, others in sorted(ours.items()):
        vllm = others.get("vLLM", "" if name in ONLY_OURS else f"`{name}`")
        rows.append(f"| `{name}` | {vllm} | {others.get('SGLang', '')} |")
    return "\n".join(rows)
