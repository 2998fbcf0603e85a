"""What a step must move and compute, by kind of kernel, from shapes alone: what a profile is held against."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minillm.layers.linear import LinearBase

if TYPE_CHECKING:
    from minillm.engine.engine import Engine
    from minillm.scheduler.plan import StepPlan


@dataclass
class ModelShape:
    """What of a model decides how much a step moves; sizes of its tensors in memory are in bytes.

    layer_weights, head_weights: bytes of one layer's matrices (the mean, if they differ), and of the last one.
    layer_numbers: weights of one layer's matrices that a token is multiplied with; layer_columns: their N and K, all
    added up. windows: for each layer, how many tokens it looks back at most, 0 for all. Of a mixture of experts:
    expert_weights are bytes of one expert, of which each token goes through ``chosen`` out of ``experts``.
    """

    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    itemsize: int
    kv_itemsize: int
    layer_weights: int
    head_weights: int
    layer_numbers: int
    layer_columns: int
    windows: list[int]
    expert_weights: int = 0
    experts: int = 0
    chosen: int = 0


@dataclass
class StepFacts:
    """One step, as far as it decides how much is moved: for each request how many tokens are computed (``counts``),
    how many it has after them (``contexts``), and how many requests sample a token."""

    step: int
    counts: list[int]
    contexts: list[int]
    samples: int

    @property
    def is_decode(self) -> bool:
        """Whether every request computes one token."""
        return max(self.counts, default=1) == 1

    @classmethod
    def of(cls, plan: "StepPlan") -> "StepFacts":
        return cls(
            plan.step, [row.count for row in plan.rows], [row.start + row.count for row in plan.rows],
            sum(row.samples for row in plan.rows),
        )  # fmt: skip


def bytes_of_step(shape: ModelShape, counts: list[int], contexts: list[int], samples: int) -> dict[str, int]:
    """Bytes that one step has to read and write at the least, by kind of kernel, over all layers.

    counts [R]: tokens that each request computes; contexts [R]: tokens that it has after them; samples: how many
    requests sample. Weights are read once, however many tokens share them; what goes in and comes out of a kernel is
    counted for each token; keys and values are read once for each request that looks at them.
    """
    s, T = shape, sum(counts)
    wide = s.heads + 2 * s.kv_heads  # heads of queries, keys and values, side by side
    moved = dict.fromkeys(("matrix", "attention decode", "attention prefill"), 0)
    moved["matrix"] = s.layers * (s.layer_weights + T * s.layer_columns * s.itemsize)
    moved["matrix"] += s.head_weights + samples * (s.hidden + s.vocab) * s.itemsize
    moved["matrix"] += s.layers * min(s.experts, T * s.chosen) * s.expert_weights  # if no two tokens share an expert
    for count, context in zip(counts, contexts):
        moved["attention decode" if count == 1 else "attention prefill"] += attention_bytes(shape, count, context)
    moved["norm"] = (2 * s.layers + 1) * T * 4 * s.hidden * s.itemsize  # x and what is added to it, in and out
    turned = T * (wide + s.heads + 3 * s.kv_heads) * s.head_dim  # all in; queries and keys out, the cache's part too
    moved["rotary+store"] = s.layers * turned * s.itemsize
    moved["activation"] = s.layers * T * 3 * s.inner * s.itemsize
    moved["sampling"] = samples * s.vocab * 4
    return moved


def attention_bytes(shape: ModelShape, count: int, context: int) -> int:
    """Bytes that attention has to move for one request in one step, at the least, over all layers.

    The request computes ``count`` tokens and has ``context`` tokens after them. In each layer a query goes in and a
    result comes out for each of the ``count`` tokens; keys and values are read once for all of them together: those of
    the whole context, or, in a layer with a window, of what at least one of the queries sees.
    """
    one_token = 2 * shape.kv_heads * shape.head_dim * shape.kv_itemsize  # its key and its value, in one layer
    in_and_out = 2 * count * shape.heads * shape.head_dim * shape.itemsize
    moved = 0
    for window in shape.windows:
        seen = min(context, window + count - 1) if window else context
        moved += seen * one_token + in_and_out
    return moved


def flops_of_step(shape: ModelShape, counts: list[int], contexts: list[int], samples: int) -> dict[str, int]:
    """Multiplications and additions of one step, by kind; the same arguments as `bytes_of_step`."""
    s, T = shape, sum(counts)
    done = {"matrix": 2 * (s.layers * T * s.layer_numbers + samples * s.hidden * s.vocab)}
    for count, context in zip(counts, contexts):
        kind = "attention decode" if count == 1 else "attention prefill"
        pairs = count * (context - count) + count * (count + 1) // 2  # query i sees all before it, and itself
        done[kind] = done.get(kind, 0) + s.layers * 4 * s.heads * s.head_dim * pairs
    return done


def shape_of(engine: "Engine") -> ModelShape:
    """The shape of an engine's model, as it lies in memory."""
    config, kv = engine.model_config, engine.runner.kv_cache.spec
    head: Any = engine.model.lm_head
    layers = [module for module in engine.model.modules() if hasattr(module, "self_attn")]
    matrices: list[Any] = [m for layer in layers for m in layer.modules() if isinstance(m, LinearBase)]
    mixtures: list[Any] = [m for layer in layers for m in layer.modules() if hasattr(m, "experts")]
    n = max(len(layers), 1)
    shape = ModelShape(
        layers=n, hidden=config.hidden_size, vocab=config.vocab_size, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, inner=config.intermediate_size,
        itemsize=engine.dtype.itemsize, kv_itemsize=kv.dtype.itemsize,
        layer_weights=sum(m.bytes_read for m in matrices) // n, head_weights=head.bytes_read,
        layer_numbers=sum(m.in_features * m.out_features for m in matrices) // n,
        layer_columns=sum(m.in_features + m.out_features for m in matrices) // n,
        windows=[config.window(layer) or 0 for layer in range(n)],
    )  # fmt: skip
    if mixtures:
        first, inner = mixtures[0], mixtures[0].experts.inner
        shape.experts, shape.chosen, shape.inner = first.shape.num_experts, first.shape.top_k, inner * first.shape.top_k
        shape.expert_weights = 3 * shape.hidden * inner * shape.itemsize
        shape.layer_numbers += 3 * shape.hidden * inner * shape.chosen
    return shape
