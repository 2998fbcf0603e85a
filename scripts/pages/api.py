"""The API pages: one for the interface, one for each room, each naming its modules for mkdocstrings to read."""

import ast
from pathlib import Path

from pages.clone import ROOT

# Room -> what it is, in the order in which a request meets them.
ROOMS = {
    "text": "All that knows of text: the tokenizer, chats, what comes in and what goes out.",
    "engine": "One step: schedule, execute, commit.",
    "scheduler": "Who runs in the next step, with how many tokens.",
    "kvcache": "Where keys and values live: the pages' book-keeper, and the tensors behind them.",
    "worker": "One device: the model and its cache on it, plans made into tensors, what fits into memory.",
    "attention": "Attention over paged keys and values, by several backends with one interface.",
    "models": "The architectures, and how weights get into them.",
    "layers": "What models are made of.",
    "sampling": "From logits to tokens: what may be chosen, and the choice.",
    "quantization": "How a linear layer's weights are held.",
    "lora": "Adapters: one base model, many small changes to it.",
    "kernels": "The small functions under every layer: compiled, and their twins in plain PyTorch.",
    "parallel": "Several devices as one.",
    "server": "The OpenAI server, its processes and messages.",
    "learn": "Lessons and exercises: what they share.",
    "debug": "Probes, breakpoints, recordings.",
    "diagnose": "What is wrong with a checkpoint, and where two runs of a model first differ.",
    "bench": "Measurements.",
}
LEFT_OUT = ("views", "lessons", "builds")  # what draws for lessons, and what one lesson or build alone has
INTERFACE = (
    "LLM",
    "SamplingParams",
    "StructuredOutputsParams",
    "RequestOutput",
    "CompletionOutput",
    "Logprob",
    "EngineConfig",
)


def pages() -> dict[str, str]:
    """Each page by its path in docs/, the first one first."""
    made = {name: room(name) for name in ROOMS if modules(name)}
    return {f"api/{name}.md": text for name, text in {"index": interface(), **made}.items()}


def interface() -> str:
    homes = exported()
    rooms = [f"| [{name}]({name}.md) | {what} |" for name, what in ROOMS.items() if modules(name)]
    text = [
        "# The interface",
        "What `from minillm import ...` gives, and what most programs need. Everything else lives in a room of its own;"
        " upper rooms import lower ones, never the other way round.",
        "\n".join(["| room | what is in it |", "| --- | --- |", *rooms]),
        *(f"::: {homes[name]}.{name}" for name in INTERFACE if name in homes),
    ]
    return page(text)


def room(name: str) -> str:
    parts = [f"::: {module}\n    options:\n      show_root_full_path: true" for module in modules(name)]
    return page([f"# {name}", ROOMS[name], *parts])


def page(parts: list[str]) -> str:
    header = "---\nsearch:\n  boost: 0.5\n---"
    return "\n\n".join([header, *parts]) + "\n"


def modules(room: str) -> list[str]:
    """The room's modules that define anything, by name."""
    files = [path.relative_to(ROOT) for path in (ROOT / "minillm" / room).rglob("*.py") if defines(path)]
    return sorted(".".join(file.with_suffix("").parts) for file in files if file.parts[2] not in LEFT_OUT)


def defines(path: Path) -> bool:
    kinds = (ast.ClassDef, ast.FunctionDef)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)


def exported() -> dict[str, str]:
    """Each name that ``minillm`` gives, and the module it is defined in."""
    for node in ast.parse((ROOT / "minillm" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_HOMES":
            return ast.literal_eval(node.value)
    raise ValueError("minillm/__init__.py has no _HOMES")
