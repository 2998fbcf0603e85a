"""docs/add-a-model.md: every block of code on the page is real, and the model that it builds is Hugging Face's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.models.llama import LlamaForCausalLM, LlamaLayer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```python title="([\w./-]+)"\n(.*?)^```', PAGE, flags=re.MULTILINE | re.DOTALL))


def test_blocks_that_quote_a_file_stand_in_it() -> None:
    quoted = {name: code for name, code in BLOCKS.items() if name.startswith("minillm/")}
    assert quoted and len(BLOCKS) == PAGE.count("```python")
    for name, code in quoted.items():
        assert code in (ROOT / name).read_text(encoding="utf-8"), f"{name} has changed; the page must follow"


def test_the_example_gives_hugging_faces_logits_and_tokens(tmp_path: Path) -> None:
    for name, code in BLOCKS.items():
        if "/" not in name:
            (tmp_path / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "check_smollm3.py"]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    results = re.findall(r"worst difference (\S+), same tokens: (\w+)$", done.stdout, flags=re.MULTILINE)
    assert len(results) == 4, done.stdout
    for difference, same in results[:3]:
        assert float(difference) < 5e-5 and same == "True", done.stdout
    assert 1e-4 < float(results[3][0]) < 2, done.stdout


def test_what_is_refused_names_the_field(tmp_path: Path) -> None:
    scope: dict[str, object] = {"__name__": "smollm3"}
    code = BLOCKS["smollm3.py"].replace('DIALECTS["SmolLM3ForCausalLM"] = smollm3', "")
    exec(compile(code.replace("@register", "@(lambda _name: lambda model: model)"), "smollm3.py", "exec"), scope)
    refuse = scope["smollm3"]
    assert callable(refuse) and refuse({}) == {"tie_word_embeddings": True}
    with pytest.raises(ValueError, match="use_sliding_window is on"):
        refuse({"use_sliding_window": True})


def test_the_hooks_of_the_table_are_there() -> None:
    from minillm.layers.attention import Attention
    from minillm.model_config import ModelConfig

    classes = {c.__name__: c for c in (LlamaForCausalLM, LlamaLayer, Attention, ModelConfig)}
    named = re.findall(r"`(LlamaForCausalLM|LlamaLayer|Attention|ModelConfig)\.(\w+)`", PAGE)
    assert len(named) >= 7
    for owner, hook in named:
        assert hasattr(classes[owner], hook), f"{owner}.{hook}"
