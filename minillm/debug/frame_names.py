"""What a probe's values are called in the frame that stopped: a probe says ``pool``, the frame knows ``self.pool``.

Read from the source of the call: ``probe("kv.free", pool=self.pool)`` says it itself.
"""

import ast
from functools import lru_cache
from pathlib import Path
from types import FrameType

from minillm.kernels.triton.comment_probes import with_probes


def frame_names(probe: str, frame: FrameType) -> dict[str, str]:
    """Value -> the expression that gives it in ``frame``, of the call of that probe on its line.

    Empty where the source is not to be had, or is no longer what runs: then the probe's names must do.
    """
    for first, last, name, expressions in _calls(frame.f_code.co_filename):
        if name == probe and first <= frame.f_lineno <= last:
            return expressions
    return {}


@lru_cache
def _calls(file: str) -> list[tuple[int, int, str, dict[str, str]]]:
    """Every call of ``probe`` in a file: its first and last line, the probe's name, and its keywords' expressions."""
    try:
        tree = ast.parse(with_probes(Path(file).read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):  # ValueError: no UTF-8, or a null byte
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "probe" and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg}
            if isinstance(name, str):
                found.append((node.lineno, node.end_lineno or node.lineno, name, given))
    return found
