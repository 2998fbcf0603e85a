"""Words as Markdown wants them."""

import html
import re


def anchor(text: str) -> str:
    """``KV cache size`` -> ``kv-cache-size``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def code(text: str) -> str:
    """Inline code as HTML: unlike between backticks, a ``|`` in it does not end a table's cell."""
    return protect(f"<code>{html.escape(text, quote=False)}</code>")


def protect(text: str) -> str:
    """The same, with what stands in ``<code>`` safe from Markdown: else ``__getitem__`` would be bold."""

    def as_entities(found: re.Match[str]) -> str:
        return re.sub(r"[*_`|\[\]\\]", lambda sign: f"&#{ord(sign[0])};", found[0])

    return re.sub(r"(?<=<code>).*?(?=</code>)", as_entities, text)
