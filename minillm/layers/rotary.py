"""Rotary position embedding (RoPE, Su et al. 2021): turn pairs of a head's numbers by an angle that grows with
position.

Number i of a head's first half is paired with number i of its second half (Hugging Face's layout), and the pair turns
by ``position * inv_freq[i]``. The scaling types stretch the angles so that a model reaches further than it was trained.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minillm.model_config import ModelConfig, RopeConfig

# A type: (rope, D, max_position_embeddings) -> inv_freq [D / 2], and a factor on cos and sin.
RopeType = Callable[[RopeConfig, int, int], tuple[Tensor, float]]


class RotaryEmbedding(nn.Module):
    """Tables of cos and sin for every position, made once after loading; `rows` picks a step's.

    ``rope`` is the config's own, unless given: some models have a second one.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, rope: RopeConfig | None = None) -> None:
        super().__init__()
        self.config, self.dtype, self.rope = config, dtype, rope or config.rope
        if self.rope.type not in ROPE_TYPES:
            raise ValueError(f"RoPE type {self.rope.type!r} is unknown; supported: {', '.join(sorted(ROPE_TYPES))}")
        self.cos: Tensor | None = None
        self.sin: Tensor | None = None

    def make_tables(self, max_positions: int, device: torch.device) -> None:
        """``cos, sin [max_positions, D]``; sin's first half is negative, which is half of the rotation's minus sign.

        Here and below, D is how many numbers of a head are turned: all, or the config's share.
        """
        rope, D = self.rope, int(self.config.head_dim * self.rope.share)
        inv_freq, factor = ROPE_TYPES[rope.type](rope, D, self.config.max_position_embeddings)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inv_freq)  # [max_positions, D / 2]
        cos, sin = angles.cos() * factor, angles.sin() * factor
        self.cos = torch.cat([cos, cos], dim=-1).to(device, self.dtype)
        self.sin = torch.cat([-sin, sin], dim=-1).to(device, self.dtype)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """``positions [T]`` -> cos and sin ``[T, D]`` for one step; every layer uses the same."""
        assert self.cos is not None and self.sin is not None, "make_tables has not been called"
        return self.cos[positions], self.sin[positions]


def _default(rope: RopeConfig, D: int, _max_positions: int) -> tuple[Tensor, float]:
    """``inv_freq[i] = theta^(-2i/D)``."""
    return 1.0 / rope.theta ** (torch.arange(0, D, 2, dtype=torch.float32) / D), 1.0


def _linear(rope: RopeConfig, D: int, max_positions: int) -> tuple[Tensor, float]:
    """Positions divided by a factor (position interpolation, Chen et al. 2023)."""
    return _default(rope, D, max_positions)[0] / _parameter(rope, "factor"), 1.0


def _llama3(rope: RopeConfig, D: int, max_positions: int) -> tuple[Tensor, float]:
    """Llama 3.1: high frequencies stay, low ones are divided by the factor, those between are blended."""
    inv_freq, _ = _default(rope, D, max_positions)
    factor, low, high = (_parameter(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _parameter(rope, "original_max_position_embeddings")
    wavelength = 2 * math.pi / inv_freq
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)  # 0: divided whole, 1: kept
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq, 1.0


def _yarn(rope: RopeConfig, D: int, max_positions: int) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): a ramp over the dimensions from kept to divided, and a factor on attention's
    sharpness."""
    given = rope.parameters
    original = given.get("original_max_position_embeddings") or max_positions
    factor = given.get("factor") or max_positions / original

    def dimension(turns: float) -> float:
        """Where in D the angle makes so many full turns over the original context."""
        return D * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(given.get("beta_fast") or 32), dimension(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, D - 1)
    ramp = ((torch.arange(D // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)).clamp(
        0, 1
    )  # 0: kept, 1: divided
    inv_freq, _ = _default(rope, D, max_positions)
    return inv_freq / factor * ramp + inv_freq * (1 - ramp), _yarn_attention_factor(rope, factor)


def _yarn_attention_factor(rope: RopeConfig, factor: float) -> float:
    given = rope.parameters

    def sharpen(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return sharpen(given["mscale"]) / sharpen(given["mscale_all_dim"])
    return sharpen(1.0)


def _longrope(rope: RopeConfig, D: int, max_positions: int) -> tuple[Tensor, float]:
    """LongRoPE (Ding et al. 2024): a factor for each pair, and one on attention's sharpness.

    There are two lists of factors. The short one holds up to the original context; a sequence that grows beyond would
    have to be computed anew with the long one, so that is as far as we serve these models (see dialects.py).
    """
    given = rope.parameters
    factors, original = given.get("short_factor"), _parameter(rope, "original_max_position_embeddings")
    if not isinstance(factors, list) or len(factors) != D // 2:
        raise ValueError(
            f"RoPE type 'longrope' needs {D // 2} numbers as 'short_factor' in the config's rope parameters, one for "
            f"each pair of the {D} numbers of a head that are turned; it is {factors!r}"
        )
    inv_freq, _ = _default(rope, D, max_positions)
    factor = given.get("factor") or max_positions / original
    sharpness = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    if given.get("attention_factor") is not None:
        sharpness = float(given["attention_factor"])
    return inv_freq / torch.tensor(factors, dtype=torch.float32), sharpness


def _parameter(rope: RopeConfig, name: str) -> float:
    if rope.parameters.get(name) is None:
        raise ValueError(
            f"RoPE type {rope.type!r} needs {name!r} in the config's rope parameters, which has {rope.parameters}"
        )
    return float(rope.parameters[name])


ROPE_TYPES: dict[str, RopeType] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "yarn": _yarn,
}
