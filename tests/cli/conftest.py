"""The commands as a user runs them: in a process of their own, with a tiny checkpoint."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_llama
from transformers import LlamaForCausalLM

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A checkpoint that never ends by itself, with a short chat template, and the Hugging Face model in it."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_llama(folder, eos_token_id=None, max_position_embeddings=20000)
    (folder / "tokenizer_config.json").write_text(f'{{"chat_template": "{CHAT_TEMPLATE}"}}', encoding="utf-8")
    return folder, model


@pytest.fixture(scope="session")
def checkpoint(tiny: tuple[Path, LlamaForCausalLM]) -> str:
    return str(tiny[0])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "minillm", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would arm a breakpoint."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
    return {**kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "120", **more}


@pytest.fixture
def minillm() -> Callable[..., Done]:
    """``minillm("generate", "abc", stdin="...")``: run to the end."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Done:
        return subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment(**variables),
            timeout=240,
        )

    return run


@pytest.fixture
def start() -> Callable[..., "subprocess.Popen[bytes]"]:
    """The same, to be talked with while it runs."""

    def popen(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command(*arguments), env=environment(), **{**pipes, **options})

    return popen
