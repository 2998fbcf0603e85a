"""Logits to tokens, for the whole batch at once.

The order is vLLM's: the grammar, a bias and allowed tokens, bad words, min_tokens, penalties (`Edits`); then the
likeliest token, or temperature, min-p, top-k and top-p, and a random choice.

A random choice needs one number between 0 and 1 for each token. It is made by hashing the request's seed with the
token's position, so it depends on nothing else: not on the batch, not on what ran before, not on the device.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minillm.probe import probe

PART = 2**23  # numbers, 32 MiB: more logits than these are worked on piece by piece

if TYPE_CHECKING:
    from minillm.sampling.processors import Edits


@dataclass
class SamplingBatch:
    """The settings of the ``D`` rows that draw, of ``R`` that sample in this step, as tensors ``[D]``. The others are
    greedy. None instead of it: all rows are greedy, and none wants its logits changed."""

    temperature: Tensor  # float32, above 0
    top_k: Tensor  # int64, the vocabulary's size where all are kept
    top_p: Tensor  # float32
    seeds: Tensor  # int64
    positions: Tensor  # int64: where the token that is chosen now will stand
    any_filter: bool  # whether any of them has top_k or top_p
    drawn: Tensor | None = None  # int64 [D]: which of the R rows these are; None: all of them
    min_p: Tensor | None = None  # float32; None if nobody has it
    edits: "Edits | None" = None  # what is done to some rows' logits first

    @property
    def plain(self) -> bool:
        """Whether nobody asks for more than a temperature."""
        return not self.any_filter and self.min_p is None and self.edits is None


def sample(logits: Tensor, settings: SamplingBatch | None) -> Tensor:
    """``logits [R, V]`` float32 -> token ids ``[R]`` int64."""
    probe.on and probe("sampler.logits", logits=logits, settings=settings)
    if settings is None:
        return logits.argmax(dim=-1)
    if settings.edits is not None:
        settings.edits.apply(logits)  # in place
    if not len(settings.temperature):
        return logits.argmax(dim=-1)
    drawn = logits if settings.drawn is None else logits[settings.drawn]  # [D, V]: greedy rows are not made to wait
    below = drawn - drawn.amax(dim=-1, keepdim=True)  # [D, V], at most 0: a tiny temperature overflows to 0 or -inf
    probs = torch.softmax(below / settings.temperature[:, None], dim=-1)  # [D, V]
    if settings.min_p is not None:
        probs = keep_min_p(probs, settings.min_p)
    if settings.any_filter:
        probs = keep_top(probs, settings.top_k, settings.top_p)
    uniform = uniform_from(settings.seeds, settings.positions)  # [D]
    probe.on and probe("sampler.choose", probs=probs, uniform=uniform, settings=settings)
    chosen = draw(probs, uniform)  # [D]
    return chosen if settings.drawn is None else logits.argmax(dim=-1).index_copy(0, settings.drawn, chosen)


def parts_of(rows: int, V: int) -> list[slice]:
    """The rows of ``[rows, V]``, cut where they are many, so that the memory that it takes to work on them has a bound.
    Probes show them uncut."""
    size = max(rows if probe.on else PART // V, 1)
    return [slice(start, start + size) for start in range(0, rows, size)]


def keep_min_p(probs: Tensor, min_p: Tensor) -> Tensor:
    """Zero what is less likely than ``min_p [R]`` times the likeliest of its row in ``probs [R, V]``. Not renormalised.

    The likeliest always stays, and ``min_p`` 0 keeps all.
    """
    least = min_p[:, None] * probs.amax(dim=-1, keepdim=True)  # [R, 1]
    return probs.masked_fill(probs < least, 0.0)


def keep_top(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero what top-k, then top-p leave out of ``probs [R, V]``; top-p counts shares of what top-k kept. Not
    renormalised.

    A token stays in the nucleus (Holtzman et al. 2020) while those more likely than it add up to less than ``top_p``.
    """
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[-1], device=probs.device)
    ordered = ordered.masked_fill(rank >= top_k[:, None], 0.0)
    before = ordered.cumsum(dim=-1) - ordered
    outside = before >= top_p[:, None] * ordered.sum(dim=-1, keepdim=True)
    outside &= (top_p < 1)[:, None] & (rank > 0)  # the likeliest always stays; top_p = 1 leaves rounding no say
    return torch.zeros_like(probs).scatter_(-1, order, ordered.masked_fill(outside, 0.0))


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the running sum of ``probs [R, V]`` passes ``uniform [R]`` of its total: inverse transform
    sampling."""
    running = probs.double().cumsum(dim=-1)
    point = uniform[:, None] * running[:, -1:]
    chosen = torch.searchsorted(running, point, right=True)[:, 0]
    tokens = torch.arange(probs.shape[-1], dtype=torch.int32, device=probs.device)
    last_possible = torch.where(probs > 0, tokens, 0).amax(dim=-1)  # rounding must not step past it
    return torch.minimum(chosen, last_possible)


def sample_rows(
    logits: Tensor, temperature: Tensor, seeds: Tensor, positions: Tensor, last_tokens: Tensor, seats: Tensor
) -> Tensor:
    """``logits [R, V]`` -> tokens ``[R]`` int64, where nobody asks for more than a temperature. They are kept in
    ``last_tokens [seats]``, too, at ``seats [R]``.

    temperature [R] float32, 0 is greedy; seeds [R] int64; positions [R]: where the tokens will stand. Each row is
    computed both ways and its own is taken, so that the same operators run whatever stands in the rows: a recorded step
    can do no other.
    """
    logits, drawing = logits.float(), temperature > 0
    below = logits - logits.amax(dim=-1, keepdim=True)
    probs = torch.softmax(below / torch.where(drawing, temperature, 1.0)[:, None], dim=-1)  # [R, V]
    drawn = draw(probs, uniform_from(seeds, positions.long()))
    tokens = torch.where(drawing, drawn, logits.argmax(dim=-1))
    last_tokens.index_copy_(0, seats, tokens)
    return tokens


def uniform_from(seeds: Tensor, positions: Tensor) -> Tensor:
    """``[R]`` float64 in (0, 1), the same for the same seed and position always (SplitMix64's mixing, Steele et al.
    2014)."""
    z = seeds + (positions + 1) * -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio, as a signed number
    z = (z ^ _shift(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _shift(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    z = z ^ _shift(z, 31)
    return (_shift(z, 12).double() + 0.5) * 2.0**-52


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, which ``>>`` on signed numbers does not."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def sample_in_parts(logits: Tensor, settings: SamplingBatch | None) -> Tensor:
    """`sample` of ``logits [R, V]`` -> ``[R]`` int64, with the rows that draw cut as `parts_of` cuts them."""
    parts = [] if settings is None else parts_of(len(settings.temperature), logits.shape[1])
    if settings is None or len(parts) < 2:
        return sample(logits, settings)
    if settings.edits is not None:
        settings.edits.apply(logits)  # in place
    tokens = logits.argmax(dim=-1)  # [R]
    for part in parts:
        rows = part if settings.drawn is None else settings.drawn[part]
        tokens[rows] = sample(logits[rows], _only(settings, part))
    return tokens


def _only(settings: SamplingBatch, part: slice) -> SamplingBatch:
    """The settings of these drawing rows, whose logits were edited already."""
    return replace(
        settings,
        temperature=settings.temperature[part],
        top_k=settings.top_k[part],
        top_p=settings.top_p[part],
        seeds=settings.seeds[part],
        positions=settings.positions[part],
        min_p=None if settings.min_p is None else settings.min_p[part],
        drawn=None,
        edits=None,
    )
