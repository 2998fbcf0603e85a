"""``my/exNN.py``: a lesson's functions with empty bodies, cut from the live source.

There is no second tree of stubs that could go stale: signatures and docstrings are the engine's of today, and so are
the imports that a body needs. A method stands in a class of the engine's class's name that inherits from it, so that an
editor knows what ``self`` has.
"""

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent

from minillm.learn.build import Build
from minillm.learn.home import my_file
from minillm.learn.mine import MineError, read_mine
from minillm.learn.progress import Progress
from minillm.learn.registry import lesson_tasks
from minillm.learn.source import Function, Source, imports, stub
from minillm.learn.tasks import Task

HEADER = '''\
"""Lesson {number}, {title}: {count} of the engine's functions, to be written here.

Each body is `raise Todo`: put yours in its place. All that it needs is imported already, and a class here inherits the
engine's own, so self has everything that it has there. Helpers of your own, functions or methods, are welcome.

    python -m minillm learn check {first}     try it; learn watch {number} does at every save
    python -m minillm learn hint {first}      a hint, one more each time
    python -m minillm learn diff {first}      beside the engine's own, and where results first differ (it is peeking)
    python -m minillm lesson {number} --mine    the whole lesson, on the functions in this file
"""
'''


def exercise(tasks: list[Task], bodies: Mapping[str, str] | None = None) -> str:
    """The text of an exercise file. ``bodies``: whole functions to stand there in place of stubs, by task id."""
    if isinstance(tasks[0], Build):
        return (bodies or {}).get(tasks[0].id) or tasks[0].contract
    functions = {task.id: (bodies or {}).get(task.id) or stub(task) for task in tasks}
    homes: dict[tuple[str, str], list[Task]] = {}  # functions stand alone, methods by their class
    for task in tasks:
        homes.setdefault((task.class_name and task.module, task.class_name or task.id), []).append(task)
    sections = []
    for (module, class_name), group in homes.items():
        if module:
            sections.append(_class(module, class_name) + "\n\n".join(_section(t, functions[t.id]) for t in group))
        else:
            sections.append(_section(group[0], functions[group[0].id]))
    lesson = tasks[0]
    header = HEADER.format(
        number=lesson.number, first=lesson.id, count=len(tasks), title=lesson.lesson[3:].replace("_", " ")
    )
    return "\n\n\n".join([header + "\n" + _imports(tasks), *sections]) + "\n"


def start(number: str) -> tuple[Path, bool]:
    """Write the exercise file of a lesson unless there is one: its path, and whether it is new."""
    tasks = lesson_tasks(number)
    path = my_file(tasks[0].number)
    if path.exists():
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(exercise(tasks), encoding="utf-8")
    return path, True


def reset(tasks: list[Task]) -> tuple[Path, Path | None]:
    """Make these tasks new again, which are of one lesson. What the learner wrote stays beside the file, as it was.

    The file, and the copy of what it was (None if nothing was).
    """
    number = tasks[0].number
    path, kept = my_file(number), None
    if path.exists():
        taken = len(list(path.parent.glob(f"{path.stem}.before*.py")))
        kept = path.with_name(f"{path.stem}.before{taken + 1}.py")
        kept.write_bytes(path.read_bytes())
    if tasks == lesson_tasks(number) or kept is None:
        text = exercise(lesson_tasks(number))
    else:
        try:
            text = read_mine(number).text
        except MineError as error:
            raise MineError(f"{error}\nmend that first, or reset the whole lesson: learn reset {number}") from None
        for task in tasks:
            text = put_stub(text, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    progress = Progress()
    for task in tasks:
        progress.forget(task.id, "done", "hints")  # what was seen stays seen
    progress.save()
    return path, kept


def _section(task: Task, function: str) -> str:
    comment = f"# {task.id}  {task.title}  ({task.file})"
    return (indent(comment, "    ") if task.class_name else comment) + "\n" + function


def _class(module: str, name: str) -> str:
    (node,) = Source.of_module(module).classes(name)
    # An enum that has members cannot be inherited from.
    final = any(ast.unparse(base).rpartition(".")[2] in ("Enum", "IntEnum", "StrEnum", "Flag") for base in node.bases)
    return f"class {name}:\n" if final else f"class {name}({module}.{name}):\n"


def _imports(tasks: list[Task]) -> str:
    """What all the functions need, in three groups: Python's own, others', the engine's."""
    lines = {line for task in tasks for line in imports(task)}
    lines |= {f"import {task.module}" for task in tasks if task.class_name}
    lines.add("from minillm.learn.todo import Todo")
    own = {f"from {task.module} import {task.name}" for task in tasks if not task.class_name}  # defined right here
    froms: dict[str, list[str]] = {}
    plain: dict[str, list[str]] = {}
    for line in sorted(lines - own):
        if line.startswith("import "):
            plain.setdefault(_group(line.split()[1]), []).append(line)
        else:
            _, module, _, name = line.split(maxsplit=3)
            froms.setdefault(module, []).append(name)
    groups: dict[str, list[str]] = {group: plain.get(group, []) for group in ("0", "1", "2", "3")}
    for module, names in froms.items():
        groups[_group(module)].append(f"from {module} import {', '.join(sorted(names))}")
    return "\n\n".join("\n".join(group) for group in groups.values() if group)


def _group(module: str) -> str:
    root = module.partition(".")[0]
    if root == "__future__":
        return "0"
    return "1" if root in sys.stdlib_module_names else "3" if root == "minillm" else "2"


def put_stub(text: str, task: Task) -> str:
    """An exercise file's text with one function made a stub again, the rest untouched."""
    source = Source(text, ast.parse(text))
    nodes: list[Function] = source.find(task.qualname)
    rows, fresh = text.splitlines(), stub(task).splitlines()
    if nodes:
        for node in reversed(nodes[1:]):
            first, last = source.lines(node)
            del rows[first - 1 : last]
        first, last = source.lines(nodes[0])
        rows[first - 1 : last] = fresh
    elif task.class_name and (classes := source.classes(task.class_name)):
        rows[classes[-1].end_lineno : classes[-1].end_lineno] = ["", *_section(task, stub(task)).splitlines()]
    else:
        home = _class(task.module, task.class_name).rstrip() if task.class_name else ""
        opening = [f"import {task.module}", "", home] if home else []
        rows += ["", "", *opening, *_section(task, stub(task)).splitlines()]
    return "\n".join(rows) + "\n"


def is_stub(text: str, task: Task) -> bool:
    """Whether the function is still as it was handed out."""
    if isinstance(task, Build):
        return text == task.contract
    source = Source(text, ast.parse(text))
    found = "\n\n".join(source.cut(node) for node in source.find(task.qualname))
    return dedent(found) == dedent(stub(task))
