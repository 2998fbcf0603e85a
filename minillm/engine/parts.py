"""Sampling for many rows and a large vocabulary, so many rows at a time: sorting holds ten times what it sorts."""

from dataclasses import replace

from torch import Tensor

from minillm.engine.sampler import SamplingBatch, parts_of, sample


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
