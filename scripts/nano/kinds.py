"""Text in which every token has a kind: what a mixture's experts are compared on.

Glossary conversations by topic (the glossary's files), what is not in the glossary, the marks of the chat format, and
library code by the role of each token in Python.
"""

import io
import keyword
import tokenize
from dataclasses import dataclass

from nano.glossary import GLOSSARY, load_entries
from nano.stdlib import Library
from nano.tokenizer import ASSISTANT_ID, BOS_ID, END_ID, MAX_LENGTH, USER_ID
from tokenizers import Tokenizer

KEYWORD, NAME, STRING, PROSE = "code: keywords", "code: names", "code: strings", "code: docstrings, comments"
SYMBOL, SPACE = "code: numbers, operators", "code: white space"
MARKUP, OFF_TOPIC, TOPIC = "chat markup", "off topic", "glossary: "
CODE = [KEYWORD, NAME, STRING, PROSE, SYMBOL, SPACE]


@dataclass
class Sample:
    """One row of text: `ids`, and the kind of each token by its name."""

    ids: list[int]
    kinds: list[str]


def samples(
    tokenizer: Tokenizer, library: Library, off_topic: list[tuple[str, str]], code_rows: int = 24
) -> list[Sample]:
    """Conversations about every glossary entry, in its first trained and its first held-out phrasing; the `off_topic`
    ones; and windows of `library`'s held-out files, short enough for a token to come after them."""
    rows = []
    for topic in topics():
        for entry in load_entries(GLOSSARY, f"{topic}.yaml"):
            questions = [*entry.questions[:1], *entry.held_out[:1]]
            rows += [conversation(tokenizer, question, entry.answer, TOPIC + topic) for question in questions]
    rows += [conversation(tokenizer, question, answer, OFF_TOPIC) for question, answer in off_topic]
    code = [code_row(tokenizer, text) for text in library.held_out.values()]
    ids = [token for row in code for token in row.ids]
    kinds = [kind for row in code for kind in row.kinds]
    window = MAX_LENGTH - 1
    step = max(window, len(ids) // code_rows)
    starts = range(0, len(ids) - window, step)
    return rows + [Sample(ids[at : at + window], kinds[at : at + window]) for at in starts]


def topics() -> list[str]:
    """The glossary's files by name."""
    return sorted(file.stem for file in GLOSSARY.glob("*.yaml"))


def conversation(tokenizer: Tokenizer, question: str, answer: str, kind: str) -> Sample:
    """One question and its answer, in the chat format."""
    asked, said = (tokenizer.encode(text, add_special_tokens=False).ids for text in (question, answer))
    ids = [BOS_ID, USER_ID, *asked, END_ID, ASSISTANT_ID, *said, END_ID]
    return Sample(ids, [MARKUP if token <= ASSISTANT_ID else kind for token in ids])


def code_row(tokenizer: Tokenizer, text: str) -> Sample:
    """A Python file, each token of the model by the Python token that its last visible character is part of."""
    of_characters = character_kinds(text)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    kinds = []
    for start, end in encoding.offsets:
        visible = [at for at in range(start, end) if not text[at].isspace()]
        kinds.append(of_characters[visible[-1]] if visible else SPACE)
    return Sample([BOS_ID, *encoding.ids, END_ID], [MARKUP, *kinds, MARKUP])


def character_kinds(text: str) -> list[str]:
    """For each character of a Python file, its kind. A string that stands where a statement begins is a docstring."""
    kinds = [SYMBOL] * len(text)
    starts = [0]
    for line in io.StringIO(text):  # not splitlines, which sees more line ends than Python does
        starts.append(starts[-1] + len(line))
    begins = True  # does a statement begin here?
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            first, last = (starts[line - 1] + column for line, column in (token.start, token.end))
            if kind := token_kind(token, begins):
                kinds[first:last] = [kind] * (min(last, len(text)) - first)
            if token.type not in (tokenize.NL, tokenize.COMMENT):  # blank lines, and line ends inside brackets
                begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    except (tokenize.TokenError, SyntaxError):
        pass  # a file for another Python: what follows counts as symbols
    return kinds


def token_kind(token: tokenize.TokenInfo, begins_statement: bool) -> str | None:
    """None: neither a word nor a string."""
    if token.type == tokenize.NAME:
        return KEYWORD if keyword.iskeyword(token.string) else NAME
    if token.type == tokenize.COMMENT:
        return PROSE
    if token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTRING"):
        return PROSE if begins_statement else STRING
    return None
