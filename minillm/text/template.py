"""A chat template: what it reads of a message, and its rendering where that needs nothing of transformers' own."""

import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from minillm.text.plain import odd_template

# transformers' own tags. They say nothing of contents, and plain Jinja does not know them.
_TAGS = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


class Template:
    """A Jinja template, or several by name, of which "tool_use" is for chats with tools and "default" for all others.

    own: the text to hand on, where it is not the checkpoint's.
    """

    def __init__(self, source: str | dict[str, str], own: bool = False) -> None:
        self.source, self.own = source, own

    @classmethod
    def given(cls, text: str | Path) -> "Template":
        """One that a caller gives: its text, or the path of a file that holds it."""
        if isinstance(text, Path) or ("{" not in text and "\n" not in text and Path(text).is_file()):
            text = Path(text).read_text(encoding="utf-8")
        return cls(text, own=True)

    @cached_property
    def odd(self) -> str | None:
        """Why transformers has to render it; None if any Jinja does the same."""
        if isinstance(self.source, dict):
            return "there are several"
        from jinja2 import TemplateSyntaxError

        try:
            return odd_template(_environment().parse(self.source))
        except TemplateSyntaxError as error:  # a tag of transformers' own, or truly wrong: transformers will tell
            return str(error)

    @cached_property
    def wants_parts(self) -> bool:
        """Whether it goes through a message's content part by part, instead of writing it (vLLM's test, too)."""
        return any(_is_content(loop.iter, self._contents) for loop in self._find("For"))

    @cached_property
    def takes_text(self) -> bool:
        """Whether it asks if a content is text, and so takes both."""
        return any(test.name in ("string", "iterable", "sequence", "mapping") for test in self._find("Test"))

    @cached_property
    def _contents(self) -> set[str]:
        """Names that stand for a message's content."""
        assigned = [node for node in self._find("Assign") if hasattr(node.target, "name")]
        return {node.target.name for node in assigned if _is_content(node.node, set())}

    def _find(self, kind: str) -> list[Any]:
        from jinja2 import nodes

        return [node for tree in self._trees for node in tree.find_all(getattr(nodes, kind))]

    @cached_property
    def _trees(self) -> list[Any]:
        from jinja2 import TemplateSyntaxError

        sources = self.source.values() if isinstance(self.source, dict) else [self.source]
        try:
            return [_environment().parse(_TAGS.sub("", source)) for source in sources]
        except TemplateSyntaxError:
            return []  # rendering it says what is wrong

    def render(self, **names: Any) -> str:
        """Only where `odd` is None."""
        assert isinstance(self.source, str)
        return _compiled(self.source).render(tools=None, documents=None, **names)


def _is_content(node: Any, names: set[str]) -> bool:
    """``message.content``, ``message['content']``, a slice or a filter of it, or a name that was given to one."""
    kind = type(node).__name__
    if kind == "Filter" or (kind == "Getitem" and type(node.arg).__name__ == "Slice"):
        return node.node is not None and _is_content(node.node, names)
    if kind == "Getattr":
        return node.attr == "content"
    if kind == "Getitem":
        return getattr(node.arg, "value", None) == "content"
    return kind == "Name" and node.name in names


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Jinja as Hugging Face's templates expect it."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    found = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    found.globals["raise_exception"] = raise_exception
    return found
