"""Watching Hugging Face transformers compute the same checkpoint: its modules have the names that ours are given by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.diagnose.places import (
    CLOSING,
    ENTERED,
    K_NORM,
    K_ROPE,
    LOGITS,
    Q_NORM,
    Q_ROPE,
    Observation,
    Place,
    norm_paths,
    place_of,
    rows_of,
)

ATTENTION = "minillm_observed"  # the name under which transformers knows our wrapper around its attention
_observers: list[Callable[[nn.Module, Tensor, Tensor], None]] = []


@torch.inference_mode()
def observe_huggingface(
    folder: Path, token_ids: list[int], num_prompt: int, dtype: torch.dtype, device: torch.device
) -> Observation:
    """All tokens at once in one forward pass, prompt and generated alike: with a causal mask that is the same."""
    import transformers

    model = load(folder, dtype).to(device)
    seen = Observation(f"Hugging Face transformers {transformers.__version__}", num_prompt, list(token_ids))
    positions = list(range(len(token_ids)))

    def attended(module: nn.Module, q: Tensor, k: Tensor) -> None:
        """``q [1, H, T, D], k [1, Hkv, T, D]``, turned by position already."""
        layer: Any = module.layer_idx
        if not hasattr(model.config, "rope_parameters"):  # nothing is turned, and some scale their queries here
            return
        for norm, name, heads in ((Q_NORM, Q_ROPE, q), (K_NORM, K_ROPE, k)):
            rows = rows_of(heads.transpose(1, 2).flatten(2), len(positions))
            seen.add(Place(layer, name), positions, rows)
            seen.forget_copy(Place(layer, norm), rows)  # a norm after the turn makes what attention takes

    add_hooks(model, seen, positions)
    _observers.append(attended)
    try:
        logits = model(torch.tensor([token_ids], device=device), use_cache=False).logits
    finally:
        _observers.remove(attended)
    seen.add(LOGITS, positions, rows_of(logits, len(positions)))
    return seen


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The checkpoint as transformers builds it, its attention wrapped where that can be."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        register_attention()
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=ATTENTION
        ).eval()
    except Exception as error:
        raise ValueError(
            f"Hugging Face transformers {transformers.__version__} cannot load {folder}: {type(error).__name__}: "
            f"{error}; compare two settings instead (--against NAME=VALUE), or see: minillm doctor {folder}"
        ) from None


def register_attention() -> None:
    """Give transformers an attention that shows its queries and keys, and then does what its own does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module: nn.Module, query: Tensor, key: Tensor, *arguments: Any, **options: Any) -> Any:
        for observer in _observers:
            observer(module, query, key)
        return own(module, query, key, *arguments, **options)

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def add_hooks(model: Any, seen: Observation, positions: list[int]) -> None:
    """Note what goes into closing layers and into the norms of the residual stream, and what all others put out."""
    # Where a norm comes after its part (OPT 350m), what goes into it is not the stream that the next part reads.
    streams = norm_paths(model) if getattr(model.config, "do_layer_norm_before", True) else {}
    for path, module in model.named_modules():
        place = place_of(path, has_children=any(True for _ in module.children()))
        if place is None:
            continue

        def note_output(_module: nn.Module, _args: Any, out: Any, at: Place = place) -> None:
            seen.add(at, positions, rows_of(out, len(positions)))

        inputs = [streams[path]] if path in streams else []
        if place.name.endswith(ENTERED):
            inputs.append(Place(place.layer, f"{place.name} input"))
        if not place.name.endswith(CLOSING):
            module.register_forward_hook(note_output)

        def note_input(_module: nn.Module, args: Any, options: Any, at: tuple[Place, ...] = tuple(inputs)) -> None:
            for one in at:
                seen.add(one, positions, rows_of(args or list(options.values()), len(positions)))

        if inputs:
            module.register_forward_pre_hook(note_input, with_kwargs=True)
