"""From a model's name to a folder with its files."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
UNWANTED = ["consolidated*"]  # Mistral's repositories hold the weights twice, the second time in a form of their own


def bundled_models() -> list[str]:
    """Names of the models that are part of the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def resolve_model(name: str, config_only: bool = False) -> Path:
    """The folder of a bundled model, a local checkpoint, or a Hugging Face Hub name (fetched into its cache if need
    be).

    FileNotFoundError says what was tried. ``config_only`` fetches no weights.
    """
    if (ASSETS / name / "config.json").exists():
        return ASSETS / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.name == "config.json":
        return path.parent
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"model {name!r}: no such folder, and not one of the bundled models ({', '.join(bundled_models())}); "
            "give a folder with config.json and *.safetensors, or a Hub name such as 'Qwen/Qwen3-0.6B'"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json"] if config_only else WANTED
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=UNWANTED))
    except Exception as error:
        raise FileNotFoundError(
            f"model {name!r}: no such folder, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}: {error}); without a network, use a bundled model "
            f"({', '.join(bundled_models())}) or a local folder"
        ) from None
