"""The same engine on a GPU: what runs on a CPU runs there, with the same tokens."""

from pathlib import Path

import pytest
from tiny import hf_greedy, make_llama

from minillm import LLM, SamplingParams

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "settings", [{}, {"num_pages": 24, "max_num_batched_tokens": 17}, {"page_size": "max_model_len"}]
)
def test_greedy_tokens_on_a_gpu_equal_hugging_face(tmp_path: Path, settings: dict) -> None:
    oracle = make_llama(tmp_path)
    prompts = [[5, 6, 7, 8, 9] * 4, [10, 11], list(range(20, 53))]
    llm = LLM(str(tmp_path), device="cuda", dtype="float32", debug_checks=True, **{"num_pages": 64, **settings})
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [hf_greedy(oracle, ids, 32) for ids in prompts]


def test_the_bundled_model_answers_on_a_gpu_in_its_own_dtype() -> None:
    llm = LLM(device="cuda", gpu_memory_utilization=0.1)
    assert str(llm.engine.dtype) == "torch.bfloat16"
    (output,) = llm.chat(
        [{"role": "user", "content": "What is a KV cache?"}], SamplingParams(temperature=0, max_tokens=64)
    )
    assert output.outputs[0].text.startswith("A KV cache stores the keys and values of every token computed so far")
    assert output.outputs[0].finish_reason == "stop"


def test_seeds_draw_the_same_tokens_on_a_gpu_as_on_a_cpu(tmp_path: Path) -> None:
    make_llama(tmp_path)
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=20, seed=4, max_tokens=24, ignore_eos=True)
    texts = [
        LLM(str(tmp_path), device=device, dtype="float32", num_pages=64).generate([[5, 6, 7]], params, use_tqdm=False)
        for device in ("cpu", "cuda")
    ]
    assert texts[0][0].outputs[0].token_ids == texts[1][0].outputs[0].token_ids
