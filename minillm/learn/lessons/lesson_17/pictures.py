"""The heat maps of the chapter: which experts of nano-moe two kinds of text use.

Counted with the plain kernels in float32, so that every machine counts the same.
"""

from typing import Any

from minillm.debug.views.expert_svg import heat_map_svg


def measure() -> dict[str, Any]:
    """How often each expert is chosen, ``[L, E]``, for the texts of the lesson."""
    from minillm import LLM, SamplingParams  # here: who only draws needs no torch
    from minillm.debug.experts import ExpertTracker
    from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation

    llm = LLM("nano-moe", dtype="float32", device="cpu", kernels="torch", num_pages=64, prefix_cache="none")
    tokenizer, found = llm.engine.tokenizer, {}
    for name, ids in (("questions", conversation(tokenizer, TALK, QUESTION)), ("code", tokenizer.encode(PROGRAM))):
        with ExpertTracker(llm) as tracker:
            llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1), use_tqdm=False)
        found[name] = {"layers": tracker.layer_ids, "top_k": tracker.top_k, "tokens": tracker.tokens.tolist()}
    return found


def draw(found: dict[str, Any]) -> dict[str, str]:
    """File name -> SVG."""
    drawn = {}
    for name, counts in found.items():
        shares = [[tokens / max(sum(row), 1) for tokens in row] for row in counts["tokens"]]
        drawn[f"17_experts_{name}.svg"] = heat_map_svg(shares, counts["layers"], counts["top_k"])
    return drawn
