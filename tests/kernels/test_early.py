"""Kernels that start while the one before them still runs: the same numbers, to the last bit, as those that wait."""

from pathlib import Path

import pytest
import torch
from parity import greedy_with_logits, random_prompt
from tiny import TEXT_VOCAB, make_model
from workload import make_engine

MODULES = ("norm", "activation", "rotary", "sampling", "attention", "rows")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("eager", [False, True])
def test_starting_early_changes_nothing(
    tmp_path: Path, kind: str, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, kind, dtype=torch.bfloat16, vocab_size=TEXT_VOCAB)
    prompts = [random_prompt(length, length, TEXT_VOCAB) for length in (90, 1, 33, 20, 64, 7)]

    def runs() -> list[tuple[list[int], list[torch.Tensor]]]:
        found = []
        for count in (1, 2, 6):  # one row, few rows, and more
            engine = make_engine(tmp_path, device="cuda", num_pages=128, enforce_eager=eager)
            found += greedy_with_logits(engine, prompts[:count], 40)
        return found

    early = runs()
    for name in MODULES:
        monkeypatch.setattr(f"minillm.kernels.triton.{name}.how", lambda device: {"EARLY": False})
    for (tokens, logits), (tokens_in_turn, logits_in_turn) in zip(early, runs()):
        assert tokens == tokens_in_turn
        assert all(map(torch.equal, logits, logits_in_turn))
