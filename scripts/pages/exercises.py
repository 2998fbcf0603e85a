"""Each chapter's exercises, from minillm/learn/tasks.yaml: what to write, where it lives, how to begin."""

from typing import Any

import yaml
from pages.piece import ROOT, Piece, generated

MANIFEST = ROOT / "minillm" / "learn" / "tasks.yaml"


def pieces() -> list[Piece]:
    if not MANIFEST.exists():
        return []
    lessons = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    return [generated(f"lesson{entry['lesson'][:2]}_tasks.md", of_lesson(entry)) for entry in lessons]


def of_lesson(entry: dict[str, Any]) -> str:
    number, tasks = entry["lesson"][:2], entry["tasks"]
    rows = ["| task | you write | it is | its probes |", "| --- | --- | --- | --- |"]
    for task in tasks:
        module, _, name = task["target"].partition(":")
        probes = ", ".join(f"`{probe}`" for probe in task.get("probes", []))
        rows.append(f"| {task['id']} | {task['title']} | `{name}` in `{module.replace('.', '/')}.py` | {probes} |")
    commands = [
        (f"python -m minillm learn start {number}", f"writes my/ex{number}.py, to be filled in"),
        (f"python -m minillm learn check {number}", "your functions in the engine: which are right?"),
        (f"python -m minillm learn hint {tasks[0]['id']}", "a question first, then more"),
        (f"python -m minillm lesson {number} --mine", "the lesson, run with your functions"),
    ]
    width = max(len(command) for command, _ in commands)
    shell = "\n".join(f"{command:<{width}}   # {meaning}" for command, meaning in commands)
    return "\n".join([*rows, "", "```bash", shell, "```"])
