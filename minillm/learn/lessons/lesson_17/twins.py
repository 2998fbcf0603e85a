"""Dense twins of a mixture of experts, and how many parameters each holds."""

from dataclasses import replace

import torch

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.spread import spread
from minillm.debug.views.table import Cells, Col, drawn, texts
from minillm.debug.views.units import amount, number
from minillm.engine.engine import Engine
from minillm.layers.build import LayerBuild
from minillm.layers.moe import MixtureOfExperts
from minillm.models.llama import LlamaMLP
from minillm.models.weights import build_model
from minillm.quantization.dense import choose_format
from minillm.quantization.format import OneFormat
from minillm.worker.platform import choose_kernels


def parameters(engine: Engine) -> int:
    """Of the whole model, counted on one that is built without memory: loading may have packed the real ones."""
    return sum(p.numel() for p in build_model(engine.model_config, LayerBuild(engine.dtype)).parameters())


def parameters_with(total: int, layers: list[MixtureOfExperts], width: int) -> int:
    """Of a twin: less all experts and their routers, but one network of this width in each of the layers."""
    left_out = sum(moe.shape.num_experts * (3 * moe.experts.inner + 1) * moe.hidden_size for moe in layers)
    return total - left_out + len(layers) * 3 * layers[0].hidden_size * width


def make_dense(engine: Engine, width: int) -> Engine:
    """The engine, with one network of this width in the place of each layer's experts. Weights are random."""
    kernels = choose_kernels(engine.config.kernels, engine.device, engine.dtype)
    format = choose_format(engine.device, engine.dtype, engine.config.pack_weights, kernels)
    config = replace(engine.model_config, intermediate_size=width)
    for layer in engine.model.model.layers:  # type: ignore[union-attr]
        if isinstance(layer.mlp, MixtureOfExperts):
            with engine.device:
                layer.mlp = LlamaMLP(config, LayerBuild(engine.dtype, OneFormat(format), kernels))
            for linear in (layer.mlp.gate_up_proj, layer.mlp.down_proj):
                torch.nn.init.normal_(linear.weight, std=0.02)
                linear.process_weights_after_loading()
    return engine


def in_a_table(held: dict[str, int], left_out: int, runs: dict[str, list[float]], itemsize: int) -> Drawing:
    """A row an engine: its parameters, those that a token meets (the first leaves some out), their bytes, and the time
    of a token."""
    met = [all - left_out * (i == 0) for i, all in enumerate(held.values())]
    rows: list[Cells] = [
        [name, number(all), number(some), amount(float(some * itemsize), "B"), spread(runs[name], "s", "\n")]
        for (name, all), some in zip(held.items(), met)
    ]
    titles = "parameters", "a token meets", "bytes read", "time a token"
    return drawn([*texts("in each layer"), *(Col(title, "right", wraps=True) for title in titles)], rows)
