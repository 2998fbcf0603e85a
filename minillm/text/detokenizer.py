"""Incremental detokenisation: text that grows token by token, never shows half a character, and ends at a stop
string."""

from collections.abc import Sequence

from minillm.text.tokenizer import Tokenizer

PROMPT_WINDOW = 5  # tokens of the prompt that are looked at again
INCOMPLETE = "\ufffd"  # what decoding gives for bytes that are no whole character (yet)
OPEN = 3  # tokens that may wait for the end of a character: it has four bytes at most
FORCED = 4 * OPEN  # tokens that never wait longer, whatever decoding them gives


class TextStream:
    """Tokens as they come, each with the text that it adds; all of it together is the tokens' text.

    A token may be part of a character (byte-level BPE cuts an emoji into several), and a token's text may depend on the
    one before it (some tokenizers drop a leading space). So a short window of tokens is decoded twice, without and with
    the new ones; what the second has more is the new text. It waits while it ends in the middle of a character, but no
    longer than a character can be: bytes that are none, or U+FFFD itself, come out too, and each token costs the same.

    before: what the tokens follow. Its last tokens are the first window, without which a decoder that drops a text's
        leading space would drop this one's.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self._window = list(before[-PROMPT_WINDOW:])  # tokens whose text is out
        self._before = self._text_of(self._window)
        while INCOMPLETE in self._before:
            del self._window[0]  # half a character is nothing to go on from
            self._before = self._text_of(self._window)
        self._waiting: list[int] = []  # tokens whose text is not

    def add(self, token_ids: Sequence[int], last: bool = False) -> str:
        """The text that is known now. ``last`` lets out what waits, complete or not."""
        text, out = self._look(token_ids, last)
        self._waiting.extend(token_ids)
        if out:
            self._window, self._waiting = self._waiting[:out], self._waiting[out:]
            self._before = self._text_of(self._window)
        return text

    def peek(self, token_id: int, last: bool = False) -> str:
        """What `add` would give for this token, which is not taken."""
        return self._look([token_id], last)[0]

    def _look(self, token_ids: Sequence[int], last: bool) -> tuple[str, int]:
        """The new text, and how many of the waiting tokens it is the text of."""
        waiting = [*self._waiting, *token_ids]
        before, after = self._before, self._text_of(self._window + waiting)
        if last or not after.endswith(INCOMPLETE):
            return (after[len(before) :], len(waiting)) if len(after) > len(before) else ("", 0)
        # All but the last tokens are certain, if what they say is not changed by those.
        for out in range(len(waiting) - OPEN, 0, -1):
            known = self._text_of(self._window + waiting[:out])
            if len(known) > len(before) and after.startswith(known):
                return known[len(before) :], out
        return (after[len(before) :], len(waiting)) if len(waiting) > FORCED else ("", 0)

    def _text_of(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, self.skip_special_tokens)


class Detokenizer:
    """The growing text of one request, held back while it may be the beginning of a stop string.

    text: what is out. token_ids: the tokens taken. stop: the stop string that was found; nothing is taken after it.
    keep_stop: the text is cut after the stop string instead of before it.
    min_tokens: a stop string that is complete with the first so many tokens does not count.
    prompt_ids: what the text follows.
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
        self.stream = TextStream(tokenizer, skip_special_tokens, prompt_ids)
        self.stops, self.keep_stop, self.min_tokens = stops, keep_stop, min_tokens
        self.text = ""
        self.token_ids: list[int] = []
        self.stop: str | None = None
        self._made = ""  # all text there is; what it has more than ``text`` is held back
        self._searched = 0  # characters of it in which no stop string ends

    def add(self, token_ids: list[int], last: bool = False) -> str:
        """Take new tokens; the text that comes out. ``last`` lets out what was held back, complete or not."""
        if not self.stops:
            self.token_ids.extend(token_ids)
            self._made += self.stream.add(token_ids, last)
            return self._let_out(len(self._made))
        for token_id in token_ids:  # one by one: those after a stop string are not taken
            if self.stop is None:
                self.token_ids.append(token_id)
                self._made += self.stream.add([token_id])
                self._search()
        if last and self.stop is None:
            self._made += self.stream.add([], last)
            self._search()
        ended = last or self.stop is not None or self.keep_stop
        return self._let_out(len(self._made) - (0 if ended else held_back(self._made, self.stops)))

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
