"""A checkpoint as it lies on the disk, damaged or not: each part is read when it is asked for, and may be unreadable.

Nothing here loads a model. Shapes and dtypes come from the files' headers; numbers are read one tensor at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minillm.diagnose.numbers import Numbers, look, progress
from minillm.files import read_json
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.checkpoint import checkpoint_files
from minillm.models.weights import build_model
from minillm.text.tokenizer import Tokenizer

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
          "F8_E5M2": "float8_e5m2", "BOOL": "bool", "U8": "uint8"}  # fmt: skip


class NotHere(Exception):
    """What a check needs cannot be read, so it cannot be made. Another check says what is wrong with that."""


@dataclass(frozen=True)
class Header:
    """A tensor without its numbers."""

    file: Path
    shape: list[int]
    dtype: str


class Checkpoint:
    """A folder. Its parts raise `NotHere` where they cannot be had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}  # file -> what is wrong with it; filled by `headers` and `numbers`

    @cached_property
    def raw(self) -> dict[str, Any]:
        """config.json as it stands there."""
        return self.json("config.json")

    def json(self, name: str) -> dict[str, Any]:
        try:
            return read_json(self.folder / name)
        except (OSError, ValueError) as error:
            raise NotHere(f"{name} cannot be read") from error

    @cached_property
    def generation(self) -> dict[str, Any]:
        """generation_config.json, or nothing where there is none."""
        return self.json("generation_config.json") if (self.folder / "generation_config.json").exists() else {}

    @cached_property
    def config(self) -> ModelConfig:
        try:
            return ModelConfig.from_dict(self.raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotHere("config.json is not understood") from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer(self.folder)
        except (OSError, ValueError) as error:
            raise NotHere("there is no working tokenizer") from error

    @cached_property
    def model(self) -> nn.Module:
        """The structure that the config asks for, on no memory."""
        try:
            return self.build()
        except (ValueError, TypeError) as error:
            raise NotHere("the model cannot be built from this config") from error

    def build(self) -> nn.Module:
        return build_model(self.config, LayerBuild())

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Every tensor's header, by name, from all files that can be read."""
        try:
            files = checkpoint_files(self.folder)
        except (OSError, ValueError) as error:
            self.damaged["weights"] = str(error)
            files = sorted(self.folder.glob("*.safetensors"))
        found: dict[str, Header] = {}

        def read(reader: Any, file: Path) -> None:
            for name in reader.keys():  # noqa: SIM118 (a safe_open is no dict)
                part = reader.get_slice(name)
                found[name] = Header(file, list(part.get_shape()), dtype_name(part.get_dtype()))

        for file in files:
            self.open(file, read)
        if not found:
            raise NotHere("no tensor can be read")
        return found

    @cached_property
    def numbers(self) -> dict[str, Numbers]:
        """What is in each tensor. Reads all of the checkpoint, with a bar for big ones."""
        found: dict[str, Numbers] = {}
        files = list(dict.fromkeys(header.file for header in self.headers.values()))
        with progress(f"Reading {self.folder.name}", sum(file.stat().st_size for file in files)) as advance:

            def read(reader: Any, _file: Path) -> None:
                for name in reader.keys():  # noqa: SIM118
                    tensor = reader.get_tensor(name)
                    found[name] = look(tensor)
                    advance(tensor.numel() * tensor.itemsize)

            for file in files:
                self.open(file, read)
        return found

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        found: list[Tensor] = []
        self.open(self.headers[name].file, lambda reader, _file: found.append(reader.get_tensor(name)))
        if not found:
            raise NotHere(f"{name} cannot be read")
        return found[0]

    def open(self, file: Path, read: Callable[[Any, Path], None]) -> None:
        """Call ``read(reader, file)``. A file that is damaged is noted as such, and that is all."""
        try:
            with safe_open(file, framework="pt") as reader:
                read(reader, file)
        except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            self.damaged[file.name] = f"{error}".splitlines()[0] if str(error) else type(error).__name__


def dtype_name(name: str) -> str:
    """safetensors' word for a dtype as torch's: ``"BF16"`` -> ``"bfloat16"``."""
    return DTYPES.get(name) or name.lower().replace("i", "int")
