"""Checks of the weights: do the files hold what the config promises, and are their numbers numbers."""

from collections import Counter
from math import prod

from minillm.diagnose.checkpoint import Checkpoint
from minillm.diagnose.findings import Check, Finding, ok, some, warn, wrong
from minillm.diagnose.numbers import tensors_equal
from minillm.layers.shards import WHOLE
from minillm.models.targets import checkpoint_targets, parts_of, target_of
from minillm.models.weights import IGNORED

HEAD = "lm_head.weight"
PLAIN = ("float32", "bfloat16", "float16", "float64")


def files(checkpoint: Checkpoint) -> Finding:
    """Every file that the index names is there and whole."""
    try:
        headers = checkpoint.headers
    except Exception:  # said below, with the reason
        headers = {}
    if checkpoint.damaged:
        said = "; ".join(f"{name}: {why}" if name != "weights" else why for name, why in checkpoint.damaged.items())
        return wrong(said, "fetch what is named again")
    count = len({header.file for header in headers.values()})
    return ok(f"{count} file{'s' if count > 1 else ''}, {len(headers)} tensors")


def fit(checkpoint: Checkpoint) -> Finding:
    """Tensors against the config: none missing, none left over, all of the right shape. From headers alone."""
    targets, headers = checkpoint_targets(checkpoint.model), checkpoint.headers
    placed = {name: target for name in headers if (target := target_of(name, targets))}
    unfilled = parts_of(targets)
    for target in placed.values():
        filled = unfilled[target.name]
        unfilled[target.name] = {} if target.part == WHOLE else {p: n for p, n in filled.items() if p != target.part}
    missing = sorted(name for parts in unfilled.values() for name in parts.values())
    ignored = (*IGNORED, HEAD) if checkpoint.config.tie_word_embeddings else IGNORED
    left_over = sorted(name for name in set(headers) - set(placed) if not name.endswith(ignored))
    shapes = [
        f"{name} is {headers[name].shape}, the config asks for {target.shape}"
        for name, target in placed.items()
        if headers[name].shape != target.shape
    ]
    found = [
        f"{len(names)} {what}: {some(names, 3)}"
        for what, names in (("missing", missing), ("left over", left_over), ("of the wrong shape", shapes))
        if names
    ]
    if found:
        todo = "the config belongs to other weights, or files were left out: take both from one place"
        return wrong("; ".join(found), todo)
    return ok(f"all {len(placed)} tensors that the config asks for, in their shapes")


def tied(checkpoint: Checkpoint) -> Finding:
    """The config's word on tied weights is what the tensors say."""
    says, headers = checkpoint.config.tie_word_embeddings, checkpoint.headers
    table = next((name for name in headers if name.endswith("embed_tokens.weight")), None)
    if not says:
        if HEAD in headers:
            return ok("not tied: lm_head has its own table")
        return wrong(
            "the config says untied, but there is no lm_head.weight",
            "set tie_word_embeddings to true if the model shares its embedding; else lm_head was lost",
        )
    if HEAD not in headers or table is None:
        return ok("tied: logits are made with the embedding")
    if tensors_equal(checkpoint.tensor(HEAD), checkpoint.tensor(table)):
        return ok("tied, and lm_head.weight is a copy of the embedding")
    return wrong(
        "the config says tied, but lm_head.weight is there and is not the embedding",
        "set tie_word_embeddings to false, or take lm_head.weight out: now it is ignored",
    )


def dtypes(checkpoint: Checkpoint) -> Finding:
    """One dtype for all, the one that the config names; odd ones are named."""
    headers = checkpoint.headers
    amount: Counter[str] = Counter()
    for header in headers.values():
        amount[header.dtype] += prod(header.shape)
    usual = amount.most_common(1)[0][0]
    odd = [f"{name} ({header.dtype})" for name, header in headers.items() if header.dtype != usual]
    said = f"{len(headers) - len(odd)} of {len(headers)} tensors are {usual}"
    if foreign := [name for name, header in headers.items() if header.dtype not in PLAIN]:
        return wrong(f"{said}; no plain floats: {some(foreign)}", "these look quantised: take the original checkpoint")
    try:
        named = checkpoint.raw.get("dtype") or checkpoint.raw.get("torch_dtype")
    except Exception:  # config.json has its own check
        named = None
    named = str(named).removeprefix("torch.") if named else None
    if odd:
        return warn(f"{said}, these are not: {some(odd)}", "they are converted on loading; was it saved half way?")
    if named and named != usual:
        return warn(f"{said}, the config says {named}", f"on a GPU they run in {named}: correct the config if in doubt")
    return ok(f"all {len(headers)} tensors are {usual}")


def finite(checkpoint: Checkpoint) -> Finding:
    """No NaN and no infinity in any tensor."""
    bad = {name: one for name, one in checkpoint.numbers.items() if one.nans or one.infinite}
    if bad:
        listed = [f"{name} ({one.nans} NaN, {one.infinite} infinite of {one.count:,})" for name, one in bad.items()]
        return wrong(some(listed, 3), "every token's logits become NaN: fetch or train it again")
    return ok(f"no NaN, no infinity among {sum(one.count for one in checkpoint.numbers.values()):,} numbers")


def zeros(checkpoint: Checkpoint) -> Finding:
    """No weight is all zeros. Biases may be."""
    empty = [name for name, one in checkpoint.numbers.items() if one.zero and not name.endswith("bias")]
    if empty:
        return warn(f"all zeros: {some(empty)}", "was it never trained, or lost in a conversion? Compare the original")
    return ok("no weight is all zeros")


CHECKS: list[tuple[str, Check]] = [
    ("weight files", files),
    ("tensors", fit),
    ("tied weights", tied),
    ("dtypes", dtypes),
    ("NaN, infinity", finite),
    ("zeros", zeros),
]
