"""What a configuration means on this machine and with this model, where it does not say."""

import torch

from minillm.config import EngineConfig
from minillm.model_config import ModelConfig
from minillm.probe import probe


def understand(config: EngineConfig, model_config: ModelConfig) -> tuple[torch.device, torch.dtype, dict[str, str]]:
    """The device and dtype that a configuration means on this machine, with the reason for each that was "auto"."""
    reasons = {}
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reasons["device"] = f"{device}: torch sees {'a' if device == 'cuda' else 'no'} CUDA device"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else model_config.dtype
        reasons["dtype"] = (
            "float32: exact, and fast on every CPU" if device == "cpu" else f"{dtype}: the checkpoint's own"
        )
    if config.async_scheduling == "auto":
        config.async_scheduling = device != "cpu" and config.reuse_kv and not probe.on
        reasons["async_scheduling"] = (
            "True: the host plans while the GPU works" if config.async_scheduling
            else "False: on a CPU there is nobody else to work meanwhile" if device == "cpu"
            else "False: somebody listens to the probes, or each step needs the tokens before it"
        )  # fmt: skip
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda, or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device here; use device='cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device is {device!r}, but torch sees {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
    return found, getattr(torch, dtype), reasons


def context_limit(config: EngineConfig, model_config: ModelConfig) -> int:
    """The most tokens of prompt and answer together: what is asked for, or else what the model was made for."""
    longest = model_config.context_limit
    if config.max_model_len is not None and config.max_model_len > longest:
        short = "; of LongRoPE's factors only the short ones are served, and they end there"
        raise ValueError(
            f"max_model_len is {config.max_model_len}, but the model was made for at most {longest} positions"
            + short * (model_config.rope.type == "longrope")
        )
    return config.max_model_len or longest
