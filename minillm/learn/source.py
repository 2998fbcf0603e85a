"""The live source of an exercise's function: its text, what of it stays in a stub, and the names that it works with.

Everything is read from the file of the engine, which is not imported for it.
"""

import ast
import builtins
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from minillm.learn.tasks import Task

Function = ast.FunctionDef | ast.AsyncFunctionDef
WIDTH = 110  # of a stub's comments


@dataclass
class Source:
    """A file of Python, as text and as a tree."""

    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: Path) -> "Source":
        text = path.read_text(encoding="utf-8")
        return cls(text, ast.parse(text, filename=str(path)))

    @classmethod
    def of_module(cls, name: str) -> "Source":
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"there is no module {name!r}")
        return cls.read(Path(spec.origin))

    def find(self, qualname: str) -> list[Function]:
        """The function or method, ``PagePool.free``; several for a property with a setter."""
        class_name, _, name = qualname.rpartition(".")
        body = self.tree.body
        if class_name:
            body = [child for node in self.classes(class_name) for child in node.body]
        return [node for node in body if isinstance(node, Function) and node.name == name]

    def classes(self, name: str) -> list[ast.ClassDef]:
        return [node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name]

    def lines(self, node: Function) -> tuple[int, int]:
        """Its first line (a decorator's, if it has any) and its last, counted from 1."""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return first, node.end_lineno or node.lineno

    def cut(self, node: Function) -> str:
        """Its whole text, decorators and indentation included."""
        first, last = self.lines(node)
        return "\n".join(self.text.splitlines()[first - 1 : last])

    def head(self, node: Function) -> str:
        """Decorators, signature and docstring: all but the body."""
        rows = self.text.splitlines()
        statement = node.body[0]
        line = statement.lineno
        before = rows[line - 1].encode()[: statement.col_offset].decode()  # ast counts bytes
        kept = [*rows[self.lines(node)[0] - 1 : line - 1], before]
        while not kept[-1].strip() or kept[-1].lstrip().startswith("#"):
            kept.pop()  # what stood between signature and body belongs to the body
        if (docstring := ast.get_source_segment(self.text, statement)) and ast.get_docstring(node) is not None:
            kept = [*kept[:-1], kept[-1].rstrip(), " " * (node.col_offset + 4) + docstring]
        return "\n".join(kept).rstrip()


def definition(task: Task) -> str:
    """The reference: the whole text of a task's function, as it stands in the engine."""
    source, nodes = _nodes(task)
    return "\n\n".join(source.cut(node) for node in nodes)


def stub(task: Task) -> str:
    """The same with ``raise Todo`` for a body. In comments it says what the body may use, and its probes stay: lessons
    and debuggers need them."""
    source, nodes = _nodes(task)
    indent = " " * (8 if task.class_name else 4)
    hand = at_hand(task, indent)
    functions = []
    for node in nodes:
        shown = [f"{indent}# {ast.unparse(line)}" for _, line in probe_lines(node)]
        opening = [f"{indent}# Where it fits, for lessons and debuggers to look through:"] if shown else []
        functions.append("\n".join([source.head(node), *hand, *opening, *shown, f'{indent}raise Todo("{task.id}")']))
    return "\n\n".join(functions)


def at_hand(task: Task, indent: str) -> list[str]:
    """What a task's body may use, as comments: a line each, and more where one is not enough."""
    rows = [f"{indent}# At hand:"] if task.at_hand else []
    for name, words in task.at_hand:
        first, further = f"{indent}#   ", f"{indent}#       "
        rows += wrap(f"{name}: {words}", WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)
    return rows


def probe_lines(node: ast.AST) -> list[tuple[str, ast.stmt]]:
    """The probes in a function: (name, the statement ``probe.on and probe(name, ...)``), top to bottom."""
    found = []
    for statement in ast.walk(node):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.BoolOp):
            call = statement.value.values[-1]
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "probe" and call.args:
                found.append((ast.literal_eval(call.args[0]), statement))
    return sorted(found, key=lambda pair: pair[1].lineno)


def imports(task: Task) -> set[str]:
    """The import lines that a task's function needs, in a file other than its own.

    Besides what it uses today: the modules that its file imports whole, and torch, since one may write it otherwise.
    """
    source, nodes = _nodes(task)
    used = {name for node in nodes for name in _names(node)} - {task.class_name, task.name} - set(dir(builtins))
    lines = dict(_top_level(task.module, source.tree.body))
    needed = {lines[name] for name in used if name in lines}
    needed |= {line for line in lines.values() if line.startswith(("from __future__", "import "))}
    return needed | ({"import torch"} if any(line.startswith("from torch") for line in lines.values()) else set())


def _nodes(task: Task) -> tuple[Source, list[Function]]:
    source = Source.of_module(task.module)
    nodes = source.find(task.qualname)
    if not nodes:
        raise ValueError(f"exercise {task.id}: {task.file} has no {task.qualname}")
    return source, nodes


def _names(node: ast.AST) -> Iterator[str]:
    """Every name below a node; also those inside annotations that are written as text."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.arg | ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef):
            written = child.returns if isinstance(child, Function) else child.annotation
            for part in ast.walk(written) if written else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from _names(_parsed(part.value))


def _parsed(annotation: str) -> ast.AST:
    try:
        return ast.parse(annotation, mode="eval")
    except SyntaxError:  # plain words, such as Literal["left side"]
        return ast.Module([], [])


def _top_level(module: str, body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """(name, the line that imports it elsewhere) for all that a module defines or imports."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                line = ast.unparse(ast.Import([alias]))
                if isinstance(node, ast.ImportFrom):
                    line = ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
                yield alias.asname or alias.name.partition(".")[0], line
        elif isinstance(node, ast.If | ast.Try):  # if TYPE_CHECKING, try: import
            yield from _top_level(module, node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, f"from {module} import {node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for child in ast.walk(node):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    yield child.id, f"from {module} import {child.id}"
