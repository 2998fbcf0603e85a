"""Other engines on the same work: Hugging Face's generate, and vLLM where it is installed.

Each is loaded by a function that gives back how to run it, so that what is timed is the running alone.
"""

import gc
import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from minillm.bench.checkpoints import say
from minillm.bench.traffic import TEMPERATURE, Traffic
from minillm.config import EngineConfig
from minillm.setup import Setup

# prompts, how many tokens each is to get, temperature -> the tokens of each
Generate = Callable[[list[list[int]], list[int], float], list[list[int]]]


@dataclass
class PeerResult:
    """What another engine made of a workload: its best round."""

    name: str
    version: str
    seconds: float
    tokens_per_s: float


def check_peer(name: str) -> None:
    """ValueError if there is no such engine, or it is not installed."""
    if name not in PEERS:
        raise ValueError(f"--compare is {name!r}; it must be one of {', '.join(PEERS)}")
    package = PEERS[name][0]
    if importlib.util.find_spec(package) is None:
        others = " or ".join(f"--compare {other}" for other in PEERS if other != name)
        raise ValueError(
            f"--compare {name} needs the package {package!r}, which is not installed here; install it (vLLM brings a "
            f"torch of its own, so better into another environment, and minillm beside it there), or use {others}"
        )


def measure_peer(name: str, work: Traffic, settings: dict[str, Any], rounds: int) -> PeerResult:
    """Load the other engine with the same model, run the workload to warm up and ``rounds`` times for the record."""
    check_peer(name)
    gc.collect()  # ours has gone, and leaves its memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    package, load = PEERS[name]
    config = EngineConfig.from_settings(**settings)
    setup = Setup.of(config)
    say(f"{name}: loading")
    generate = load(setup)
    work, best = work.within(setup.model_config.vocab_size), float("inf")
    for turn in range(rounds + 1):
        start = time.perf_counter()
        generate(work.prompts, work.output_lens, TEMPERATURE)
        seconds = time.perf_counter() - start
        what = f"round {turn} of {rounds}" if turn else "warm-up"
        say(f"{work.name}: {name}: {what}: {seconds:.2f} s, {work.num_generated / seconds:,.0f} tokens/s")
        best = min(best, seconds) if turn else best
    return PeerResult(name, version(package), best, work.num_generated / best)


def load_transformers(folder: Path, device: torch.device, dtype: torch.dtype, random: bool = False) -> Generate:
    """Hugging Face's generate, as it comes. ``random``: the folder has no weights, only a config."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind: Any = transformers.AutoModelForCausalLM
    if random:
        config = transformers.AutoConfig.from_pretrained(folder)
        with device:
            model = kind.from_config(config, dtype=dtype).eval()
    else:
        model = kind.from_pretrained(folder, dtype=dtype).to(device).eval()
    model.generation_config.eos_token_id = None  # an ordinary token, as for us: the length is given

    @torch.inference_mode()
    def generate(prompts: list[list[int]], output_lens: list[int], temperature: float) -> list[list[int]]:
        """All in one batch, padded on the left, until the longest answer is done: what it makes beyond a request's own
        length is thrown away."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)  # [R, width]
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        draws = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        made = model.generate(
            ids, attention_mask=mask, use_cache=True, pad_token_id=0, min_new_tokens=max(output_lens),
            max_new_tokens=max(output_lens), **{"do_sample": False, **draws},
        )  # fmt: skip  # [R, width + max_new_tokens]
        return [row[width : width + n] for row, n in zip(made.tolist(), output_lens)]

    return generate


def load_vllm(setup: Setup) -> Generate:
    """vLLM with its own defaults, but for what is given: model, context limit, memory, prefix cache."""
    vllm, config = importlib.import_module("vllm"), setup.config
    llm = vllm.LLM(
        model=config.model,
        dtype=str(setup.dtype).removeprefix("torch."),
        max_model_len=setup.max_model_len,
        load_format=config.load_format,
        skip_tokenizer_init=config.skip_tokenizer_init,
        gpu_memory_utilization=config.gpu_memory_utilization,
        enable_prefix_caching=setup.shares_prefixes,
        seed=config.seed,
    )

    def generate(prompts: list[list[int]], output_lens: list[int], temperature: float) -> list[list[int]]:
        params = [
            vllm.SamplingParams(temperature=temperature, max_tokens=n, ignore_eos=True, detokenize=False)
            for n in output_lens
        ]
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return generate


def _load_hf(setup: Setup) -> Generate:
    return load_transformers(setup.folder, setup.device, setup.dtype, random=setup.config.load_format == "dummy")


# What --compare takes -> the package, and how to load it.
PEERS: dict[str, tuple[str, Callable[[Setup], Generate]]] = {
    "hf": ("transformers", _load_hf),
    "vllm": ("vllm", load_vllm),
}
