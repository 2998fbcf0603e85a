"""Grammars: which tokens may come next, so that the answer is sure to be JSON, match a regular expression, ...

The llguidance library does the work: it knows the bytes of every token, and walks a grammar token by token. What is
ours is where it runs: beside the scheduler. A request's matcher follows its ``output_ids``, so a preemption does not
touch it, and its mask goes to the device with the plan.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.probe import probe
from minillm.request import Request
from minillm.sampling_params import StructuredOutputsParams
from minillm.scheduler.plan import StepPlan
from minillm.text.tokenizer import Tokenizer

# Between the parts of a JSON text stands one space at most. Without a limit, a small model likes to go on for ever.
JSON_SPACE = " ?"
SPECIAL = 0xFF  # the byte with which llguidance begins what stands for a special token
MOST_COMPILED = 64  # grammars that are kept, for requests that ask for the same


@dataclass
class Matcher:
    """A request's place in its grammar: after the first ``taken`` of its tokens."""

    request: Request
    state: Any  # llguidance.LLMatcher
    eos_ids: frozenset[int]
    taken: int = 0

    def follow(self) -> bool:
        """Take the tokens that are new. False once the grammar has nothing more to say: its end was taken."""
        new = self.request.output_ids[self.taken :]
        self.taken += len(new)
        if self.state is None or not self.eos_ids.isdisjoint(new):
            self.state = None
        elif not self.state.consume_tokens(new) or self.state.is_error():
            self.request.broken = True
        return self.state is not None


class Grammars:
    """The grammars of the running requests. ``vocab_size`` is the model's, which may be more than the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        self.tokenizer, self.vocab_size, self.eos_ids = tokenizer, vocab_size, eos_ids
        self.active: dict[int, Matcher] = {}  # by request id
        self._compiled: dict[tuple[str, str], Any] = {}
        self._tokens: Any = None  # llguidance's tokenizer, made when the first grammar comes

    def compile(self, params: StructuredOutputsParams) -> Any:
        """A matcher at the beginning. ValueError says what is wrong with the grammar; nothing was changed."""
        kind, text = kind_and_text(params)
        if (kind, text) not in self._compiled:
            llguidance = _library()
            if self._tokens is None:
                self._tokens = self._read_tokenizer(llguidance)
            try:
                matcher = llguidance.LLMatcher(self._tokens, _grammar(llguidance, kind, text), log_level=0)
            except ValueError as error:
                raise ValueError(f"structured_outputs: {kind}: {error}") from None
            if matcher.is_error():
                raise ValueError(f"structured_outputs: {kind}: {matcher.get_error().strip()}")
            if len(self._compiled) >= MOST_COMPILED:
                del self._compiled[next(iter(self._compiled))]  # the oldest
            self._compiled[kind, text] = matcher
        return self._compiled[kind, text]

    def start(self, request: Request, compiled: Any) -> None:
        """The request's answer follows this grammar from its first token on."""
        self.active[request.id] = Matcher(request, compiled.deep_copy(), frozenset(self.eos_ids))

    def forget(self, request: Request) -> None:
        self.active.pop(request.id, None)

    def masks(self, plan: StepPlan) -> dict[int, np.ndarray]:
        """For each request of the plan that samples under a grammar: the tokens allowed next, ``[ceil(V / 32)]`` int32.

        When the grammar is complete, that is the end-of-sequence token alone; so it is in the rare case that the
        grammar proves too large to go on with. Then the answer is broken off, which its finish_reason says ("abort").
        """
        masks: dict[int, np.ndarray] = {}
        for row in plan.rows if self.active else ():
            matcher = self.active.get(row.request_id)
            if matcher and row.samples and matcher.follow():
                mask = self._allowed(matcher)
                probe.on and probe("request.grammar", request=matcher.request, matcher=matcher, mask=mask)
                masks[row.request_id] = mask
        return masks

    def _allowed(self, matcher: Matcher) -> np.ndarray:
        """The tokens that may come now, as bits ``[ceil(V / 32)]`` int32."""
        mask = np.zeros((self.vocab_size + 31) // 32, dtype=np.int32)
        if not matcher.request.broken:
            wide = np.zeros((self._tokens.vocab_size + 31) // 32, dtype=np.int32)
            matcher.state.unsafe_compute_mask_ptr(wide.ctypes.data, wide.nbytes)
            mask[:] = wide[: len(mask)]  # without those of the tokenizer that the model cannot say
            if spare := self.vocab_size % 32:
                mask[-1] &= (1 << spare) - 1
            matcher.request.broken = matcher.state.is_error() or not mask.any()
        if matcher.request.broken:
            return _bits(self.eos_ids, mask)
        # Where only one text may follow, llguidance names the token that a tokenizer would make of it. If that is the
        # text of a special token, this would be the special token itself: the end of the answer, or nothing at all.
        token = _only(mask)
        if token is not None and self._tokens.is_special_token(token):
            forced = matcher.state.compute_ff_bytes()
            if forced and forced[0] != SPECIAL:  # else the grammar itself names it, or is complete
                return _bits(self._tokens.greedy_tokenize(forced.decode("utf-8", errors="ignore"))[:1], mask)
        return mask

    def _read_tokenizer(self, llguidance: Any) -> Any:
        if not self.eos_ids:
            raise ValueError(
                "structured_outputs: this checkpoint names no end-of-sequence token (eos_token_id), so an answer that "
                "is complete could not end"
            )
        text = self.tokenizer.to_json()
        size = max(self.vocab_size, self.tokenizer.vocab_size)  # either may be the larger
        return llguidance.LLTokenizer(text, n_vocab=size, eos_token=list(self.eos_ids))


def kind_and_text(params: StructuredOutputsParams) -> tuple[str, str]:
    """Which of its fields is given, and its value as text."""
    if params.json_object:
        return "json", '{"type": "object"}'
    if params.json is not None:
        return "json", params.json if isinstance(params.json, str) else json.dumps(params.json)
    if params.choice is not None:
        return "choice", json.dumps(list(params.choice))
    if params.regex is not None:
        return "regex", params.regex
    assert params.grammar is not None
    return "grammar", params.grammar


def _grammar(llguidance: Any, kind: str, text: str) -> str:
    """llguidance's own form of it."""
    if kind == "json":
        options = {"whitespace_pattern": JSON_SPACE}
        return llguidance.LLMatcher.grammar_from_json_schema(text, defaults=options)
    if kind == "grammar" and "::=" not in text:
        kind = "lark"  # or else a rule such as "?start: ..." would be taken for EBNF
    return llguidance.grammar_from(kind, text)


def _only(mask: np.ndarray) -> int | None:
    """The token of a mask ``[ceil(V / 32)]`` int32 that allows one alone."""
    words = np.flatnonzero(mask)
    word = int(mask[words[0]]) & 0xFFFFFFFF if len(words) == 1 else 0
    return int(words[0]) * 32 + word.bit_length() - 1 if word.bit_count() == 1 else None


def _bits(tokens: Iterable[int], mask: np.ndarray) -> np.ndarray:
    """A mask like ``mask [ceil(V / 32)]`` int32 that allows these tokens."""
    bits = np.zeros_like(mask).view(np.uint32)
    for token in tokens:
        bits[token // 32] |= np.uint32(1 << token % 32)
    return bits.view(np.int32)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ValueError("structured_outputs needs the llguidance library: pip install llguidance") from None
    return llguidance
