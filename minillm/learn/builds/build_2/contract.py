"""Build 2: paged decode attention, a kernel of your own in Triton.

The engine calls `paged_decode` at the end of this file in every layer of every step, for all requests that compute one
token. What it launches is up to you: one kernel or several, how the work is cut up, how wide a block is.

A kernel is a function with @triton.jit that runs as many programs side by side: `kernel[(x, y)](...)` starts x times y
of them, and tl.program_id(0) and (1) say which one this is. It sees a tensor as the address of its first number, and
adds strides to it. Here Triton's interpreter runs it, line by line on a CPU, and print works in it; on a GPU the same
text is compiled (learn race {id}).

What must hold. What a kernel reads and writes is watched, so a number from nowhere has its name:

1.  out[r, h] is the softmax of scale * (q[r, h] . key) over all tokens of request r, times their values. H // Hkv query
    heads that follow each other share a key/value head.
2.  Token t of request r lies in page ``page_table[r, t // S]``, at t % S. What stands in the page table behind a
    request's last page may be anything, and so may what lies in its last page behind its last token.
3.  lengths[r] is how many tokens request r sees, its new one included. A request with 0 is padding, and gets zeros.
4.  Scores may be as large as they like: exp(score) may be no number where the softmax is one.
5.  Nothing but ``out``, and tensors of your own, is written.

The target: memory is what decode waits for. Each number of the keys and values is read {reads} time, and not once for
each query head; no load takes more than {tokens} tokens; no copy of a context is made, in torch or elsewhere.

At hand:
    tl.load(pointers, mask, other), tl.store(pointers, numbers, mask)    masked places are not touched
    tl.arange(0, n)                  n is a power of two, known when the kernel is compiled: a parameter n: tl.constexpr
    tl.dot(a, b, input_precision="ieee")    [m, k] times [k, n], each at least 16; fill up with zeros
    tl.trans, tl.where, tl.max(x, axis=), tl.sum(x, axis=), tl.exp, tl.maximum, tl.zeros, tl.full
    for first in range(0, length, BLOCK)    length may be a loaded number
    triton.next_power_of_2, tensor.stride(i)    for whoever launches

    python -m minillm learn check {id}     try it; learn watch {id} does at every save
    python -m minillm learn hint {id}      a hint, one more each time
    python -m minillm learn race {id}      against the engine's own kernel
    python -m minillm learn diff {id}      one possible answer, beside yours (it is peeking)
    MINILLM_MINE={id} python -m minillm generate "Hello" --max-tokens 8    any command on your kernel
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minillm.learn.todo import Todo


def paged_decode(
    q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor, scale: float, out: Tensor
) -> None:
    """Attention of one query a request over all its tokens, into ``out``.

    q [R, H, D]: any strides, but the numbers of a head lie side by side. keys, values [P, S, Hkv, D]: pages of S
    tokens; the same, and both have the same strides. page_table [R, N]: whole numbers; rows may lie apart.
    lengths [R] int32.
    out [R, H, D]: contiguous. All on one device; floats of one type, which may be float32, bfloat16 or float16.
    """
    raise Todo("build2")
