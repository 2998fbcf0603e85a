"""What claims (claims.py) can ask of the code itself: counts and names, found anew each time."""

import ast
import json
import re
from typing import Any

from pages.clone import ROOT
from pages.tables import Value, Values


def probes() -> int:
    """How many probes stand in the engine."""
    from minillm.debug.catalogue import catalogue

    return len(catalogue())


def questions(number: str) -> int:
    """How many questions the quiz of that lesson asks."""
    from minillm.learn.registry import lesson

    return len(lesson(int(number)).questions)


def questions_of_all() -> Values:
    """The same for every lesson."""
    from minillm.learn.registry import lessons

    return Values(Value.read(str(len(place.questions))) for place in lessons().values())


def tasks(number: str) -> int:
    """How many tasks the exercise of that lesson has."""
    from minillm.learn.registry import lesson

    return len(lesson(int(number)).tasks)


def capture_sizes(most: int) -> list[int]:
    """For how many rows decode steps are recorded, where up to ``most`` requests run."""
    from minillm.worker import graphs

    return graphs.capture_sizes(most)


def calls(file: str, function: str) -> list[str]:
    """What a function calls, in its order: ``calls("engine/core.py", "EngineCore.step")`` has "self._step_now"."""
    body: list[ast.stmt] = ast.parse((ROOT / "minillm" / file).read_text(encoding="utf-8")).body
    found: ast.stmt | None = None
    for part in function.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef)
        found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if found is None:
            raise LookupError(f"minillm/{file} has no {function}")
        body = found.body  # type: ignore[attr-defined]
    nodes = [node for node in ast.walk(found) if isinstance(node, ast.Call)]  # type: ignore[arg-type]
    return [ast.unparse(node.func) for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset))]


def setting(name: str) -> Any:
    """What a setting is if nobody says otherwise."""
    from minillm.config import EngineConfig

    return getattr(EngineConfig(), name)


def bundled(model: str, field: str) -> Any:
    """What the config.json of a bundled model says: ``bundled("nano-llama", "hidden_size")``."""
    return json.loads((ROOT / "minillm" / "assets" / model / "config.json").read_text(encoding="utf-8"))[field]


def card_says(model: str, words: str) -> bool:
    """Whether the card of a bundled model has these words."""
    card = (ROOT / "minillm" / "assets" / model / "README.md").read_text(encoding="utf-8")
    return " ".join(words.split()) in " ".join(card.split())


def meets(preset: str) -> int:
    """How many parameters a token meets, of a mixture of experts that the memory calculator knows by this name."""
    import torch

    from minillm.cli.memory import met_by_a_token
    from minillm.layers.build import LayerBuild
    from minillm.model_config import ModelConfig
    from minillm.models.weights import build_model

    model = build_model(ModelConfig.from_dict(_preset(preset)), LayerBuild(torch.bfloat16))
    count = sum(parameter.numel() for parameter in model.parameters())
    return int(met_by_a_token(model, count)[0][2].replace(",", ""))


def _preset(name: str) -> dict[str, Any]:
    """A shape of docs/js/calculator.js as a config.json."""
    script = (ROOT / "docs" / "js" / "calculator.js").read_text(encoding="utf-8")
    found = re.search(rf'^  "{re.escape(name)}[^"]*": shape\(([\d, ]+), \{{(.*)\}}\)', script, flags=re.MULTILINE)
    if not found:
        raise LookupError(f"the memory calculator knows no shape {name!r}")
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
             "head_dim", "vocab_size", "max_position_embeddings")  # fmt: skip
    raw: dict[str, Any] = dict(zip(names, map(int, found[1].split(","))))
    experts = re.search(r"experts: \[(\d+), (\d+), (\d+)\]", found[2])
    if experts:
        of_experts = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
        raw |= dict(zip(of_experts, map(int, experts.groups())))
    qwen = "qkNorm: true" in found[2]
    raw["architectures"] = ["Qwen3MoeForCausalLM" if qwen else "MixtralForCausalLM"]
    return raw | {"tie_word_embeddings": "tied: true" in found[2]}


ALL = (probes, questions, questions_of_all, tasks, capture_sizes, calls, setting, bundled, card_says, meets)
