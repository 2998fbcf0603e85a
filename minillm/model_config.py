"""What the checkpoint is: `ModelConfig`, read from its config.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.checks import at_least, is_number
from minillm.dialects import architecture, translate
from minillm.files import read_json

# Fields of config.json, or of its RoPE parameters, that are numbers.
NUMBERS = ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "factor", "original_max_position_embeddings",
           "query_pre_attn_scalar", "final_logit_softcapping")  # fmt: skip


@dataclass
class RopeConfig:
    """Rotary position embedding as the checkpoint wants it: base, type, and the type's own parameters.

    share: how much of a head is turned, from its first number on; 0 is a model that knows positions otherwise.
    """

    theta: float = 10000.0
    type: str = "default"
    share: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """A checkpoint's shape, under Hugging Face's names (dialects.py translates what some call otherwise).

    layer_windows: for each layer, how many tokens back it sees, itself included; None is all, empty is None for all.
    local_rope: the layers with a window turn by this one, where they have their own.
    attention_scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
    norm_offset: what is added to a norm's stored weight.
    final_logit_softcapping: logits become ``cap * tanh(logits / cap)``; None is no cap.
    raw: the whole of config.json. Where a field concerns one architecture alone, its file reads it here.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    local_rope: RopeConfig | None = None
    layer_windows: tuple[int | None, ...] = ()
    attention_scale: float | None = None
    norm_offset: float = 0.0
    final_logit_softcapping: float | None = None
    dtype: str = "float32"
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read config.json, and the end tokens of generation_config.json where there is one (it wins)."""
        path = folder / "config.json"
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{folder} holds no config.json, so it is no model checkpoint") from None
        generation = folder / "generation_config.json"
        if generation.exists():
            raw = {**raw, **{k: v for k, v in read_json(generation).items() if k == "eos_token_id"}}
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Understand a config.json of transformers v4 or v5. ValueError names a field that is missing, or that no model
        here can do as it says."""
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        for name in (*needed, "num_key_value_heads", "head_dim", "max_position_embeddings", "ffn_dim"):
            if raw.get(name) is not None:
                at_least(f"config.json: {name}", raw[name], 1)
        _check_kinds(raw)
        whole, raw = raw, translate(raw)
        if missing := [name for name in needed if raw.get(name) is None]:
            raise ValueError(f"config.json lacks {', '.join(missing)}; a decoder-only language model's config has them")
        heads = raw["num_attention_heads"]
        kv_heads, head_dim = raw.get("num_key_value_heads") or heads, raw.get("head_dim") or raw["hidden_size"] // heads
        if heads % kv_heads:
            raise ValueError(
                f"config.json: {heads} num_attention_heads cannot share {kv_heads} num_key_value_heads evenly"
            )
        rope, local_rope = _rope_config(raw), raw.get("local_rope_parameters")
        if rope.share and (head_dim % 2 or int(head_dim * rope.share) % 2):
            part = f" and partial_rotary_factor {rope.share}" if rope.share != 1 else ""
            raise ValueError(
                f"config.json: head_dim is {head_dim}{part}, but rotary positions turn pairs, so it must be even"
            )
        for window in raw.get("layer_windows", ()):
            if window is not None:
                at_least("config.json: sliding_window", window, 1)
        eos = raw.get("eos_token_id")
        return cls(
            architecture=architecture(raw),
            **{name: raw[name] for name in needed},
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=raw["max_position_embeddings"],
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            hidden_act=raw.get("hidden_act", "silu"),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            rope=rope,
            local_rope=_rope_config({"rope_parameters": local_rope}) if local_rope else None,
            layer_windows=raw.get("layer_windows", ()),
            attention_scale=raw.get("attention_scale"),
            norm_offset=raw.get("norm_offset", 0.0),
            final_logit_softcapping=raw.get("final_logit_softcapping"),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            bos_token_id=raw.get("bos_token_id"),
            raw=whole,
        )

    @property
    def context_limit(self) -> int:
        """The most tokens of prompt and answer together. With YaRN or linear scaling these are the original positions
        times the factor, where ``max_position_embeddings`` does not count that in already (as Gemma's does)."""
        if self.rope.type not in ("linear", "yarn") or self.local_rope is not None:
            return self.max_position_embeddings
        given = self.rope.parameters
        original = given.get("original_max_position_embeddings") or self.max_position_embeddings
        return max(self.max_position_embeddings, int(original * (given.get("factor") or 1)))

    def window(self, layer: int) -> int | None:
        """How many tokens back this layer sees, itself included; None is all."""
        return self.layer_windows[layer] if self.layer_windows else None


def _rope_config(raw: dict[str, Any]) -> RopeConfig:
    """transformers v5 keeps everything in ``rope_parameters``; v4 has ``rope_theta`` beside ``rope_scaling``."""
    parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    theta = parameters.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    share = parameters.pop("partial_rotary_factor", raw.get("partial_rotary_factor"))
    return RopeConfig(float(theta), kind, 1.0 if share is None else float(share), parameters)


def _check_kinds(raw: dict[str, Any]) -> None:
    """Refuse fields of the wrong kind: text that looks like a number or a switch would be misread."""
    ropes = []
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(name) or {}, dict):
            raise ValueError(f"config.json: {name} is {raw[name]!r}; it must be an object, or null")
        rope = raw.get(name) or {}
        ropes += [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one for each kind of layer
    for fields in (raw, *ropes):
        for name in NUMBERS:
            value = fields.get(name)
            if value is not None and not is_number(value):
                raise ValueError(f"config.json: {name} is {value!r}; it must be a number")
        share = fields.get("partial_rotary_factor")
        if share is not None and not (is_number(share) and 0 < share <= 1):
            raise ValueError(
                f"config.json: partial_rotary_factor is {share!r}; it must be a share, above 0 and at most 1"
            )
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias", "enable_bias", "use_sliding_window"):
        if not isinstance(raw.get(name), bool | None):
            raise ValueError(f"config.json: {name} is {raw[name]!r}; it must be true or false")
    kinds = raw.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise ValueError(f"config.json: layer_types is {kinds!r}; it must be a list of names, one for each layer")
    eos = raw.get("eos_token_id")
    for id in eos if isinstance(eos, list) else () if eos is None else (eos,):
        at_least("config.json: eos_token_id", id, 0)
    at_least("config.json: max_window_layers", raw.get("max_window_layers") or 0, 0)
