"""Text that grows token by token: all of it, in order, and never half a character."""

from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from minillm.hub import ASSETS
from minillm.text.detokenizer import INCOMPLETE, Detokenizer, TextStream, find_stop, held_back
from minillm.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Every byte a token: the hardest case there is."""
    folder = tmp_path_factory.mktemp("bytes")
    make_tokenizer(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As SentencePiece has it: a word's token carries its space, and decoding drops the text's first one."""
    folder = tmp_path_factory.mktemp("spaces")
    words = ["▁the", "▁a", "▁", "s", "ing", ".", "▁page"]
    vocab = {word: i for i, word in enumerate(words)} | {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


def deltas(tokenizer: Tokenizer, groups: list[list[int]]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    out = [detokenizer.add(group, last=i == len(groups) - 1) for i, group in enumerate(groups)]
    assert detokenizer.text == "".join(out)
    assert detokenizer.token_ids == [token for group in groups for token in group]
    return out


def test_an_emoji_comes_out_whole(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("a🦙b")
    assert len(tokens) == 6
    assert deltas(byte_level, [[token] for token in tokens]) == ["a", "", "", "", "🦙", "b"]


def test_what_is_held_back_comes_out_at_the_end(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("a🦙")[:-1]
    out = deltas(byte_level, [[token] for token in tokens])
    assert out[:3] == ["a", "", ""] and out[3] and set(out[3]) == {INCOMPLETE}


def test_the_end_may_bring_no_new_token(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    assert detokenizer.add(byte_level.encode("é")[:1]) == ""
    assert detokenizer.add([], last=True) == INCOMPLETE
    assert Detokenizer(byte_level).add([], last=True) == ""


def test_special_tokens_leave_no_text(byte_level: Tokenizer) -> None:
    a, b = byte_level.encode("ab")
    assert deltas(byte_level, [[0], [a], [1], [b], [1]]) == ["", "a", "", "b", ""]


@given(text=st.text(max_size=40), data=st.data())
@settings(max_examples=200)
def test_any_text_in_any_pieces_adds_up_and_no_delta_is_half_a_character(
    byte_level: Tokenizer, text: str, data: st.DataObject
) -> None:
    tokens = byte_level.encode(text, add_special_tokens=False)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=8))) if data.draw(st.booleans()) else None
    edges = [0, *range(1, len(tokens)), len(tokens)] if cuts is None else [0, *cuts, len(tokens)]
    out = deltas(byte_level, [tokens[a:b] for a, b in pairwise(edges)])
    assert "".join(out) == text
    if INCOMPLETE not in text:
        assert not any(INCOMPLETE in delta for delta in out)


@given(tokens=st.lists(st.integers(2, 257), max_size=40))
@settings(max_examples=200)
def test_any_bytes_even_those_that_are_no_text_add_up_to_what_decoding_them_at_once_gives(
    byte_level: Tokenizer, tokens: list[int]
) -> None:
    out = deltas(byte_level, [[token] for token in tokens] or [[]])
    assert "".join(out) == byte_level.decode(tokens)


@given(pieces=st.lists(st.integers(0, 6) | st.characters(), min_size=1, max_size=30))
@settings(max_examples=200)
def test_word_pieces_keep_their_spaces(spaces: Tokenizer, pieces: list[int | str]) -> None:
    """Decoded alone, a token would lose its space; the window before it keeps it. Other characters come as bytes."""
    tokens = []
    for piece in pieces:
        tokens += [piece] if isinstance(piece, int) else [7 + byte for byte in piece.encode()]
    out = deltas(spaces, [[token] for token in tokens])
    assert "".join(out) == spaces.decode(tokens)


def test_words_come_out_with_the_space_before_them(spaces: Tokenizer) -> None:
    assert deltas(spaces, [[0], [6], [3], [5]]) == ["the", " page", "s", "."]


@given(prompt=st.lists(st.integers(0, 6), min_size=1, max_size=8), pieces=st.lists(st.integers(0, 6), min_size=1))
@settings(max_examples=100)
def test_the_first_words_space_is_there_after_a_prompt(spaces: Tokenizer, prompt: list[int], pieces: list[int]) -> None:
    """The decoder drops a text's first space; the answer's is not that of the whole text."""
    detokenizer = Detokenizer(spaces, prompt_ids=prompt)
    shown = "".join([*(detokenizer.add([token]) for token in pieces), detokenizer.add([], last=True)])
    assert spaces.decode(prompt) + shown == spaces.decode(prompt + pieces)
    assert (detokenizer.text, detokenizer.token_ids) == (shown, pieces)


@pytest.mark.parametrize("stops", [[], ["page"]])
def test_a_prompt_changes_nothing_else(spaces: Tokenizer, byte_level: Tokenizer, stops: list[str]) -> None:
    """Even one that ends in the middle of a character: its other half is as broken as it is alone."""
    assert Detokenizer(spaces, stops, prompt_ids=[0, 3]).add([5, 1], last=True) == ". a"
    llama = byte_level.encode("🦙")
    detokenizer = Detokenizer(byte_level, stops, prompt_ids=[*byte_level.encode("ab"), *llama[:2]])
    rest = [*llama[2:], *byte_level.encode("c")]
    assert detokenizer.add(rest, last=True) == byte_level.decode(rest)
    for special in ([0], [0] * 9):  # those leave no text, so what follows them begins a text
        assert Detokenizer(byte_level, stops, prompt_ids=special).add(byte_level.encode("ab"), last=True) == "ab"


@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_the_bundled_tokenizer_token_by_token(text: str) -> None:
    tokenizer = bundled()
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(deltas(tokenizer, [[token] for token in tokens] or [[]])) == tokenizer.decode(tokens)


# --- stop strings


@pytest.mark.parametrize(
    ("text", "stops", "searched", "expected"),
    [
        ("", ["a"], 0, None),
        ("abc", ["d"], 0, None),
        ("abc", ["b"], 0, (1, 2)),
        ("abcabc", ["bc"], 0, (1, 3)),  # the first of two
        ("abc", ["abc", "b"], 0, (1, 2)),  # "b" is complete while "abc" is not
        ("abc", ["c", "bc", "abc"], 0, (0, 3)),  # all end there: the longest
        ("abab", ["ab"], 2, (2, 4)),  # the first is passed over
        ("abab", ["ba"], 2, (1, 3)),  # it begins in what was searched, and ends after it
        ("abab", ["ab"], 4, None),
        ("aaa", ["aa"], 2, (1, 3)),
        ("x\n\ny", ["\n\n"], 0, (1, 3)),
    ],
)
def test_find_stop(text: str, stops: list[str], searched: int, expected: tuple[int, int] | None) -> None:
    assert find_stop(text, stops, searched) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("", ["ab"], 0), ("x", ["ab"], 0), ("xa", ["ab"], 1), ("xab", ["ab"], 0), ("a", ["a"], 0),
        ("xabab", ["ababc"], 4), ("xab", ["abc", "b12"], 2), ("xb", ["abc", "b12"], 1), ("abc", [], 0),
        ("xab", ["ab", "zzzz"], 0),
    ],
)  # fmt: skip
def test_held_back(text: str, stops: list[str], expected: int) -> None:
    assert held_back(text, stops) == expected


