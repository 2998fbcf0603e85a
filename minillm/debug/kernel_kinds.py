"""What kind of work a kernel does, by its name.

A profiler knows kernels by the names that their authors gave them: ours in Triton, cuBLAS's and CUTLASS's, torch's
operators (``aten::mm``), our C++ functions (``minillm::linear``). A report wants to know which of them multiply
matrices.
"""

# Kind -> parts of names. The order counts: a name is of the first kind that has a part of it.
KINDS: dict[str, tuple[str, ...]] = {
    "attention decode": ("paged_decode", "splitkv", "combine", "attention_decode"),
    "attention prefill": ("paged_prefill", "flash", "fmha", "scaled_dot_product", "attention"),
    "rotary+store": ("rotate", "rotary", "store_kv", "and_cache"),
    "norm": ("norm",),
    "matrix": (
        "gemm", "gemv", "nvjet", "cutlass", "splitk", "cublas", "xmma", "matmul", "linear", "one_row_gated",
        "aten::mm", "aten::bmm", "addmm", "baddbmm", "marlin", "dot_kernel", "reduce_1block",
    ),
    "activation": ("silu", "gelu", "relu", "activation"),
    "sampling": (
        "_blocks", "_choose", "argmax", "softmax", "topk", "sort", "cumsum", "scan", "multinomial", "sampl",
        "searchsorted",
    ),
    "copy": (
        "memcpy", "memset", "copy", "index", "gather", "scatter", "embedding", "cat", "aten::to", "fill", "clone",
        "contiguous", "stack", "pin_memory",
    ),
}  # fmt: skip
OTHER = "other"
ALL_KINDS = (*KINDS, OTHER)


def kind_of(name: str) -> str:
    """The kind of a kernel or an operator: the first of `KINDS` that has a part of its name, in small letters or
    capitals; ``"other"`` if none has."""
    lower = name.lower()
    for kind, parts in KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return OTHER
