"""The checkpoint, looked at before it runs: what differs from Llama, where its tensors go, what the engine says."""

from pathlib import Path

from rich.text import Text

from minillm.config import EngineConfig
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn, texts
from minillm.engine.engine import Engine
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.targets import checkpoint_targets
from minillm.models.weights import build_model


def differences(folder: Path) -> Drawing:
    """What differs from Llama, and who says so."""
    config = ModelConfig.from_folder(folder)
    cap = f"{config.final_logit_softcapping:g}"
    rows: list[Cells] = [
        ["architecture", config.architecture, "LlamaForCausalLM", "architectures"],
        ["activation", config.hidden_act, "silu", "hidden_act"],
        ["logits", f"pressed below {cap}", "as they come", "final_logit_softcapping"],
        ["feed-forward", "fc2(act(fc1 x))", "down(act(gate x) * up x)", "the code"],
        ["norms", "without weights", "with", "the code"],
        ["normalised, too", "embedding, q, k", "-", "the code"],
        ["RoPE", "?", "a cos - b sin, ...", "the code"],
    ]
    return drawn(texts("what", "nanochat", "Llama", "where"), rows)


def places_of_layer_0(folder: Path) -> Drawing:
    """The checkpoint's tensors of its first layer, and the parameter of the registered class that each is for."""
    before = "model.layers.0."
    targets = checkpoint_targets(build_model(ModelConfig.from_folder(folder), LayerBuild()))
    rows: list[Cells] = [
        [name.removeprefix(before), str(target.shape), target.name.removeprefix(before), str(max(target.part, 0))]
        for name, target in targets.items()
        if name.startswith(before)
    ]
    return drawn([Col("the checkpoint's tensor"), Col("shape"), Col("our parameter"), Col("part", "right")], rows)


def refusal(folder: Path) -> Text:
    """What the engine says when it is to serve the checkpoint."""
    try:
        Engine(EngineConfig(model=str(folder), max_model_len=64))
    except ValueError as error:
        return Text(str(error).replace(str(folder), "nanochat"), style="warn")
    return Text("It loads.", style="good")
