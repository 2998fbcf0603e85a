"""What comes in, looked at before it is queued: prompts become token ids, and whatever cannot work is refused."""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

from minillm.sampling_params import SamplingParams
from minillm.text.tokenizer import NoTokenizer, Tokenizer

# Text, token ids, or a dict with "prompt" or "prompt_token_ids" and perhaps "cache_salt": requests with different salts
# never share cached prefixes, so that nobody can learn from the time it takes what others asked (as in vLLM).
Prompt = str | Sequence[int] | dict[str, Any]
PROMPT_KEYS = {"prompt", "prompt_token_ids", "cache_salt"}


def tokens_of(prompt: Prompt, tokenizer: Tokenizer) -> tuple[str | None, list[int]]:
    """A prompt's text, if it has one, and its tokens."""
    if isinstance(prompt, dict):
        if unknown := set(prompt) - PROMPT_KEYS:
            raise ValueError(f"prompt has unknown keys {sorted(unknown)}; known: {', '.join(sorted(PROMPT_KEYS))}")
        text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        if token_ids is None:
            return tokens_of(text, tokenizer)  # type: ignore[arg-type]
        return text, _ids(token_ids)
    if isinstance(prompt, str):
        return prompt, tokenizer.encode(prompt)
    return None, _ids(prompt)


def _ids(given: Any) -> list[int]:
    """Token ids as a list of Python's own integers: from a list, a tuple, an array, a tensor, of any whole numbers."""
    if callable(getattr(given, "tolist", None)):  # NumPy's and torch's
        given = given.tolist()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise ValueError(
            f"the prompt is {given!r}; it must be text, token ids, or a dict with 'prompt' or 'prompt_token_ids'"
        )
    try:
        return [id if isinstance(id, bool) else index(id) for id in given]
    except TypeError:
        wrong = next(id for id in given if not hasattr(id, "__index__"))
        raise ValueError(
            f"the prompt has {wrong!r} ({type(wrong).__name__}) among its token ids; they must be whole numbers"
        ) from None


def salt_of(prompt: Prompt) -> str | None:
    """A prompt's "cache_salt"."""
    salt = prompt.get("cache_salt") if isinstance(prompt, dict) else None
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise ValueError(f"cache_salt is {salt!r}; it must be a text that is not empty, or None")
    return salt


def check_prompt(token_ids: list[int], vocab_size: int, max_len: int) -> None:
    if not token_ids:
        raise ValueError("the prompt is empty; give at least one token")
    if wrong := [t for t in token_ids if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < vocab_size]:
        raise ValueError(f"token id {wrong[0]!r} is not in the vocabulary, which has ids 0 to {vocab_size - 1}")
    if len(token_ids) >= max_len:
        raise ValueError(
            f"the prompt has {len(token_ids)} tokens, the context limit (max_model_len) is {max_len}, and "
            "at least one token of it must be left for the answer; shorten the prompt or raise max_model_len"
        )


def check_params(params: SamplingParams, vocab_size: int, room: int, tokenizer: Tokenizer) -> None:
    """Refuse what this model or the ``room`` for the answer makes impossible; the rest, `SamplingParams` has seen."""
    for name in ("stop", "structured_outputs"):
        if isinstance(tokenizer, NoTokenizer) and getattr(params, name):
            raise ValueError(f"{name} looks at the answer's text, and with skip_tokenizer_init=True there is none")
    named: tuple[tuple[str, Iterable[int]], ...] = (
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("logit_bias", params.logit_bias or ()),
        ("stop_token_ids", params.stop_token_ids),
    )
    for name, ids in named:
        if wrong := [token for token in ids if token >= vocab_size]:
            raise ValueError(f"{name} has {wrong[0]}, but the vocabulary has ids 0 to {vocab_size - 1}")
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name)
        if count is not None and count > vocab_size:
            raise ValueError(f"{name} is {count}, but the vocabulary has {vocab_size} tokens; -1 asks for all of them")
    if params.min_tokens > room:
        raise ValueError(f"min_tokens is {params.min_tokens}, but the context limit leaves room for {room} tokens")


def bad_word_ids(words: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token sequences that make bad words: each as a text begins with it, and as it stands after a space.

    The second is left out if it is anything and then the first: then forbidding the first is enough. (vLLM leaves it
    out unless it is as long, and so lets " page" through where "page" alone is two tokens.)
    """
    found = []
    for word in words:
        plain, spaced = (tokenizer.encode(space + word.lstrip(), add_special_tokens=False) for space in ("", " "))
        if not plain:
            raise ValueError(f"bad_words has {word!r}, which this tokenizer makes no token of")
        found.append(plain)
        if spaced[-len(plain) :] != plain:
            found.append(spaced)
    return found