_few = st.sampled_from("ab🦙")
_stops = st.lists(st.text(_few, min_size=1, max_size=4), min_size=1, max_size=4)


def cut_by_hand(text: str, stops: list[str], keep: bool) -> tuple[str, str | None]:
    """The text, read character by character until one of the strings is there."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            stop = max(found, key=len)
            return text[: end if keep else end - len(stop)], stop
    return text, None


@given(text=st.text(_few, max_size=30), stops=_stops, keep=st.booleans(), data=st.data())
@settings(max_examples=400)
def test_a_stop_string_is_found_in_whatever_pieces_the_text_comes(
    byte_level: Tokenizer, text: str, stops: list[str], keep: bool, data: st.DataObject
) -> None:
    """Generate all, then cut: the same as cutting while it grows. What was shown is never taken back."""
    tokens = byte_level.encode(text, add_special_tokens=False)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=12)))
    groups = [tokens[a:b] for a, b in pairwise([0, *cuts, len(tokens)])]
    expected, stop = cut_by_hand(text, stops, keep)
    detokenizer = Detokenizer(byte_level, stops, keep_stop=keep)
    shown = ""
    for i, group in enumerate(groups):
        shown += detokenizer.add(group, last=i == len(groups) - 1)
        assert shown == detokenizer.text and expected.startswith(shown)
        if detokenizer.stop is None:
            made = byte_level.decode(detokenizer.token_ids).rstrip(INCOMPLETE)
            assert len(made) - len(shown) <= (0 if keep else max(map(len, stops)) - 1)
    assert (shown, detokenizer.stop) == (expected, stop)
    if stop is not None:  # nothing is taken after the token that completes it
        end = len(expected) + (0 if keep else len(stop))
        assert len(detokenizer.token_ids) == len(text[:end].encode())


@given(text=st.text(_few, max_size=20), stops=_stops, min_tokens=st.integers(0, 20))
@settings(max_examples=200)
def test_a_stop_string_that_comes_too_early_does_not_count(
    byte_level: Tokenizer, text: str, stops: list[str], min_tokens: int
) -> None:
    tokens = byte_level.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(byte_level, stops, min_tokens=min_tokens)
    shown = "".join([*(detokenizer.add([token]) for token in tokens), detokenizer.add([], last=True)])
    early = len(byte_level.decode(tokens[:min_tokens]).rstrip(INCOMPLETE))
    ends = [end for end in range(early + 1, len(text) + 1) if text[:end].endswith(tuple(stops))]
    if ends:
        longest = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert (shown, detokenizer.stop) == (text[: ends[0] - len(longest)], longest)
    else:
        assert (shown, detokenizer.stop) == (text, None)


def test_special_tokens_may_be_shown(byte_level: Tokenizer) -> None:
    a = byte_level.encode("a")[0]
    assert Detokenizer(byte_level, skip_special_tokens=False).add([0, a, 1]) == "<s>a</s>"
    assert Detokenizer(byte_level).add([0, a, 1]) == "a"


def bundled(cache: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 (read once)
    if not cache:
        cache.append(Tokenizer(Path(ASSETS / "nano-llama")))
    return cache[0]


@given(tokens=st.lists(st.integers(2, 257), min_size=1, max_size=40), size=st.integers(1, 5), start=st.integers(0, 5))
@settings(max_examples=200)
def test_bytes_that_are_no_text_come_out_in_time_and_are_the_same_text(
    byte_level: Tokenizer, tokens: list[int], size: int, start: int
) -> None:
    """Any bytes after any others: no token waits for more than three after it, and all is there at the end."""
    stream, made = TextStream(byte_level, before=tokens[:start]), ""
    for i in range(start, len(tokens)):
        made += stream.add([tokens[i]])
        assert len(stream._waiting) <= 3
    made += stream.add([], last=True)
    before = byte_level.decode(tokens[:start])
    whole = byte_level.decode(tokens)
    if not before.endswith(INCOMPLETE) and INCOMPLETE not in before:
        assert before + made == whole
    out = deltas(byte_level, [tokens[i : i + size] for i in range(0, len(tokens), size)])
    assert "".join(out) == whole


@given(pieces=st.lists(st.integers(0, 6) | st.integers(7, 262), min_size=1, max_size=40))
@settings(max_examples=200)
def test_no_token_waits_for_ever_among_byte_pieces(spaces: Tokenizer, pieces: list[int]) -> None:
    stream, lengths = TextStream(spaces), []
    for piece in pieces:
        stream.add([piece])
        lengths.append(len(stream._window) + len(stream._waiting))
    assert max(lengths) <= 30, "or each token would cost more than the one before"


def test_a_real_replacement_character_is_text(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("a" + INCOMPLETE * 40 + "b")
    out = deltas(byte_level, [[token] for token in tokens])
    assert "".join(out) == "a" + INCOMPLETE * 40 + "b"
    first = next(i for i, delta in enumerate(out) if INCOMPLETE in delta)
    assert first <= 6, "it is not held back until the end"


@given(text=st.text(max_size=20))
def test_what_each_token_adds_is_the_text(byte_level: Tokenizer, text: str) -> None:
    """As log probabilities tell it: a token's text by itself is looked at without taking it, then it is taken."""
    stream, told = TextStream(byte_level, skip_special_tokens=False), []
    tokens = byte_level.encode(text)
    for i, token in enumerate(tokens):
        last = i == len(tokens) - 1
        told.append(stream.peek(token, last))
        assert stream.add([token], last) == told[-1]
    assert "".join(told) == text
