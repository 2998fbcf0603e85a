"""On a GPU, what is planned is measured; and what is taken, birth and service together, stays within the plan."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model

from minillm import LLM, SamplingParams
from minillm.worker.device import DeviceMemory, show_bytes

pytestmark = pytest.mark.gpu

PLAIN = {"kernels": "torch", "attention_backend": "reference"}
TOTAL_SLACK = 0.02  # of the whole card: what others may come and go with


def nasty(count: int, longest: int, vocab: int) -> tuple[list[dict[str, list[int]]], list[SamplingParams]]:
    """Prompts from one token to nearly the whole context, for requests that ask for all that costs memory."""
    prompts = [
        {"prompt_token_ids": [(i * 7 + j) % vocab for j in range(1 + i * 131 % (longest - 40))]} for i in range(count)
    ]
    asks: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}
    asks |= {"frequency_penalty": 0.1, "logit_bias": {5: 1.0}, "logprobs": 5, "min_tokens": 4, "ignore_eos": True}
    params = [
        SamplingParams(max_tokens=8 + i % 24, seed=i, **(asks if i % 8 else {"temperature": 0})) for i in range(count)
    ]
    for i in range(0, count, 50):
        params[i].prompt_logprobs = 3
    return prompts, params


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Small layers under a large vocabulary: the worst for the sampler."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4}
    make_model(
        tmp_path, "llama", dtype=torch.bfloat16, vocab_size=120_000, head_dim=64, max_position_embeddings=4096, **sizes
    )
    return tmp_path


def gone_from(device: torch.device, free: int) -> int:
    torch.cuda.synchronize(device)
    return free - torch.cuda.mem_get_info(device)[0]


@pytest.mark.parametrize(
    "settings", [{}, {"enforce_eager": True}, {**PLAIN}, {"max_num_batched_tokens": 8192}], ids=str
)
def test_serving_on_a_gpu_never_passes_the_plan(big: Path, settings: dict[str, Any]) -> None:
    before = DeviceMemory.look(torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    share = min(0.5, 0.9 * before.free / before.total)
    llm = LLM(str(big), device="cuda", skip_tokenizer_init=True, gpu_memory_utilization=share, **settings)
    memory = llm.engine.memory
    assert memory.how == "measured in a trial step" and (memory.graphs > 0) == (llm.engine.runner.graphs is not None)
    for turn in range(2):
        prompts, params = nasty(300, 3000, 120_000)
        llm.generate(prompts, params, use_tqdm=False)
        in_torch = torch.cuda.max_memory_reserved() - before.in_torch
        taken = gone_from(before.device, before.free)
        said = f"turn {turn}: {show_bytes(in_torch)} in torch, {show_bytes(taken)} gone, plan {memory}"
        assert in_torch + before.outside() <= memory.limit, said
        assert taken <= memory.limit, said


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_share_of_a_gpu_is_taken_and_no_more(big: Path, share: float) -> None:
    before = DeviceMemory.look(torch.device("cuda"))
    llm = LLM(str(big), device="cuda", skip_tokenizer_init=True, gpu_memory_utilization=share)
    taken = gone_from(before.device, before.free)
    assert (share - TOTAL_SLACK) * before.total < taken <= share * before.total, llm.engine.memory


def test_two_engines_share_a_gpu(big: Path) -> None:
    """What the first holds does not count against the second's share, but it must have left that share."""
    common: dict[str, Any] = {"device": "cuda", "skip_tokenizer_init": True}
    first = LLM(str(big), gpu_memory_utilization=0.3, **common)
    second = LLM(str(big), gpu_memory_utilization=0.3, **common)
    sizes = [llm.engine.memory.kv_cache for llm in (first, second)]
    assert abs(sizes[0] - sizes[1]) < TOTAL_SLACK * DeviceMemory.look(torch.device("cuda")).total
    with pytest.raises(
        ValueError, match=r"gpu_memory_utilization=0.9 means .* are free; .*lower gpu_memory_utilization"
    ):
        LLM(str(big), gpu_memory_utilization=0.9, **common)
    prompts, params = nasty(20, 500, 120_000)
    for llm in (first, second):
        assert len(llm.generate(prompts, params, use_tqdm=False)) == 20


def test_more_than_is_free_on_a_gpu_is_refused_with_numbers(big: Path) -> None:
    pages = DeviceMemory.look(torch.device("cuda")).free // 1000
    with pytest.raises(ValueError, match=r"the KV cache asked for takes .* GiB, but of .* GiB free memory"):
        LLM(str(big), device="cuda", skip_tokenizer_init=True, num_pages=pages)
