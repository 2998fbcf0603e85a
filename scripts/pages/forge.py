"""Boxes and folds. In the pages they stand as a forge shows them; the site has them in its own form.

> [!TIP]                              a box: its first line, if all of it is bold, is the title
> **When you are stuck**
>
> Ask for a hint.

<details>                             a fold
<summary>Why are there pages?</summary>

Nobody knows how long a text will be.

</details>
"""

import html
import re

BOX = re.compile(r"^> \[!(\w+)\]\n((?:>.*\n)*)", flags=re.MULTILINE)
TITLE = re.compile(r"\*\*(.+)\*\*\n+")
FOLD = re.compile(r"^<details>\n<summary>(.*?)</summary>\n\n(.*?)\n+</details>$", flags=re.MULTILINE | re.DOTALL)
# What a forge would show as it stands, and where one sees it.
RAW = re.compile(
    r"^(?:!!!|\?\?\?\+?|:::|===) .*|--8<--.*|\{\{.*?\}\}|\{ ?[#.:][\w-]+.*?\}|\+\+[a-z0-9-]+\+\+", flags=re.MULTILINE
)
CODE = re.compile(r"^( *)```.*?^\1```$|``.*?``|`[^`\n]*`|^<!-- made:.*?^<!-- end -->", flags=re.MULTILINE | re.DOTALL)


def for_site(markdown: str) -> str:
    """The page with its boxes and folds as mkdocs has them."""
    return FOLD.sub(_fold, BOX.sub(_box, markdown + "\n")).removesuffix("\n")


def _box(found: re.Match[str]) -> str:
    body = re.sub(r"^> ?", "", found[2], flags=re.MULTILINE)
    titled = TITLE.match(body)
    title, body = (titled[1], body[titled.end() :]) if titled else ("", body)
    kind = "question" if title.endswith("?") else found[1].lower()
    return f"!!! {kind}{_quoted(title)}\n\n{_indented(body)}\n"


def _fold(found: re.Match[str]) -> str:
    title = html.unescape(re.sub(r"</?code>", "`", found[1]))
    return f"??? {'question' if title.endswith('?') else 'tip'}{_quoted(title)}\n\n{_indented(found[2])}"


def _quoted(title: str) -> str:
    if '"' in title:
        raise ValueError(f"a title with a double quote, which the site cannot have: {title}")
    return f' "{title}"' if title else ""


def _indented(body: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in body.rstrip("\n").splitlines())


def raw_marks(markdown: str) -> list[str]:
    """What a forge would not understand and show as it stands, outside of code and of what is made."""
    return [found.strip() for found in RAW.findall(CODE.sub("", markdown))]
