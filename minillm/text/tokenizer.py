"""Text to tokens and back, and the chat template. The tokenizers library does the work; nothing here needs
transformers."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from minillm.files import read_json

Message = dict[str, Any]  # {"role": "user", "content": "..."}


class Tokenizer:
    """A checkpoint's tokenizer.json and chat template."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} holds no tokenizer.json; convert an older tokenizer with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        self.folder = folder
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more particular
            raise ValueError(f"{path} is no tokenizer: {error}; fetch it again") from None
        config = folder / "tokenizer_config.json"
        self.config: dict[str, Any] = read_json(config) if config.exists() else {}

    @property
    def vocab_size(self) -> int:
        """Tokens it can make; a model's logits may have a few more columns, for padding."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the beginning-of-sequence token where the tokenizer itself adds one."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text; bytes that are no whole character come out as U+FFFD."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token(self, token_id: int) -> str:
        """One token as text, for showing: special tokens too."""
        return self.decode([token_id], skip_special_tokens=False)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def apply_chat_template(self, messages: list[Message], add_generation_prompt: bool = True) -> str:
        """Messages as the one text that the model was trained on. ValueError if the checkpoint has no template."""
        if self._template is None:
            raise ValueError(
                f"{self.folder} has no chat template; use generate with a prompt of your own instead of chat"
            )
        names = {key: _text(self.config.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **names)

    def encode_chat(self, messages: list[Message]) -> list[int]:
        """The template's text as tokens; special tokens are in the text already."""
        return self.encode(self.apply_chat_template(messages), add_special_tokens=False)

    @cached_property
    def _template(self) -> Any:
        source = self.config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
        file = self.folder / "chat_template.jinja"
        if file.exists():
            source = file.read_text(encoding="utf-8")
        return _compile(source) if source else None


def _compile(source: str) -> Any:
    """A template in the environment that Hugging Face's templates are written for."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: __import__("datetime").datetime.now().strftime(form)
    return environment.from_string(source)


def _text(token: Any) -> str:
    """Special tokens stand in configs as text or as ``{"content": text}``."""
    return token["content"] if isinstance(token, dict) else token or ""


class NoTokenizer(Tokenizer):
    """What stands for a tokenizer with ``skip_tokenizer_init=True``: every text is empty, and none can be taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, {}

    @property
    def vocab_size(self) -> int:
        return 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        raise ValueError(
            "there is no tokenizer here (skip_tokenizer_init=True), so text cannot be read; give token ids instead"
        )

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""
