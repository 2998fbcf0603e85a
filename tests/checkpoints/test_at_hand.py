"""What a stub says to be at hand is there, and nothing that the engine's own body uses is left out."""

import ast
import builtins
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from textwrap import dedent
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from minillm.learn.mine import live_class
from minillm.learn.registry import tasks
from minillm.learn.source import definition, probe_lines, stub
from minillm.learn.tasks import Task

every_task = pytest.mark.parametrize("task", tasks().values(), ids=lambda task: task.id)
# What Python, torch and numpy bring needs no word.
KINDS = (torch.Tensor, torch.nn.Module, np.ndarray, str, list, dict, set)
TRIVIAL = {name for kind in KINDS for name in dir(kind)} | {"popleft", "appendleft"}
LIBRARIES = {"torch", "F", "np", "heapq", "math", *dir(builtins)}


def module_of(task: Task) -> dict[str, Any]:
    return vars(importlib.import_module(task.module))


def names_of(task: Task) -> list[str]:
    """``self.manager.lacking(request, count)`` -> ``self.manager.lacking``"""
    return [re.split(r"[(\[]", name)[0] for name, _ in task.at_hand]


def body_of(task: Task) -> tuple[list[str], ast.Module]:
    """The parameters and the body of the engine's own function, without its probes."""
    node = ast.parse(dedent(definition(task))).body[0]
    assert isinstance(node, ast.FunctionDef)
    probes = [ast.dump(line) for _, line in probe_lines(node)]

    class WithoutProbes(ast.NodeTransformer):
        def visit_Expr(self, line: ast.Expr) -> ast.Expr | ast.Pass:
            return ast.Pass() if ast.dump(line) in probes else line

    parameters = [argument.arg for argument in node.args.args]
    node.args, node.returns = ast.arguments([], [], None, [], [], None, []), None
    return parameters, ast.Module([WithoutProbes().visit(node)], [])


def chains(tree: ast.AST) -> Iterator[str]:
    """``self.manager.lacking``: each longest row of names with points between them, subscripts and calls left out."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            text = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", text):
                yield text


@cache
def attributes(kind: type) -> frozenset[str]:
    """All that an instance has: methods, fields, and what its methods set on self."""
    found = set(dir(kind))
    for one in kind.__mro__:
        found |= set(vars(one).get("__annotations__", {}))
        if one.__module__.startswith("minillm"):
            found |= set(re.findall(r"self\.(\w+)", inspect.getsource(one)))
    return frozenset(found)


@cache
def engine_attributes() -> frozenset[str]:
    """What any of the engine's objects has."""
    for task in tasks().values():
        module_of(task)
    modules = [module for name, module in sys.modules.items() if name.startswith("minillm.") and module]
    kinds = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return frozenset(name for kind in kinds if kind.__module__.startswith("minillm") for name in attributes(kind))


def kind_of(task: Task, name: str) -> Any:
    """The class of self or of a parameter; None where it is no class of the engine's."""
    if name == "self":
        return live_class(task)
    scope = vars(live_class(task)) if task.class_name else module_of(task)
    kind = get_type_hints(scope[task.name], module_of(task)).get(name)
    kinds = [kind, *getattr(kind, "__args__", ())]  # of ``SamplingBatch | None`` the first
    return next((one for one in kinds if isinstance(one, type) and one.__module__.startswith("minillm")), None)


@every_task
def test_what_is_said_to_be_at_hand_is_there(task: Task) -> None:
    assert task.at_hand, f"the stub of {task.id} says nothing of what its body may use"
    parameters, body = body_of(task)
    own = {node.id for node in ast.walk(body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for name in names_of(task):
        root, *rest = name.split(".")
        if root in parameters or root == "self":
            kind = kind_of(task, root)
            known = attributes(kind) if kind else engine_attributes() | TRIVIAL
            assert not rest or rest[0] in known, f"{task.id}: there is no {name}"
        elif root in module_of(task):
            there = module_of(task)[root]
            assert not rest or hasattr(there, rest[0]), f"{task.id}: there is no {name}"
        elif root not in LIBRARIES:
            assert root in own | {"node", "leaf", "request", "cache"}, f"{task.id}: what is {root} in {name}?"
        for part in rest:
            assert part in engine_attributes() | TRIVIAL | set(dir(torch)), f"{task.id}: nothing has {part}, in {name}"


@every_task
def test_what_the_engines_own_body_uses_is_said_to_be_at_hand(task: Task) -> None:
    said, (parameters, body) = names_of(task), body_of(task)
    own = {node.id for node in ast.walk(body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    last = {part for name in said for part in name.split(".")[1:]}
    for chain in chains(body):
        root, *rest = chain.split(".")
        whole = chain in said or any(chain.startswith(f"{name}.") and "." in name for name in said)
        if root in LIBRARIES or root in said or (not rest and (root in parameters or root in own)):
            continue
        if (root in parameters and kind_of(task, root) is None) or root in own:
            unknown = [part for part in rest if part not in TRIVIAL | last]
            assert not unknown, f"{task.id} uses {chain}, and its stub says nothing of {unknown}"
        else:
            begun = any(name.startswith(f"{chain}.") for name in said)  # pool = self.pool, and then pool.free
            known = whole or begun or (rest and all(part in last for part in rest))
            assert known, f"{task.id} uses {chain}, and its stub does not say that it is at hand"


@every_task
def test_the_stub_lists_it(task: Task) -> None:
    text = " ".join(line.strip("# ") for line in stub(task).splitlines())
    for name, words in task.at_hand:
        assert f"{name}: {words}" in " ".join(text.split()), f"the stub of {task.id} lacks {name}: {words}"
    assert max(map(len, stub(task).splitlines())) <= 120
