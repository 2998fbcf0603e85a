"""Checks of what config.json says: is it whole, is it understood, and what will the engine make of it here."""

from minillm.config import EngineConfig
from minillm.diagnose.checkpoint import Checkpoint
from minillm.diagnose.findings import Check, Finding, ok, some, warn, wrong
from minillm.files import read_json
from minillm.layers.rotary import ROPE_TYPES
from minillm.model_config import ModelConfig, RopeConfig
from minillm.models.registry import model_class
from minillm.setup import Setup
from minillm.worker.device import free_bytes, show_bytes
from minillm.worker.platform import choose_kernels


def config_json(checkpoint: Checkpoint) -> Finding:
    """config.json is there, is JSON, and has what a decoder-only model's config has."""
    try:
        config = ModelConfig.from_folder(checkpoint.folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return wrong(str(error), "fetch the checkpoint again, or mend the field that is named")
    heads = f"{config.num_attention_heads} heads over {config.num_key_value_heads} of {config.head_dim}"
    return ok(f"{config.num_hidden_layers} layers of {config.hidden_size}, {heads}, vocabulary {config.vocab_size:,}")


def architecture(checkpoint: Checkpoint) -> Finding:
    """The engine has a class for it, and the class takes this config."""
    config = checkpoint.config
    try:
        model = model_class(config)
    except ValueError as error:
        return wrong(str(error), "register a class for it (minillm/models/registry.py), or take another model")
    try:
        checkpoint.build()
    except (ValueError, TypeError) as error:
        return wrong(f"{model.__name__} refuses this config: {error}", "mend the field that is named")
    return ok(f"{config.architecture}, built by {model.__name__}")


def quantisation(checkpoint: Checkpoint) -> Finding:
    """The checkpoint is not quantised: the engine reads plain weights."""
    settings = checkpoint.raw.get("quantization_config") or checkpoint.raw.get("compression_config")
    if not settings:
        return ok("none: weights are plain numbers")
    method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
    return wrong(
        f"quantised by {method!r}, which is not supported yet", "take the checkpoint that this one was made from"
    )


def rope(checkpoint: Checkpoint) -> Finding:
    """Rotary positions: a type that is known, with all its parameters, and one theta."""
    config, raw = checkpoint.config, checkpoint.raw
    if not config.rope.share:
        return ok("none: no head is turned, the model knows positions otherwise")
    ropes = [rope for rope in (config.rope, config.local_rope) if rope is not None]
    for rope in ropes:
        if finding := broken_rope(rope, config):
            return finding
    outer = raw.get("rope_theta")
    if outer is not None and float(outer) != config.rope.theta:
        return warn(
            f"rope_theta is {outer}, but rope_parameters has {config.rope.theta}, which is used",
            "make the two agree: engines differ in which they read",
        )
    said = "; layers with a window: ".join(f"{rope.type}, theta {rope.theta:g}" for rope in ropes)
    turned = int(config.head_dim * config.rope.share)
    part = f"; {turned} of a head's {config.head_dim} numbers are turned" if turned < config.head_dim else ""
    return ok(said + part)


def broken_rope(rope: RopeConfig, config: ModelConfig) -> Finding | None:
    """What is wrong with one of the config's ropes."""
    if rope.type not in ROPE_TYPES:
        return wrong(
            f"type {rope.type!r} is unknown; known: {', '.join(sorted(ROPE_TYPES))}",
            "positions would be wrong: add the type to minillm/layers/rotary.py",
        )
    try:
        turned = int(config.head_dim * rope.share)
        inv_freq, _ = ROPE_TYPES[rope.type](rope, turned, config.max_position_embeddings)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        return wrong(str(error), "add what lacks to the config's rope parameters")
    if not (inv_freq.isfinite().all() and (inv_freq > 0).all()):
        return wrong(f"theta {rope.theta} makes no usable angles", "copy rope_theta from the original config")
    return None


def context(checkpoint: Checkpoint) -> Finding:
    """The tokenizer's idea of the longest text is not longer than the model's."""
    positions = checkpoint.config.max_position_embeddings
    said = "" if checkpoint.raw.get("max_position_embeddings") else " (config.json does not say; this is our guess)"
    longest = checkpoint.tokenizer.config.get("model_max_length")
    if isinstance(longest, (int, float)) and positions < longest < 1e9:
        return warn(
            f"the tokenizer's model_max_length is {int(longest):,}, the model has {positions:,} positions{said}",
            f"texts over {positions:,} tokens are refused; do not trust model_max_length",
        )
    if said:
        return warn(f"{positions:,} positions{said}", "set max_position_embeddings in config.json")
    shorter = f"; the tokenizer says {int(longest):,}" if longest and longest < positions else ""
    return ok(f"{positions:,} positions{shorter}")


def device(checkpoint: Checkpoint) -> Finding:
    """Where the engine would put the parameters here, in which dtype, and whether they fit."""
    setup = Setup.of(EngineConfig(), checkpoint.config, checkpoint.folder)
    device, dtype = setup.device, setup.dtype
    count = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    need, free = count * dtype.itemsize, free_bytes(device)
    where = f"all {count:,} parameters on {device} in {str(dtype).removeprefix('torch.')}: {show_bytes(need)}"
    kernels = choose_kernels("auto", device, dtype)
    if device.type == "cuda" and kernels.name == "torch":
        return warn(f"{where}; kernels in plain torch: {kernels.reason}", "mend that, or expect a slow engine")
    if need > free:
        return warn(
            f"{where}, but only {show_bytes(free)} are free", "use a smaller dtype, a smaller model or another device"
        )
    reasons = [setup.reasons[name].partition(": ")[2] for name in ("device", "dtype")]
    why = "; ".join([*reasons, f"{kernels.name} kernels"])
    return ok(f"{where} ({why})")


def generation_json(checkpoint: Checkpoint) -> Finding:
    """The other JSON files can be read."""
    names = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
    there = [name for name in names if (checkpoint.folder / name).exists()]
    broken = []
    for name in there:
        try:
            read_json(checkpoint.folder / name)
        except (OSError, ValueError):
            broken.append(name)
    if broken:
        return wrong(f"not valid JSON: {some(broken)}", "fetch it again")
    return ok(some(there) if there else "there are none")


CHECKS: list[tuple[str, Check]] = [
    ("config.json", config_json),
    ("other JSON", generation_json),
    ("architecture", architecture),
    ("quantisation", quantisation),
    ("rope", rope),
    ("context", context),
    ("device", device),
]
