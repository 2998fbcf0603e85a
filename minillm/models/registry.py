"""Which class builds which architecture."""

from collections.abc import Callable
from importlib import import_module

from torch import nn

from minillm.model_config import ModelConfig

_HOMES = (
    "minillm.models.gemma3",
    "minillm.models.llama",
    "minillm.models.mistral",
    "minillm.models.mixtral",
    "minillm.models.nanochat",
    "minillm.models.opt",
    "minillm.models.phi3",
    "minillm.models.qwen2",
    "minillm.models.qwen3",
    "minillm.models.qwen3_moe",
)  # the files whose @register lines fill the table
_MODELS: dict[str, type[nn.Module]] = {}


def register(*architectures: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """``@register("LlamaForCausalLM")``: the class builds checkpoints whose config.json names that architecture."""

    def remember(model: type[nn.Module]) -> type[nn.Module]:
        for name in architectures:
            _MODELS[name] = model
        return model

    return remember


def model_class(config: ModelConfig) -> type[nn.Module]:
    """The class for a config; ValueError lists what is supported."""
    for home in _HOMES:
        import_module(home)
    if config.architecture not in _MODELS:
        raise ValueError(
            f"architecture {config.architecture!r} is not supported; supported: {', '.join(sorted(_MODELS))}"
        )
    return _MODELS[config.architecture]
