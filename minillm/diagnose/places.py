"""Places in a model where two computations of it can be compared, and what was seen there.

A place is named by the module path that Hugging Face's models share (``layers.3.self_attn``): whatever stands before
"layers" does not matter, so ``model.layers``, ``model.decoder.layers`` and ``model.language_model.layers`` are one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# These close a block: what they put out is the block's own output, what they take in is worth seeing.
CLOSING = ("o_proj", "out_proj", "down_proj", "mlp.fc2")
ENTERED = (*CLOSING, "fc2")  # what goes into these is worth seeing (OPT's fc2 is in no block of its own)
# No tensor of their own meaning: activations alone are not fused in all implementations, experts see only some tokens.
UNSEEN = re.compile(
    r"rotary|vision|audio|(^|\.)(act|act_fn|activation|activation_fn|lm_head|\w*dropout)$|(^|\.)experts($|\.)"
)

# The norms that the residual stream enters, by the names that architectures give them; the first that a layer has.
ATTENTION_NORMS = ("input_layernorm", "self_attn_layer_norm")
MLP_NORMS = ("pre_feedforward_layernorm", "final_layer_norm", "post_attention_layernorm")
FINAL_NORMS = ("norm", "final_layer_norm")


@dataclass(frozen=True)
class Place:
    """A tensor's place: the layer (None outside of them) and its name there, a module's path or one of `NAMES`."""

    layer: int | None
    name: str

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layer {self.layer}, {self.name}"


STREAM, MLP_STREAM = "stream", "stream_mlp"  # the residual stream where attention, and where the MLP, reads it
Q_NORM, K_NORM = "self_attn.q_norm", "self_attn.k_norm"  # normalised, before they are turned
Q_ROPE, K_ROPE = "self_attn.q_rope", "self_attn.k_rope"  # turned by position, as attention takes them
LOGITS = Place(None, "logits")

# Name -> a title for a narrow column, what the tensor is, and what to look at where it is the first that differs.
NAMES = {
    "embed_tokens": ("embed", "the embedding", "the table itself, and whether it is scaled after looking up"),
    "embed_positions": ("pos", "the position embedding", "the offset of the first position"),
    STREAM: ("stream", "the residual stream", "what is added to the stream, and in which order"),
    "input_layernorm": ("norm", "the norm before attention", "eps, and whether the weight counts as w or as 1 + w"),
    "self_attn.q_proj": ("q", "queries, projected", "q_proj's weight and bias, and its place in the fused layer"),
    "self_attn.k_proj": ("k", "keys, projected", "k_proj's weight and bias, and its place in the fused layer"),
    "self_attn.v_proj": ("v", "values, projected", "v_proj's weight and bias, and its place in the fused layer"),
    "self_attn.qkv_proj": ("qkv", "queries, keys and values, projected", "qkv_proj's weight and bias"),
    Q_NORM: (
        "q norm",
        "queries, normalised",
        "q_norm's eps and weight, and whether that counts as 1 + w",
    ),
    K_NORM: ("k norm", "keys, normalised", "k_norm's eps and weight, and whether that counts as 1 + w"),
    Q_ROPE: (
        "q rope",
        "queries, turned by position",
        "rope theta, its scaling, which numbers pair, which way round",
    ),
    K_ROPE: ("k rope", "keys, turned by position", "rope theta, its scaling, which numbers pair, which way round"),
    "self_attn.o_proj input": ("heads", "what attention found", "the mask, the scale, which heads share keys, pages"),
    "self_attn": ("attn", "attention's output", "o_proj's weight and bias: the heads that go into it agree"),
    MLP_STREAM: ("+attn", "the residual stream, with attention", "a norm or a factor on attention's output"),
    "post_attention_layernorm": ("norm", "the norm after attention", "eps, and whether the weight is w or 1 + w"),
    "mlp.gate_proj": ("gate", "the MLP's gate", "gate_proj's weight, and its place in the fused layer"),
    "mlp.up_proj": ("up", "the MLP's other half", "up_proj's weight, and its place in the fused layer"),
    "mlp.down_proj input": ("inner", "act(gate) * up", "the activation: hidden_act in config.json"),
    "mlp.gate_up_proj": ("gate up", "the MLP's gate beside its other half", "gate_up_proj's weight"),
    "mlp.gate": ("router", "the router's scores", "the router's weight: what goes into it agrees"),
    "mlp.fc1": ("fc1", "the MLP's first product", "fc1's weight and bias"),
    "mlp.fc2 input": ("inner", "act(fc1 x)", "the activation: hidden_act in config.json"),
    "fc1": ("fc1", "the feed-forward network's first product", "fc1's weight and bias"),
    "fc2 input": ("inner", "act(fc1 x)", "the activation: hidden_act in config.json"),
    "fc2": ("fc2", "the feed-forward network's output", "fc2's weight and bias"),
    "mlp": ("mlp", "the MLP's output", "down_proj's weight; with experts, who was chosen and with which weight"),
    "norm": ("norm", "the final norm", "eps, and whether the weight counts as w or as 1 + w"),
    "logits": ("logits", "the logits", "lm_head: tied or not, and whether logits are scaled or capped"),
}


def column_title(name: str) -> str:
    return NAMES[name][0] if name in NAMES else name.removesuffix(" input").rpartition(".")[2]


def place_of(path: str, has_children: bool = False) -> Place | None:
    """The place of a module's output; None where it has no meaning of its own (containers, rotary tables)."""
    if UNSEEN.search(path):
        return None
    inside = re.search(r"(?:^|\.)layers\.(\d+)\.(.+)$", path)
    if inside:
        return Place(int(inside[1]), inside[2])
    return None if has_children or "." not in path else Place(None, path.rpartition(".")[2])


