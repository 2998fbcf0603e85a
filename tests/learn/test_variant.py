"""Lesson 19's checkpoint: the same each time, made beside everything else, and served as Hugging Face's code has it."""

from pathlib import Path

import torch

from minillm.diagnose.compare import compare
from minillm.learn.lessons.lesson_19.variant import made, write_checkpoint
from minillm.learn.workload import add_requests, make_engine


def test_it_is_the_same_each_time_and_leaves_other_random_numbers_alone(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for folder in folders:
        folder.mkdir()
        write_checkpoint(folder)
    assert torch.equal(torch.rand(3), expected)
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second and len(first) > 2**20


def test_the_engine_serves_it_for_diff_and_race() -> None:
    engine = make_engine(made(), num_pages=256, max_model_len=512)
    assert engine.model_config.architecture == "NanoChatForCausalLM"
    requests = add_requests(engine, max_tokens=6)
    while engine.has_requests:
        engine.step()
    assert all(len(request.output_ids) == 6 for request in requests)
    assert made() == made()
    assert compare(made(), "hf", decode=8).equal
