"""Incremental detokenisation: text that grows token by token, never shows half a character, and ends at a stop
string."""

from collections.abc import Sequence

from minillm.text.tokenizer import Tokenizer

PROMPT_WINDOW = 5  # tokens of the prompt that are looked at again
INCOMPLETE = "\ufffd"  # what decoding gives for bytes that are no whole character (yet)


class Detokenizer:
    """The growing text of one request.

    A token may be part of a character (byte-level BPE cuts an emoji into several), and a token's text may depend on the
    one before it (some tokenizers drop a leading space). So a short window of tokens is decoded twice, without and with
    the new ones; what the second has more is the new text, held back while it ends in the middle of a character, or may
    be the beginning of a stop string.

    text: what is out. token_ids: the tokens taken. stop: the stop string that was found; nothing is taken after it.
    keep_stop: the text is cut after the stop string instead of before it.
    min_tokens: a stop string that is complete with the first so many tokens does not count.
    prompt_ids: what the text follows. Its last tokens are the first window, without which a decoder that drops a text's
        leading space would drop the answer's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        keep_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.stops, self.keep_stop, self.min_tokens = stops, keep_stop, min_tokens
        self.skip_special_tokens = skip_special_tokens
        self.text = ""
        self.token_ids: list[int] = []
        self.stop: str | None = None
        self._made = ""  # all text there is; what it has more than ``text`` is held back
        self._searched = 0  # characters of it in which no stop string ends
        self._window = 0  # where the window starts
        self._read = 0  # tokens whose text is made
        self._prompt = list(prompt_ids[-PROMPT_WINDOW:])  # the window's tokens before those; soon empty
        if self._prompt and self._text_of(self._prompt).endswith(INCOMPLETE):
            self._prompt = []  # half a character is nothing to go on from

    def add(self, token_ids: list[int], last: bool = False) -> str:
        """Take new tokens; the text that comes out. ``last`` lets out what was held back, complete or not."""
        if not self.stops:
            self.token_ids.extend(token_ids)
            self._decode(last)
            return self._let_out(len(self._made))
        for token_id in token_ids:  # one by one: those after a stop string are not taken
            if self.stop is None:
                self.token_ids.append(token_id)
                self._decode()
                self._search()
        if last and self.stop is None:
            self._decode(last)
            self._search()
        ended = last or self.stop is not None or self.keep_stop
        return self._let_out(len(self._made) - (0 if ended else held_back(self._made, self.stops)))

    def _decode(self, last: bool = False) -> None:
        """Make text of the tokens that have none yet."""
        before = self._text_of(self._prompt + self.token_ids[self._window : self._read])
        after = self._text_of(self._prompt + self.token_ids[self._window :])
        if len(after) > len(before) and (last or not after.endswith(INCOMPLETE)):
            self._window, self._read = self._read, len(self.token_ids)
            self._made += after[len(before) :]
            self._prompt = []  # the answer's own tokens are the window now

    def _search(self) -> None:
        """Look for a stop string that ends in the new text, and cut there."""
        early = len(self.token_ids) <= self.min_tokens
        found = None if early else find_stop(self._made, self.stops, self._searched)
        self._searched = len(self._made)
        if found:
            start, end = found
            self.stop = self._made[start:end]
            self._made = self._made[: end if self.keep_stop else start]

    def _let_out(self, end: int) -> str:
        delta = self._made[len(self.text) : end]
        self.text += delta
        return delta

    def _text_of(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, self.skip_special_tokens)


def find_stop(text: str, stops: Sequence[str], searched: int = 0) -> tuple[int, int] | None:
    """Where a stop string stands in ``text``, as (start, end); None if there is none.

    Of several, the one that *ends* first counts, as if the text were read character by character; of several that end
    there, the longest. So it makes no difference in which pieces the text came. One that ends within the first
    ``searched`` characters does not count, but one that only begins there does.
    """
    ends = []
    for stop in stops:
        start = text.find(stop, max(searched + 1 - len(stop), 0))
        if start >= 0:
            ends.append((start + len(stop), start))
    if not ends:
        return None
    end, start = min(ends)  # the first end, then the first start
    return start, end


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` must not be shown yet: the longest tail with which a stop string
    begins, the string itself being longer."""
    longest = max(map(len, stops), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(len(stop) > length and stop.startswith(tail) for stop in stops):
            return length
    return 0
