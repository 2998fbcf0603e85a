"""`minillm compare`: exit status 0 if all is equal, else 1; ``--break`` ends in a debugger, in the right layer."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from minillm.cli.compare import parse_against

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def planted(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy with one number of layer 1's o_proj changed."""
    folder = tmp_path_factory.mktemp("planted") / "model"
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"][7, 3] += 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_against_hugging_face(minillm: Run, checkpoint: str) -> None:
    done = minillm("compare", checkpoint, "--prompt", "abcdefgh", "--decode", "3", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert "minillm against Hugging Face transformers" in done.stdout
    assert "8 tokens of prompt and 3 decoded" in done.stdout and "The same, within the tolerance" in done.stdout


def test_against_settings(minillm: Run, checkpoint: str) -> None:
    arguments = [
        "--against",
        "max_num_batched_tokens=3",
        "--against",
        "block-size=2",
        "--set",
        "page_size=8",
        "--plain",
    ]
    done = minillm("compare", checkpoint, *arguments, "--prompt", "abcdefgh", "--break")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("minillm against minillm with max_num_batched_tokens=3, block_size=2\n")
    assert done.stdout.isascii() and done.stdout.endswith("no place differs beyond the tolerance.\n")


def test_a_difference_and_a_debugger_in_its_layer(minillm: Run, checkpoint: str, planted: str) -> None:
    arguments = ["compare", checkpoint, "--against", f"model={planted}", "--prompt", "abcdefgh", "--break"]
    commands = "p self.layer, list(q.shape)\nn\nn\np list(out.shape)\nc\n"
    done = minillm(*arguments, stdin=commands)
    assert (done.returncode, done.stderr) == (1, "")
    shown, _, session = done.stdout.partition("Running again, to stop at attention.attend where layer == 1 and ")
    assert "First difference: layer 1, self_attn (attention's output)" in shown
    assert "   layer (self.layer) = 1\n" in session and session.count("── attention.attend ──") == 1
    assert "(Pdb) (1, [8, 6, 16])\n" in session, "the attention of layer 1, with all of the prompt"
    assert "return self.o_proj(out, batch)" in session, "two lines on, what differs is about to be called"


def test_what_against_takes() -> None:
    assert parse_against([]) == parse_against(["hf"]) == "hf"
    assert parse_against(["page_size=4", "kernels=torch"]) == {"page_size": 4, "kernels": "torch"}
    with pytest.raises(ValueError, match="got 'vllm'"):
        parse_against(["vllm"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--against", "page_sise=4"], "did you mean 'page_size'"),
        (["--against", "vllm"], "--against takes hf, or a setting as NAME=VALUE"),
        (["--prompt", ""], "the prompt has no tokens"),
    ],
)
def test_mistakes_are_one_message(minillm: Run, checkpoint: str, arguments: list[str], words: str) -> None:
    done = minillm("compare", checkpoint, *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
