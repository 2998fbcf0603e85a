"""What a configuration means on this machine and with this model: every "auto" decided, once, with the reason."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from minillm.config import EngineConfig
from minillm.hub import resolve_model
from minillm.model_config import ModelConfig
from minillm.parallel.group import SINGLE, ParallelGroup
from minillm.probe import attached, probe


@dataclass(frozen=True)
class Setup:
    """What was asked for (``config``), for which model, and what it means here. Nobody writes into it.

    folder: where the checkpoint lies. max_model_len: most tokens of a prompt and its answer. page_size: tokens a page
    holds. shares_prefixes: whether requests find the pages of others. async_scheduling: whether a step is planned
    before the one ahead of it is read. watched: who looks at the engine from the inside, in words, None if nobody does:
    some things that are faster cannot be looked at. group: which rank of how many this is.
    reasons: for each setting that was "auto", what it became and why.
    """

    config: EngineConfig
    model_config: ModelConfig
    folder: Path
    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    page_size: int
    shares_prefixes: bool
    async_scheduling: bool
    watched: str | None = None
    group: ParallelGroup = SINGLE
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: EngineConfig,
        model_config: ModelConfig | None = None,
        folder: Path | None = None,
        group: ParallelGroup = SINGLE,
    ) -> "Setup":
        """Work everything out. model_config, folder: where they are known already. ValueError for what the machine
        does not have, or the model cannot do."""
        folder = folder or resolve_model(config.model)
        model_config = model_config or ModelConfig.from_folder(folder)
        reasons: dict[str, str] = {}
        device, watched = _device(config, reasons), _watched()
        max_model_len = _context_limit(config, model_config)
        config.check_limit(max_model_len)
        return cls(
            config=config,
            model_config=model_config,
            folder=folder,
            device=device,
            dtype=_dtype(config, model_config, device, reasons),
            max_model_len=max_model_len,
            page_size=_page_size(config, max_model_len, reasons),
            shares_prefixes=config.shares_prefixes,
            async_scheduling=_async_scheduling(config, device, watched, reasons),
            watched=watched,
            group=group,
            reasons=reasons,
        )

    @property
    def num_heads(self) -> int:
        """Query heads of this rank."""
        return self._heads[0]

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads of this rank; where there are more ranks than heads, some ranks hold the same one."""
        return self._heads[1]

    @property
    def _heads(self) -> tuple[int, int]:
        c = self.model_config
        return self.group.heads_of(c.num_attention_heads, c.num_key_value_heads)

    @property
    def step_tokens(self) -> int:
        """The most tokens in a step: the budget, or what all requests together may have."""
        return min(self.config.max_num_batched_tokens, self.config.max_num_seqs * self.max_model_len)

    @property
    def sampling_rows(self) -> int:
        """The most rows of logits in a step."""
        return min(self.config.max_num_seqs, self.config.max_num_batched_tokens)


def _device(config: EngineConfig, reasons: dict[str, str]) -> torch.device:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reasons["device"] = f"{device}: torch sees {'a' if device == 'cuda' else 'no'} CUDA device"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda, or cuda:N") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}, but only CPUs and CUDA devices are supported")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device here; use device='cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device is {device!r}, but torch sees {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
    return found


def _dtype(
    config: EngineConfig, model_config: ModelConfig, device: torch.device, reasons: dict[str, str]
) -> torch.dtype:
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else model_config.dtype
        reasons["dtype"] = (
            "float32: exact, and fast on every CPU" if device.type == "cpu" else f"{dtype}: the checkpoint's own"
        )
    return getattr(torch, dtype)


def _page_size(config: EngineConfig, max_model_len: int, reasons: dict[str, str]) -> int:
    if isinstance(config.page_size, int):
        return config.page_size
    if config.page_size == "max_model_len":
        return max_model_len
    flash = config.attention_backend == "flash"
    reasons["page_size"] = "256: flash-attn wants pages of a multiple of that" if flash else "16: little is wasted"
    return 256 if flash else 16


def _watched() -> str | None:
    """Who looks at the engine from the inside, in words."""
    if probe.on:
        return "somebody listens to the probes"
    return "a debugger is attached" if attached() else None


def _async_scheduling(config: EngineConfig, device: torch.device, watched: str | None, reasons: dict[str, str]) -> bool:
    if isinstance(config.async_scheduling, bool):
        return config.async_scheduling
    why_not: str | None = None
    if device.type == "cpu":
        why_not = "on a CPU there is nobody else to work meanwhile"
    elif not config.reuse_kv:
        why_not = "with reuse_kv=False each step needs the tokens before it"
    elif probe.on:
        why_not = watched
    reasons["async_scheduling"] = f"False: {why_not}" if why_not else "True: the host plans while the GPU works"
    return why_not is None


def _context_limit(config: EngineConfig, model_config: ModelConfig) -> int:
    """The most tokens of prompt and answer together: what is asked for, or else what the model was made for."""
    longest = model_config.context_limit
    if config.max_model_len is not None and config.max_model_len > longest:
        short = "; of LongRoPE's factors only the short ones are served, and they end there"
        raise ValueError(
            f"max_model_len is {config.max_model_len}, but the model was made for at most {longest} positions"
            + short * (model_config.rope.type == "longrope")
        )
    return config.max_model_len or longest
