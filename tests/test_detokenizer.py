"""Text that grows token by token: all of it, in order, and never half a character."""

from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from minillm.detokenizer import INCOMPLETE, Detokenizer
from minillm.hub import ASSETS
from minillm.tokenizer import Tokenizer


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


@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_the_bundled_tokenizer_token_by_token(text: str) -> None:
    tokenizer = bundled()
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(deltas(tokenizer, [[token] for token in tokens] or [[]])) == tokenizer.decode(tokens)


def bundled(cache: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 (read once)
    if not cache:
        cache.append(Tokenizer(Path(ASSETS / "nano-llama")))
    return cache[0]
