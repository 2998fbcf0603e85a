"""The text of recorded tokens: a recording holds ids alone, and the model's folder says what they mean."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minillm.debug.views.tokens import quoted

if TYPE_CHECKING:
    from minillm.text.tokenizer import Tokenizer


def said(tokens: Sequence[int], folder: str) -> str:
    """``' cache' 814``: the text of each token and its id; the ids alone where the tokenizer cannot be read."""
    tokenizer, _ = _tokenizer(folder)
    if tokenizer is None:
        return " ".join(map(str, tokens))
    return " ".join(f"{quoted(tokenizer.token(token))} {token}" for token in tokens)


def why_ids_alone(folder: str) -> str:
    """Why ``said`` has no text; empty if it has."""
    return _tokenizer(folder)[1]


@functools.cache
def _tokenizer(folder: str) -> "tuple[Tokenizer | None, str]":
    """The folder's tokenizer and an empty string, or None and the reason why it cannot be read."""
    from minillm.text.tokenizer import Tokenizer  # here: most runs of the program replay nothing

    if not folder:
        return None, "ids alone: the recording does not say where the model is"
    if not Path(folder).is_dir():
        return None, f"ids alone: their text is in the model's folder, and {folder} is not here"
    try:
        return Tokenizer(Path(folder)), ""
    except (OSError, ValueError) as error:
        return None, f"ids alone: the tokenizer cannot be read: {error}"
