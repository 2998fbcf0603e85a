"""What a request may ask of the sampler. Names, defaults and limits are vLLM's."""

import json
import numbers
from dataclasses import dataclass, field
from typing import Any

MOST_ANSWERS = 16384  # to one prompt, as in vLLM
# Settings are used as float32: what is larger would be infinite there, and what is smaller nothing, or nearly.
LARGEST, SMALLEST = (2 - 2.0**-23) * 2.0**127, 2.0**-126


@dataclass
class StructuredOutputsParams:
    """What the answer must look like. Exactly one of these is given (vLLM has the same names).

    json: a JSON schema, as a dict or as text; ``{"type": "object"}`` is any object.
    json_object: True: any JSON object.
    regex: a regular expression that the whole answer matches.
    choice: the answer is one of these.
    grammar: a context-free grammar, in Lark's notation or in EBNF (``root ::= ...``).
    """

    json: str | dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        self.json_object = self.json_object or None
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            said = "nothing" if not given else " and ".join(given)
            raise ValueError(f"structured_outputs has {said}; give one of json, json_object, regex, choice, grammar")
        if self.json is not None and not (isinstance(self.json, str) or _is_json_object(self.json)):
            raise ValueError(f"structured_outputs: json is {self.json!r}; it must be a JSON schema, a dict or text")
        if self.choice is not None and (
            not isinstance(self.choice, (list, tuple)) or not self.choice or not all(_is_text(c) for c in self.choice)
        ):
            raise ValueError(f"structured_outputs: choice is {self.choice!r}; it must be a list of texts, none empty")
        for name in ("regex", "grammar"):
            if getattr(self, name) is not None and not _is_text(getattr(self, name)):
                raise ValueError(f"structured_outputs: {name} is {getattr(self, name)!r}; it must be text, not empty")


