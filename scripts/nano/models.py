"""The models that ship, one object each: architecture, recipe, and the words in which each speaks of itself."""

from dataclasses import dataclass, field
from pathlib import Path

from nano.tokenizer import BOS_ID, END_ID, MAX_LENGTH, PAD_ID, VOCAB_SIZE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

ASSETS = Path(__file__).parents[2] / "minillm" / "assets"


@dataclass(frozen=True)
class Recipe:
    """How the shipped model was trained; the command line may say otherwise."""

    steps: int = 4500
    lr: float = 2e-3
    weight_decay: float = 1.5
    dropout: float = 0.25
    balance: float = 0.0  # weight of the load-balancing loss (models with experts)


@dataclass(frozen=True)
class NanoModel:
    """`config` is config.json as it ships; `kind` and `architecture` are for the card, `size` is for small talk."""

    name: str
    config_class: type
    model_class: type[PreTrainedModel]
    config: dict
    kind: str
    size: str
    architecture: str
    recipe: Recipe = field(default_factory=Recipe)
    tokenizer_of: str = ""  # another model, whose tokenizer it takes as it is

    @property
    def folder(self) -> Path:
        return ASSETS / self.name

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer that it takes over; None if it learns its own."""
        return ASSETS / self.tokenizer_of / "tokenizer.json" if self.tokenizer_of else None

    @property
    def has_experts(self) -> bool:
        return "num_experts" in self.config


SAME_ATTENTION = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_LENGTH,
}
SAME_FOR_ALL = {
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": BOS_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    # The two generations of transformers look in different places for the same settings; each ignores the other's.
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
}

# In both: all sizes divide by 4 (tensor parallelism), all inputs by 128 and outputs by 64 (Marlin's tiles).
NANO_LLAMA = NanoModel(
    name="nano-llama",
    config_class=LlamaConfig,
    model_class=LlamaForCausalLM,
    config={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        **SAME_ATTENTION,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        **SAME_FOR_ALL,
    },
    kind="A Llama of {parameters:,} parameters that ships",
    size="nine million",
    architecture="8 layers, hidden 256, 8 query and 4 key/value heads of 64, SwiGLU 768, tied",
)

BALANCE = 0.01
NANO_MOE = NanoModel(
    name="nano-moe",
    config_class=Qwen3MoeConfig,
    model_class=Qwen3MoeForCausalLM,
    config={
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,  # of a layer without experts, of which there is none: as wide as two experts
        "num_hidden_layers": 6,
        **SAME_ATTENTION,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "moe_intermediate_size": 256,
        "num_experts": 8,
        "num_local_experts": 8,  # the same number under the name that transformers v5 uses inside
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "output_router_logits": False,
        "router_aux_loss_coef": BALANCE,
        **SAME_FOR_ALL,
    },
    kind="A Qwen3-MoE of {parameters:,} parameters, {active_parameters:,} of them for each token, that ships",
    size="thirteen million",
    architecture="6 layers, hidden 256, 8 query and 4 key/value heads of 64 with q/k norm, 8 experts of SwiGLU 256, "
    "2 for each token, weights renormalised, tied",
    # Of trials with 1,500 steps: without balancing, layers had experts that no token was given; at 0.001 one had 1 % of
    # the tokens; at 0.01 none under 14 %; at 0.1 none under 16 %, with no better answers. After 4,500 steps the library
    # was known better and held-out files worse (2.70 a token against 2.59) than after 1,500.
    recipe=Recipe(steps=2000, balance=BALANCE),
    tokenizer_of="nano-llama",
)

MODELS = {model.name: model for model in (NANO_LLAMA, NANO_MOE)}
