"""Probes inside Triton kernels: comments in the source, which become probes where Triton's interpreter runs it.

A kernel that is compiled for a GPU cannot call Python. So in a kernel a probe is written as a comment,
``# probe("kernel.scores", scores=scores)``, of which the compiler sees nothing. The interpreter runs a kernel's source
as Python, line by line; for it the comment's line becomes the call that it describes. No line moves, so debuggers show
the kernel's own file, and stop on the statement after the comment as after any probe.
"""

import re
from typing import TypeVar

from minillm.probe import probe

Kernel = TypeVar("Kernel")
_COMMENT = re.compile(r"^([ \t]*)# (probe\(\".*\))[ \t]*$", re.MULTILINE)


def with_probes(source: str) -> str:
    """The source with each ``# probe(...)`` comment as the statement ``probe.on and probe(...)``, on the same line."""
    return _COMMENT.sub(r"\1probe.on and \2", source) if '# probe("' in source else source


def watched(kernel: Kernel) -> Kernel:
    """Decorates a kernel, above ``@triton.jit``: its comments are probes wherever it is interpreted.

    A kernel that will be compiled comes back untouched.
    """
    rewriter = getattr(kernel, "rewriter", None)  # only the interpreter's functions have one
    prepare = getattr(rewriter, "_prepare_source", None)
    if rewriter is not None and prepare is not None:
        rewriter._prepare_source = lambda lines: with_probes(prepare(lines))
        rewriter.fn.__globals__.setdefault("probe", probe)
    return kernel
