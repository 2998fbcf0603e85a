"""Which tokens end an answer, in one place."""

from minillm.model_config import ModelConfig
from minillm.text.tokenizer import Tokenizer


def end_tokens(config: ModelConfig, tokenizer: Tokenizer) -> tuple[tuple[int, ...], str]:
    """The end-of-sequence tokens, and where they are from.

    Those of generation_config.json or config.json, and the one that the tokenizer itself names: what a model was tuned
    to end its turns with often stands only there (vLLM takes both, too).
    """
    found = dict.fromkeys(config.eos_token_ids, "the model's configuration")
    named = tokenizer.eos_token_id
    if named is not None and named < config.vocab_size:
        found[named] = f"{found[named]} and the tokenizer" if named in found else "the tokenizer"
    said = ", ".join(f"{id} ({where})" for id, where in found.items())
    return tuple(found), said or "none: answers end by their length, or by stop strings"
