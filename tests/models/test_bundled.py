"""The models that ship: the same logits and greedy tokens as Hugging Face, on real text."""

import pytest
import torch
from tiny import hf_greedy, hf_logits
from transformers import AutoModelForCausalLM

from minillm import LLM, SamplingParams
from minillm.hub import ASSETS, bundled_models
from minillm.probe import Event, listen

QUESTIONS = ["What is a KV cache?", "Hello!", "Explain why decode is slow. " * 6]


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_answer_as_in_hugging_face(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name, dtype=torch.float32).eval()
    llm = LLM(name, num_pages=64, dtype="float32")
    logits: dict[int, list[torch.Tensor]] = {}

    def keep(event: Event) -> None:
        for row, scores in zip(event.rows, event.logits):
            logits.setdefault(row.request_id, []).append(scores.clone())

    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    with listen("sampler.token", keep):
        outputs = llm.chat([[{"role": "user", "content": text}] for text in QUESTIONS], params, use_tqdm=False)
    for output in outputs:
        prompt, tokens = output.prompt_token_ids, output.outputs[0].token_ids
        expected = hf_logits(model, prompt + tokens)[len(prompt) - 1 : -1]
        assert (torch.stack(logits[output.request_id]) - expected).abs().max() < 1e-4
        assert tokens == expected.argmax(dim=1).tolist()
    assert outputs[0].outputs[0].token_ids == hf_greedy(model, outputs[0].prompt_token_ids, 64)
