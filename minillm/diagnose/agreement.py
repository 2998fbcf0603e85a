"""Whether the tokens are right where numbers are rounded: ours in bfloat16 beside Hugging Face's, on the same device.

In float32 both choose the same tokens. In bfloat16 each rounds in its own places, so now and then another token is the
likeliest by a hair. What can be asked is that they part only there: the gap between the logits of the two tokens, as
Hugging Face has them in float32, says how much of a hair it was.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from minillm.debug.views.theme import make_console
from minillm.diagnose.huggingface import load
from minillm.engine.engine import Engine
from minillm.request import SamplingParams
from minillm.text.tokenizer import Tokenizer

QUESTIONS = ("What is a KV cache?", "What is a page table?", "What is continuous batching?")
CODE = "def read_lines(path):"


@dataclass
class Parting:
    """A place where ours is not Hugging Face's choice after the same tokens. gap: of its logits in float32, of its
    own choice over ours; spread: the deviation of that row of logits, to compare the gap with."""

    prompt: int
    position: int
    ours: str
    theirs: str
    gap: float
    spread: float


@dataclass
class Agreement:
    """``partings`` among ``tokens`` greedy tokens; rounding: the largest difference between Hugging Face's own logits
    in this dtype and in float32."""

    model: str
    dtype: str
    device: str
    tokens: int
    rounding: float
    partings: list[Parting]

    @property
    def share(self) -> float:
        return 1 - len(self.partings) / self.tokens

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def measure_agreement(model: str, dtype: str, tokens: int, settings: dict[str, Any]) -> Agreement:
    """Greedy answers of ours to four prompts; Hugging Face judges each token, given those before."""
    from minillm.config import EngineConfig

    engine = Engine(EngineConfig.from_settings(**{"dtype": dtype, **settings, "model": model}))
    prompts = prompts_for(engine.tokenizer)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    requests = [engine.add_request(prompt, params) for prompt in prompts]
    while engine.has_requests:
        engine.step()
    found = Agreement(model, dtype, str(engine.device), 0, 0.0, [])
    rounded = load(engine.setup.folder, engine.dtype).to(engine.device)
    exact = load(engine.setup.folder, torch.float32).to(engine.device)
    for i, (prompt, request) in enumerate(zip(prompts, requests)):
        judge(found, i, prompt, request.output_ids, rounded, exact, engine.tokenizer)
    return found


def prompts_for(tokenizer: Tokenizer) -> list[list[int]]:
    """Three questions, as a chat where the model knows that, and a piece of code."""
    if not tokenizer.has_chat_template:
        return [tokenizer.encode(text) for text in (*QUESTIONS, CODE)]
    asked = [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
    return [*asked, tokenizer.encode(CODE)]


@torch.inference_mode()
def judge(
    found: Agreement, number: int, prompt: list[int], output: list[int], rounded: Any, exact: Any, tokenizer: Tokenizer
) -> None:
    """Add what one request's tokens show to ``found``."""
    ids = torch.tensor([prompt + output], device=rounded.device)
    where = slice(len(prompt) - 1, -1)
    theirs: Tensor = rounded(ids, use_cache=False).logits[0, where].float()  # [n, V]: they choose output[i]
    true: Tensor = exact(ids, use_cache=False).logits[0, where]  # [n, V]
    found.tokens += len(output)
    found.rounding = max(found.rounding, float((theirs - true).abs().max()))
    for i, (mine, other) in enumerate(zip(output, theirs.argmax(-1).tolist())):
        if mine != other:
            gap, spread = float(true[i, other] - true[i, mine]), float(true[i].std())
            texts = tokenizer.decode([mine]), tokenizer.decode([other])
            found.partings.append(Parting(number, len(prompt) + i, *texts, gap, spread))


def print_agreement(found: Agreement) -> None:
    """What agreed, and each place where it did not."""
    console = make_console()
    console.print(
        f"{found.model} in {found.dtype} on {found.device}: {found.share:.1%} of {found.tokens} greedy tokens are "
        "those that Hugging Face would choose after the same text. Its own logits differ from float32's by up to "
        f"{found.rounding:.3f}.",
        highlight=False,
    )
    if not found.partings:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("prompt", "position", "ours", "theirs", "gap of the logits", "in deviations"):
        table.add_column(name, justify="left" if name in ("ours", "theirs") else "right")
    for one in found.partings:
        row = (
            one.prompt,
            one.position,
            repr(one.ours),
            repr(one.theirs),
            f"{one.gap:.4f}",
            f"{one.gap / one.spread:.3f}",
        )
        table.add_row(*map(str, row))
    console.print(table)
