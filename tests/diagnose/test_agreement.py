"""Tokens beside Hugging Face's, rounded and not."""

import pytest
import torch

from minillm.diagnose.agreement import Agreement, judge, measure_agreement, print_agreement, prompts_for
from minillm.diagnose.huggingface import load
from minillm.hub import resolve_model
from minillm.text.tokenizer import Tokenizer


def test_in_float32_nothing_parts() -> None:
    found = measure_agreement("nano-llama", "float32", 12, {"device": "cpu"})
    assert (found.tokens, found.partings, found.rounding) == (48, [], 0.0)


def test_where_they_part_the_gap_is_smaller_than_what_rounding_can_make(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_agreement("nano-llama", "bfloat16", 12, {"device": "cpu"})
    assert 0 < found.rounding < 1
    assert all(one.gap <= 2 * found.rounding for one in found.partings)
    print_agreement(found)
    assert "of 48 greedy tokens" in capsys.readouterr().out


def test_a_wrong_token_is_found_with_its_gap() -> None:
    folder = resolve_model("nano-llama")
    tokenizer, model = Tokenizer(folder), load(folder, torch.float32)
    prompt = prompts_for(tokenizer)[0]
    logits = model(torch.tensor([prompt])).logits[0, -1].detach()
    (best, second), values = logits.topk(2).indices.tolist(), logits.topk(2).values
    found = Agreement("nano-llama", "float32", "cpu", 0, 0.0, [])
    judge(found, 0, prompt, [second], model, model, tokenizer)
    (one,) = found.partings
    assert (one.ours, one.theirs) == (tokenizer.decode([second]), tokenizer.decode([best]))
    assert one.gap == pytest.approx(float(values[0] - values[1]), abs=1e-4)
