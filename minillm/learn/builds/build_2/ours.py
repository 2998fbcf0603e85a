"""The engine's own decode kernel behind build 2's contract: the other side of the race."""

import torch
from torch import Tensor

from minillm.attention.triton import PROGRAMS_A_PROCESSOR, programs_of
from minillm.kernels.triton import attention
from minillm.kernels.triton.attention import MOST_SPLITS, Scratch, decode_tile


def paged_decode(
    q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor, scale: float, out: Tensor
) -> None:
    """As the engine calls it, but that each call makes its own memory for splits, and cuts contexts as if all were as
    long as the page table is wide."""
    R, H, D = q.shape
    P, S, heads, _ = keys.shape
    programs, device = programs_of(q.device), q.device
    few = R * heads * 2 * PROGRAMS_A_PROCESSOR <= programs
    tile = decode_tile(q.itemsize, D, few)
    blocks = -(-page_table.shape[1] * S // tile.tokens)
    each = max(-(-R * blocks * heads // programs), -(-blocks // MOST_SPLITS), 1)
    splits = 1 << (-(-blocks // each) - 1).bit_length()
    parts, wide = R * H * splits, max(1 << (D - 1).bit_length(), 16)
    scratch = Scratch(
        torch.empty(parts * wide, dtype=torch.float32, device=device),
        torch.empty(parts, dtype=torch.float32, device=device),
        torch.empty(parts, dtype=torch.float32, device=device),
        torch.zeros(R * heads, dtype=torch.int32, device=device),
    )
    cache = keys.as_strided((P * S, 2 * heads * D), (keys.stride(1), 1))  # a token's keys and values lie side by side
    split_blocks = torch.full((1,), each, dtype=torch.int32, device=device)
    attention.paged_decode(
        q,
        cache,
        page_table,
        lengths,
        split_blocks,
        splits,
        tile,
        programs,
        scratch,
        out.view(R, H * D),
        S,
        heads,
        scale,
    )
