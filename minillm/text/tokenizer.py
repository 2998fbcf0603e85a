"""Text to tokens and back, and the chat template: as transformers' AutoTokenizer does it, for whatever files there are.

Where those files are plain (see plain.py), the tokenizers library reads them directly, because transformers takes
seconds to import. Everything else is left to transformers.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from minillm.files import read_json
from minillm.text.messages import Message, normalise
from minillm.text.plain import NAMED, name_of, odd_files, odd_messages
from minillm.text.template import Template


class Tokenizer:
    """A checkpoint's tokenizer and chat template.

    odd: why transformers has to read it; None if it is plain.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = folder / "tokenizer_config.json"
        self.config: dict[str, Any] = read_json(config) if config.exists() else {}
        self.odd = self._why_odd()
        self._tokenizer = self._read_with_transformers() if self.odd else self._read()

    def _why_odd(self) -> str | None:
        path = self.folder / "tokenizer.json"
        if not path.exists():
            return "it holds no tokenizer.json"
        try:
            content = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path} is no tokenizer: {error}") from None
        try:
            model = read_json(self.folder / "config.json")
        except (OSError, ValueError):
            model = {}  # whoever reads the model says what is wrong with it
        return odd_files(self.folder, content, self.config, model)

    def _read(self) -> tokenizers.Tokenizer:
        path = self.folder / "tokenizer.json"
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more particular
            raise ValueError(f"{path} is no tokenizer: {error}; fetch it again") from None

    def _read_with_transformers(self) -> tokenizers.Tokenizer | None:
        """What stands behind transformers' tokenizer, where that decodes just as it does; else None."""
        theirs = self.transformers
        backend = getattr(theirs, "backend_tokenizer", None)
        if backend is None or theirs.decode([], skip_special_tokens=True) != "":
            return None
        if _cleans_up(theirs, backend):
            return None
        backend.no_truncation()
        backend.no_padding()
        return backend

    @cached_property
    def transformers(self) -> Any:
        """The same tokenizer as transformers has it, for scripts that ask for its many methods.

        FileNotFoundError or ValueError if transformers cannot read it either.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # of many kinds, by what is wrong in the files
            with suppress(Exception):  # perhaps config.json, which says which class it is: who reads that will tell
                return PreTrainedTokenizerFast.from_pretrained(self.folder, local_files_only=True)
            if not (self.folder / "tokenizer.json").exists():
                raise FileNotFoundError(
                    f"{self.folder} holds no tokenizer.json, and transformers finds no other tokenizer in it; convert "
                    "an older one where it is: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
                ) from None
            raise ValueError(f"{self.folder / 'tokenizer.json'} is no tokenizer: {error}; fetch it again") from None

    @property
    def vocab_size(self) -> int:
        """Tokens it can make; a model's logits may have a few more columns, for padding."""
        return self._tokenizer.get_vocab_size() if self._tokenizer else len(self.transformers)

    @property
    def eos_token_id(self) -> int | None:
        """The token that the tokenizer itself names as the end."""
        name = self._named.get("eos_token")
        if name is None:
            return None
        return self._tokenizer.token_to_id(name) if self._tokenizer else self.transformers.eos_token_id

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the beginning-of-sequence token where the tokenizer itself adds one.

        ValueError if it is no text that can be written, as half of a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text has {text[error.start]!r} at character {error.start}, half of a surrogate pair and no "
                "character; decode the text anew with errors='replace'"
            ) from None
        if self._tokenizer:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return self.transformers.encode(text, add_special_tokens=add_special_tokens, verbose=False)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text; bytes that are no whole character come out as U+FFFD."""
        if self._tokenizer:
            return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return self.transformers.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token(self, token_id: int) -> str:
        """One token as text, for showing: special tokens too."""
        return self.decode([token_id], skip_special_tokens=False)

    def to_json(self) -> str:
        """All of it as a tokenizer.json, for libraries that read one."""
        if not self.odd:
            return (self.folder / "tokenizer.json").read_text(encoding="utf-8")
        if self._tokenizer is None and not hasattr(self.transformers, "backend_tokenizer"):
            kind = type(self.transformers).__name__
            raise ValueError(f"{self.folder} has a tokenizer ({kind}) that cannot be written as a tokenizer.json")
        return (self._tokenizer or self.transformers.backend_tokenizer).to_str()

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template: str | None = None,
        **names: Any,
    ) -> str:
        """Messages as the one text that the model was trained on. ValueError if there is no template to do it by.

        messages: in OpenAI's form, see messages.py. chat_template: instead of the checkpoint's, the text itself or
            a file's path. names: what else the template may ask for (``enable_thinking=False``).
        """
        template = Template.given(chat_template) if chat_template else self._template
        if template is None:
            raise ValueError(
                f"{self.folder} has no chat template; use generate with a prompt of your own instead of chat"
            )
        written = normalise(messages, template)
        if template.odd or odd_messages(written) or continue_final_message or tools is not None or names:
            return self.transformers.apply_chat_template(
                written, tools=tools, chat_template=template.source if template.own else None,
                add_generation_prompt=add_generation_prompt, continue_final_message=continue_final_message,
                tokenize=False, **names,
            )  # fmt: skip
        return template.render(messages=written, add_generation_prompt=add_generation_prompt, **self._named)

    def encode_chat(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """The template's text as tokens; special tokens are in the text already."""
        return self.encode(self.apply_chat_template(messages, **options), add_special_tokens=False)

    @cached_property
    def _named(self) -> dict[str, str]:
        """Special tokens by their names: "bos_token", "eos_token" and so on."""
        if self.odd:
            return dict(self.transformers.special_tokens_map)
        return {name: name_of(self.config[name]) for name in NAMED if self.config.get(name) is not None}

    @cached_property
    def _template(self) -> Template | None:
        if self.odd:
            source = self.transformers.chat_template
        else:
            source = self.config.get("chat_template")
            file = self.folder / "chat_template.jinja"
            if file.exists():
                source = file.read_text(encoding="utf-8")
        return Template(source) if source else None


def _cleans_up(theirs: Any, backend: tokenizers.Tokenizer) -> bool:
    """Whether transformers changes what the library has decoded, or decodes by itself."""
    from transformers import PreTrainedTokenizerFast

    own = getattr(type(theirs), "_decode", None) is not PreTrainedTokenizerFast._decode
    return own or bool(theirs.clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE")


class NoTokenizer(Tokenizer):
    """What stands for a tokenizer with ``skip_tokenizer_init=True``: every text is empty, and none can be taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.odd, self._tokenizer = folder, {}, None, None

    @property
    def vocab_size(self) -> int:
        return 0

    @property
    def eos_token_id(self) -> int | None:
        return None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        raise ValueError(
            "there is no tokenizer here (skip_tokenizer_init=True), so text cannot be read; give token ids instead"
        )

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""
