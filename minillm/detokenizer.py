"""Incremental detokenisation: text that grows token by token and never shows half a character."""

from minillm.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"  # what decoding gives for bytes that are no whole character (yet)


class Detokenizer:
    """The growing text of one request.

    A token may be part of a character (byte-level BPE cuts an emoji into several), and a token's text may depend on the
    one before it (some tokenizers drop a leading space). So a short window of tokens is decoded twice, without and with
    the new ones; what the second has more is the new text, held back while it ends in the middle of a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self.token_ids: list[int] = []
        self._window = 0  # where the window starts
        self._shown = 0  # tokens whose text is out

    def add(self, token_ids: list[int], last: bool = False) -> str:
        """Take new tokens; the text they add. ``last`` lets out what was held back, complete or not."""
        self.token_ids.extend(token_ids)
        before = self.tokenizer.decode(self.token_ids[self._window : self._shown])
        after = self.tokenizer.decode(self.token_ids[self._window :])
        if len(after) <= len(before) or (after.endswith(INCOMPLETE) and not last):
            return ""
        self._window, self._shown = self._shown, len(self.token_ids)
        delta = after[len(before) :]
        self.text += delta
        return delta