@dataclass
class SamplingParams:
    """How to choose the next token. Names and defaults are vLLM's.

    temperature: 0 is greedy; above 0, logits are divided by it before the softmax.
    top_p: keep the most likely tokens whose probabilities add up to this, in (0, 1].
    top_k: keep this many of the most likely tokens; 0, -1 or more than there are keeps all.
    seed: two requests with the same seed, prompt and settings get the same text, whatever else is in the batch; None
        or -1 is one of the engine's own.
    max_tokens: the most tokens to generate; None goes on to the context limit.
    stop_token_ids: end after one of these tokens, as after the end-of-sequence token.
    ignore_eos: go on after the end-of-sequence token.
    min_p: keep the tokens at least this share as likely as the likeliest, in [0, 1]; 0 keeps all.
    repetition_penalty: for tokens of prompt and answer, a positive logit is divided by it, a negative one multiplied.
    frequency_penalty: taken off a token's logit for each time that it is in the answer, in [-2, 2].
    presence_penalty: taken off a token's logit once if it is in the answer, in [-2, 2].
    logit_bias: token id -> what is added to its logit.
    allowed_token_ids: only these may be chosen.
    bad_words: words that the answer will not hold, at a text's beginning or after a space.
    min_tokens: no end-of-sequence token, stop token or stop string ends the answer before so many tokens.
    stop: end as soon as the text holds this string, or one of these; the text is cut before it.
    include_stop_str_in_output: cut after it instead, and let a stop token's own text stand.
    skip_special_tokens: leave special tokens out of the text.
    detokenize: off, the answer is token ids alone, and its text stays empty.
    logprobs: log probabilities of the chosen token and of this many of the likeliest, for each token of the answer, as
        the model gave them, before any control; -1 is the whole vocabulary, None is none.
    prompt_logprobs: the same for each token of the prompt but its first.
    n: so many answers to the prompt, each with a seed of its own (seed, seed + 1, ...); at most `MOST_ANSWERS`.
    structured_outputs: what the answer must look like.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = field(default_factory=list)
    min_tokens: int = 0
    stop: str | list[str] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    structured_outputs: StructuredOutputsParams | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        self.seed = None if self.seed == -1 else self.seed
        self.stop = _listed("stop", self.stop)
        self.bad_words = _listed("bad_words", self.bad_words)
        self.stop_token_ids = _token_ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
        self._check_filters()
        self._check_logits()
        self._check_ends()
        self._check_outputs()

    @property
    def greedy(self) -> bool:
        return self.temperature < SMALLEST  # nothing, as a float32

    @property
    def penalises(self) -> bool:
        return bool(self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty)

    def _check_filters(self) -> None:
        if not _within(self.temperature, 0, LARGEST):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or above, and finite")
        if not _within(self.top_p, 0, 1) or self.top_p == 0:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (1 keeps every token)")
        if not _is_whole(self.top_k) or self.top_k < -1:
            raise ValueError(f"top_k is {self.top_k!r}; it must be a count of tokens, or 0 or -1 to keep all")
        if not _within(self.min_p, 0, 1):
            raise ValueError(f"min_p is {self.min_p!r}; it must be a share between 0 (keeps every token) and 1")
        if self.seed is not None and not _is_whole(self.seed):
            raise ValueError(f"seed is {self.seed!r}; it must be an integer or None")

    def _check_logits(self) -> None:
        if not _within(self.repetition_penalty, SMALLEST, LARGEST):
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty!r}; it must be above 0 and finite, also as a float32 "
                "(1 changes nothing)"
            )
        for name in ("frequency_penalty", "presence_penalty"):
            if not _within(getattr(self, name), -2, 2):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a number between -2 and 2")
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, dict):
                raise ValueError(f"logit_bias is {self.logit_bias!r}; it must map token ids to numbers")
            for token, bias in self.logit_bias.items():
                if not _is_id(token) or not _within(bias, -LARGEST, LARGEST):
                    raise ValueError(
                        f"logit_bias has {token!r}: {bias!r}; it must map token ids to finite numbers (as float32)"
                    )
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise ValueError("allowed_token_ids is empty; name at least one token, or give None to allow all")
        if wrong := [word for word in self.bad_words if not _is_text(word) or not word.strip()]:
            raise ValueError(f"bad_words has {wrong[0]!r}; each must be text that is not empty")

    def _check_ends(self) -> None:
        if self.max_tokens is not None and (not _is_whole(self.max_tokens) or self.max_tokens < 1):
            raise ValueError(f"max_tokens is {self.max_tokens!r}; it must be at least 1, or None for the context limit")
        if not _is_whole(self.min_tokens) or self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens!r}; it must be a count of tokens, 0 or above")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, which is more than max_tokens ({self.max_tokens})")
        if wrong := [text for text in self.stop if not _is_text(text)]:
            raise ValueError(f"stop has {wrong[0]!r}; each stop string must be text that is not empty")
        if self.stop and not self.detokenize:
            raise ValueError("stop looks at the answer's text, and with detokenize=False there is none; leave one out")

    def _check_outputs(self) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and (not _is_whole(count) or count < -1):
                raise ValueError(
                    f"{name} is {count!r}; it must be a count of tokens, -1 for the whole vocabulary, or None"
                )
        if not _is_whole(self.n) or not 1 <= self.n <= MOST_ANSWERS:
            raise ValueError(
                f"n is {self.n!r}; it must be at least 1 and at most {MOST_ANSWERS}, the number of answers to a prompt"
            )
        if self.n > 1 and self.greedy:
            raise ValueError(f"n is {self.n}, but temperature 0 gives the same answer each time; raise the temperature")
        if self.structured_outputs is not None and not isinstance(self.structured_outputs, StructuredOutputsParams):
            raise ValueError(
                f"structured_outputs is {self.structured_outputs!r}; it must be a StructuredOutputsParams, such as "
                "StructuredOutputsParams(json=schema)"
            )


def _listed(name: str, value: Any) -> list[Any]:
    """A list of what was given: a text alone, nothing at all, or any collection."""
    if value is None or isinstance(value, str):
        return [value] if value is not None else []
    try:
        return list(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be a list") from None


def _token_ids(name: str, value: Any) -> list[int]:
    ids = _listed(name, value)
    if wrong := [token for token in ids if not _is_id(token)]:
        raise ValueError(f"{name} has {wrong[0]!r}; it must be a list of token ids")
    return [int(token) for token in ids]  # numpy's become Python's own


def _is_json_object(value: Any) -> bool:
    try:
        return isinstance(value, dict) and bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


def _is_whole(value: Any) -> bool:
    """Whether it is an integer of any kind (numpy's too)."""
    return isinstance(value, numbers.Integral)


def _is_id(value: Any) -> bool:
    return _is_whole(value) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number between the two; NaN is not."""
    return isinstance(value, numbers.Real) and low <= value <= high  # type: ignore[operator]
