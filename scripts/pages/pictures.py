"""Pictures that are drawn from a run: the heat maps of nano-moe's experts, for two kinds of text.

Counted with the plain kernels in float32, so that every machine draws the same.
"""

from pages.piece import Piece

from minillm import LLM, SamplingParams
from minillm.debug.experts import ExpertTracker
from minillm.debug.views.expert_svg import expert_svg
from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation

OF_LESSON = "17"


def pieces() -> list[Piece]:
    """docs/img/17_experts_questions.svg and 17_experts_code.svg; the texts are those of lesson 17."""
    llm = LLM("nano-moe", dtype="float32", device="cpu", kernels="torch", num_pages=64, prefix_cache="none")
    tokenizer, made = llm.get_tokenizer(), []
    texts = {"questions": conversation(tokenizer, TALK, QUESTION), "code": tokenizer.encode(PROGRAM)}
    for name, ids in texts.items():
        with ExpertTracker(llm) as tracker:
            llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1), use_tqdm=False)
        made.append(Piece(f"docs/img/17_experts_{name}.svg", expert_svg(tracker)))
    return made