def rows_of(value: Any, tokens: int) -> Tensor | None:
    """A module's output (or its first tensor) as a float32 copy ``[T, ...]`` on the CPU; None if it is no such thing.

    Hugging Face has a batch dimension, ``[1, T, ...]``, and we have not; there, heads may also come before tokens.
    """
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return None
    if value.dim() > 2 and value.shape[0] == 1 and tokens in value.shape[1:3]:
        by_heads = value.dim() == 4 and value.shape[2] == tokens  # [1, H, T, D]
        if by_heads and value.shape[1] == tokens:
            return None  # as many heads as tokens: nothing says which is which
        value = value[0].transpose(0, 1) if by_heads else value[0]
    return value.detach().to("cpu", torch.float32, copy=True) if value.shape[0] == tokens else None


@dataclass
class Observation:
    """What one computation had at each place. ``title`` says whose it is."""

    title: str
    num_prompt: int = 0
    token_ids: list[int] = field(default_factory=list)  # the tokens computed: the prompt, then what was generated
    pieces: dict[Place, list[tuple[list[int], Tensor]]] = field(default_factory=dict, repr=False)
    order: dict[Place, float] = field(default_factory=dict, repr=False)
    spelling: dict[str, str] = field(default_factory=dict, repr=False)  # our word for a module -> the checkpoint's

    def add(self, place: Place, positions: Sequence[int], rows: Tensor | None, earlier: float = 0) -> None:
        """``rows [n, ...]`` for the tokens at these positions. ``earlier``: seen so many places after it was made."""
        if rows is not None:
            self.order.setdefault(place, len(self.order) - earlier)
            self.pieces.setdefault(place, []).append((list(positions), rows))

    def forget_copy(self, place: Place, rows: Tensor | None) -> None:
        """Forget ``place`` if it is nothing but ``rows [n, ...]``, known under another name (of one token, all may
        be alike)."""
        known = self.pieces.get(place)
        if rows is not None and len(rows) > 1 and known and torch.equal(known[-1][1].flatten(1), rows):
            del self.pieces[place], self.order[place]

    def known_as(self, place: Place, spelling: dict[str, str]) -> Place | None:
        """The same place here, under its own name or as ``spelling`` spells it."""
        respelt = re.sub(r"\w+", lambda word: spelling.get(word[0], word[0]), place.name)
        return next((one for one in (place, Place(place.layer, respelt)) if one in self.pieces), None)

    def places(self) -> list[Place]:
        """In the order in which they were computed."""
        return sorted(self.pieces, key=self.order.__getitem__)

    def at(self, place: Place) -> tuple[list[int], Tensor]:
        """Positions, rising, and their rows ``[n, ...]``; of a token computed several times, the last."""
        positions = [position for piece, _ in self.pieces[place] for position in piece]
        newest = {position: i for i, position in enumerate(positions)}
        rows = torch.cat([rows.flatten(1) for _, rows in self.pieces[place]])
        return sorted(newest), rows[[newest[position] for position in sorted(newest)]]


def norm_paths(model: nn.Module) -> dict[str, Place]:
    """The path of each norm whose input is the residual stream, and that stream's place."""
    found = {}
    paths = {path for path, _ in model.named_modules()}
    for path in paths:
        prefix, _, name = path.rpartition(".")
        place = place_of(path)
        if place is None:
            continue
        for wanted, stream in ((ATTENTION_NORMS, STREAM), (MLP_NORMS, MLP_STREAM)):
            first = next((one for one in wanted if f"{prefix}.{one}" in paths), None)
            if place.layer is not None and name == first == place.name:
                found[path] = Place(place.layer, stream)
        if place.layer is None and name in FINAL_NORMS:
            found[path] = Place(None, STREAM)
    return found
