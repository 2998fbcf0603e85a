"""Which class builds which architecture."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from torch import nn

from minillm.model_config import ModelConfig

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
    for file in iter_modules([str(Path(__file__).parent)]):  # those beside this: their @register lines fill the table
        import_module(f"{__package__}.{file.name}")
    if config.architecture not in _MODELS:
        raise ValueError(
            f"architecture {config.architecture!r} is not supported; supported: {', '.join(sorted(_MODELS))}"
        )
    return _MODELS[config.architecture]
