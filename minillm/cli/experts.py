"""``minillm experts``: run prompts through a mixture of experts, and show who computed them."""

from pathlib import Path
from typing import Any

from rich.text import Text

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.expert_map import expert_map, layer_balance, top_experts
from minillm.debug.views.expert_svg import write_expert_svg
from minillm.debug.views.theme import make_console
from minillm.llm import LLM
from minillm.request import RequestOutput, SamplingParams

PROMPTS = (
    "What is a KV cache?",
    "def fibonacci(n):",
    "Why does a scheduler preempt a request?",
    "import json\n\nwith open(path) as file:",
)


def run(
    model: str,
    prompts: list[str],
    params: SamplingParams,
    settings: dict[str, Any],
    export: Path | None,
    svg: Path | None,
    plain: bool,
) -> None:
    """Print the heat map and the balance; write what was asked for. Without prompts, a few of text and code."""
    llm = LLM(model, **settings)
    with ExpertTracker(llm) as tracker:
        outputs = answer(llm, prompts or list(PROMPTS), params)
    console = make_console(plain)
    asked = sum(len(output.prompt_token_ids) for output in outputs)
    made = sum(len(output.outputs[0].token_ids) for output in outputs)
    console.print(Text(f"{len(outputs)} prompts of {asked} tokens together, {made} tokens generated", "note"))
    for drawing in (expert_map(tracker), layer_balance(tracker), top_experts(tracker)):
        console.print()
        console.print(drawing)
    if export:
        tracker.export(export)
        console.print(f"\nThe counts are in {export}", soft_wrap=True)
    if svg:
        write_expert_svg(tracker, svg)
        console.print(f"\nThe picture is in {svg}", soft_wrap=True)


def answer(llm: LLM, prompts: list[str], params: SamplingParams) -> list[RequestOutput]:
    """As questions, if the model has a chat template."""
    if llm.client.tokenizer.has_chat_template:
        return llm.chat([[{"role": "user", "content": prompt}] for prompt in prompts], params, use_tqdm=False)
    return llm.generate(prompts, params, use_tqdm=False)
