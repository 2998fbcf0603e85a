"""When a tokenizer and a chat template can be read without transformers, which takes seconds to import.

Around the tokenizers library transformers does much that depends on files beside tokenizer.json: sections that do not
count, tokens that only another file knows, classes that build their own tokenizer. `odd_files` and `odd_template` name
the first thing in which the two readings could differ. They know little and refuse the rest: whatever is not listed
here is odd, and transformers reads it.
"""

from pathlib import Path
from typing import Any

# Which class a checkpoint's tokenizer is of depends on its model type, too. With these it is the plain one.
MODEL_TYPES = {None, "llama", "mixtral", "qwen3", "qwen3_moe", "gemma3_text", "nanochat"}
CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
HARMLESS = {
    "tokenizer_class", "model_max_length", "model_input_names", "chat_template", "padding_side", "backend",
    "clean_up_tokenization_spaces",
}  # fmt: skip
OTHER_FILES = (
    "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "tekken.json", "additional_chat_templates",
)  # fmt: skip
# What templates may use that means the same in any Jinja.
NODES = {
    "Template", "Output", "TemplateData", "Const", "Name", "For", "If", "Getattr", "Getitem", "Compare", "Operand",
    "And", "Or", "Not", "Add", "Sub", "Concat", "Assign", "List", "Tuple", "CondExpr", "Filter", "Test", "Call",
    "Slice",
}  # fmt: skip
FILTERS = {"trim", "upper", "lower", "length", "default"}


def odd_files(folder: Path, tokenizer: dict[str, Any], config: dict[str, Any], model: dict[str, Any]) -> str | None:
    """Why transformers has to read a folder's tokenizer; None if tokenizer.json says it all.

    tokenizer, config, model: what tokenizer.json, tokenizer_config.json and config.json hold.
    """
    if there := [name for name in OTHER_FILES if (folder / name).exists()]:
        return f"{there[0]} is part of it, too"
    if model.get("model_type") not in MODEL_TYPES:
        return f"what it is depends on the model, which is {model.get('model_type')!r}"
    if config.get("tokenizer_class") not in CLASSES:
        return f"its class is {config.get('tokenizer_class')!r}"
    for section in ("truncation", "padding"):
        if tokenizer.get(section) is not None:
            return f"tokenizer.json has a section {section!r}, which does not count"
    if config.get("clean_up_tokenization_spaces") is not False:
        return "spaces may be taken out of what was decoded"
    if not isinstance(config.get("chat_template"), str | None):
        return "it has several chat templates"
    special = {token["content"] for token in tokenizer.get("added_tokens", ()) if token.get("special")}
    for name, value in config.items():
        if name in NAMED:
            if value is not None and name_of(value) not in special:
                return f"{name} is {value!r}, and tokenizer.json has no such special token"
        elif name not in HARMLESS:
            return f"tokenizer_config.json has {name!r}"
    return None


def name_of(token: Any) -> Any:
    """A special token's text: in configs it stands as it is, or in an object with how it is cut out of a text."""
    return token.get("content") if isinstance(token, dict) else token


def odd_template(template: Any) -> str | None:
    """Why transformers has to render a chat template; None if any Jinja with its whitespace does the same.

    template: a jinja2 AST.
    """
    for node in template.find_all(_node()):
        kind = type(node).__name__
        if kind not in NODES or (kind in ("Filter",) and node.name not in FILTERS):
            return f"it uses {getattr(node, 'name', kind)!r}"
        if kind == "Call" and getattr(node.node, "name", None) != "raise_exception":
            return "it calls a function"
    return None


def odd_messages(messages: list[Any]) -> bool:
    """Whether there is more in the messages than who said which text."""
    return any(set(message) != {"role", "content"} or not _texts(message) for message in messages)


def _texts(message: dict[str, Any]) -> bool:
    return all(type(value) is str for value in message.values())


def _node() -> Any:
    from jinja2.nodes import Node  # here: nothing but a chat needs it

    return Node
