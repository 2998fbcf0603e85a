"""How docstrings become Markdown: an extension of griffe, which mkdocstrings reads the sources with.

The sources say ``name: what it is`` a line, which Markdown would run together into one paragraph; here each becomes an
item of a list.
"""

import re
from typing import Any

import griffe

FIELD = re.compile(r"^((?:[a-z_][\w.]*)(?:, [a-z_][\w.]*)*): (.*)$")


class Fields(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(text: str) -> str:
    """Lines ``name: meaning`` as list items; what is indented below one belongs to it."""
    out: list[str] = []
    inside = False
    for line in text.splitlines():
        field = FIELD.match(line)
        if field:
            if not inside and out and out[-1]:
                out.append("")
            names = ", ".join(f"`{name}`" for name in field[1].split(", "))
            out.append(f"- {names}: {field[2]}")
            inside = True
        else:
            if inside and line and not line.startswith((" ", "\t")):
                inside = False
                if out[-1]:
                    out.append("")
            out.append(line)
    return "\n".join(out)
