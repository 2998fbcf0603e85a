"""Checks of the tokens that begin, end and pad a text: three files name them, and should agree."""

from typing import Any

from minillm.diagnose.checkpoint import Checkpoint
from minillm.diagnose.findings import Check, Finding, ok, some, warn, wrong
from minillm.text.tokenizer import Tokenizer


def special_tokens(checkpoint: Checkpoint) -> Finding:
    """There is a token to begin with and one to end with."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    begins = token_id(tokenizer, "bos_token") if "bos_token" in tokenizer.config else config.bos_token_id
    ends = end_ids(checkpoint)
    ends_here = ends["tokenizer"] or ends["generation_config"] or ends["config"]
    if not ends_here:
        return warn(
            "no end-of-sequence token anywhere", "answers end at max_tokens only: set eos_token_id in config.json"
        )
    if begins is None:
        return warn(
            f"no beginning-of-sequence token; ends with {names(tokenizer, ends_here)}",
            "fine if the model was trained so (Qwen); else set bos_token in tokenizer_config.json",
        )
    return ok(f"begins with {names(tokenizer, [begins])}, ends with {names(tokenizer, ends_here)}")


def end_tokens(checkpoint: Checkpoint) -> Finding:
    """generation_config, config and tokenizer agree on what ends an answer."""
    ends, rows = end_ids(checkpoint), checkpoint.config.vocab_size
    said = ", ".join(f"{where} {ids}" for where, ids in ends.items() if ids)
    used = ends["generation_config"] or ends["config"]
    if outside := [id for ids in ends.values() for id in ids if not 0 <= id < rows]:
        return wrong(f"{said}: {some(sorted(map(str, set(outside))))} is no token of {rows:,}", "correct eos_token_id")
    if lost := sorted({*ends["config"], *ends["tokenizer"]} - set(used)):
        first = "generation_config" if ends["generation_config"] else "config"
        return warn(
            f"{said}; only {first}'s end an answer, so {names(checkpoint.tokenizer, lost)} does not",
            f"if answers run on, add {lost} to eos_token_id of {first}.json",
        )
    return ok(said or "none is named")


def padding(checkpoint: Checkpoint) -> Finding:
    """Padding has a token of its own. Our engine never pads; training and other engines mask by it."""
    tokenizer = checkpoint.tokenizer
    pad = token_id(tokenizer, "pad_token")
    pad = checkpoint.raw.get("pad_token_id") if pad is None else pad
    ends = {id for ids in end_ids(checkpoint).values() for id in ids}
    if pad is None:
        return warn("no pad token", "nothing here needs one; training does: give it a token of its own, not the end's")
    if pad in ends:
        return warn(
            f"pad is {names(tokenizer, [pad])}, which also ends answers",
            "where masks are made from pad ids, as in training, the end token is masked out and never learnt",
        )
    return ok(f"{names(tokenizer, [pad])}, which is no end token")


def end_ids(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """The end tokens that each place names."""
    named = checkpoint.tokenizer
    own = token_id(named, "eos_token")
    return {
        "generation_config": as_list(checkpoint.generation.get("eos_token_id")),
        "config": as_list(checkpoint.raw.get("eos_token_id")),
        "tokenizer": [] if own is None else [own],
    }


def as_list(ids: Any) -> list[int]:
    return list(ids) if isinstance(ids, list) else [] if ids is None else [ids]


def token_id(tokenizer: Tokenizer, kind: str) -> int | None:
    """The id of "bos_token", "eos_token" or "pad_token"; None if the tokenizer names none, or it is no single token."""
    text = tokenizer.config.get(kind)
    text = text.get("content") if isinstance(text, dict) else text
    ids = tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) and text else []
    return ids[0] if len(ids) == 1 else None


def names(tokenizer: Tokenizer, ids: list[int]) -> str:
    """``2 ('</s>')``."""
    return ", ".join(f"{id} ({tokenizer.token(id)!r})" for id in ids)


CHECKS: list[tuple[str, Check]] = [
    ("BOS and EOS", special_tokens),
    ("end tokens", end_tokens),
    ("padding", padding),
]
