"""Reading a checkpoint's files, one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from minillm.files import read_json

PROGRESS_FROM = 200 * 2**20  # bytes of checkpoint above which a progress bar is worth while


def read_checkpoint(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, one at a time, with a progress bar if that takes a while."""
    files = checkpoint_files(folder)
    size = sum(file.stat().st_size for file in files)
    with _progress(f"Loading {folder.name}", size) as advance:
        for file in files:
            try:
                with safe_open(file, framework="pt") as reader:
                    for name in reader.keys():  # noqa: SIM118 (a safe_open is no dict)
                        tensor = reader.get_tensor(name)
                        advance(tensor.numel() * tensor.itemsize)
                        yield name, tensor
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged or cut short ({error}); fetch it again") from None


def checkpoint_files(folder: Path) -> list[Path]:
    """What the index names, or model.safetensors, or all there are but Mistral's own form of the same weights.

    FileNotFoundError names what is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.exists():
        every = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("consolidated")]
        files = [single] if single.exists() else every
        if not files:
            raise FileNotFoundError(f"{folder} holds no *.safetensors file in Hugging Face's form; others are not read")
        return files
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is no index: it must be JSON with a 'weight_map' from tensor to file")
    names = sorted(set(places.values()))
    if lacking := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"{index} names {', '.join(lacking)}, which {folder} does not hold")
    return [folder / name for name in names]


class _progress:
    """A progress bar for big checkpoints, nothing for small ones. Enters as ``advance(bytes)``."""

    def __init__(self, title: str, size: int) -> None:
        self.title, self.size = title, size
        self.bar: Any = None

    def __enter__(self) -> Any:
        if self.size < PROGRESS_FROM:
            return lambda _bytes: None
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        task = self.bar.add_task(self.title, total=self.size)
        self.bar.start()
        return lambda count: self.bar.advance(task, count)

    def __exit__(self, *_exc: object) -> None:
        if self.bar:
            self.bar.stop()
