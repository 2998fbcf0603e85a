"""What the model can do: losses, and how often its answer is exactly the glossary's."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from nano.experts import active_parameters, describe_experts
from nano.glossary import load_entries, load_small_talk
from nano.kinds import samples
from nano.models import NanoModel
from nano.stdlib import load_library
from nano.tokenizer import ASSISTANT_ID, BOS_ID, END_ID, MAX_LENGTH, PAD_ID, USER_ID
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedModel

Pair = tuple[str, str]  # question, answer

SAMPLES = ["What is a radix cache?", "Why is decode memory-bound?", "What is the capital of Finland?"]
CODE_PROMPTS = ["def fibonacci(n):", "class Stack:", "def read_lines(path):"]
# Inside its subject, yet beyond it: the first wants a calculation, the second a connection between two entries.
LIMITS = [
    "How many pages of 16 tokens does a request of 100 tokens need?",
    "Should I use tensor parallelism or data parallelism for a small model on two GPUs?",
]


@dataclass
class Questions:
    """Every question the model is judged by, with the answer it should give."""

    trained: list[Pair]
    held_out: list[Pair]
    off_topic_held_out: list[Pair]
    pleasantries_held_out: list[Pair]

    @classmethod
    def load(cls, nano: NanoModel) -> "Questions":
        entries, small_talk = load_entries(), load_small_talk(nano.name, nano.size)
        off_topic = small_talk["off_topic"]
        return cls(
            [(question, entry.answer) for entry in entries for question in entry.questions],
            [(question, entry.answer) for entry in entries for question in entry.held_out],
            [(question, off_topic["answer"]) for question in off_topic["held_out"]],
            [(question, row["answer"]) for row in small_talk["pleasantries"] for question in row["held_out"]],
        )


def chat_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """The prompt's tokens, as the chat template would give them."""
    return [BOS_ID, USER_ID, *tokenizer.encode(question, add_special_tokens=False).ids, END_ID, ASSISTANT_ID]


@torch.inference_mode()
def text_loss(model: PreTrainedModel, tokenizer: Tokenizer, texts: list[str], every: int = 1) -> dict[str, float]:
    """Mean loss over whole files, in windows of the full context, of which every so many-th is looked at.

    Bits per byte do not depend on the tokenizer, so that they compare with other models.
    """
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        ids += [BOS_ID, *encoding.ids, END_ID]
    windows = torch.tensor(ids[: len(ids) - len(ids) % MAX_LENGTH]).view(-1, MAX_LENGTH)  # [windows, 2048]
    total, count = 0.0, 0
    for rows in windows[::every].split(8):
        rows = rows.to(model.device)
        logits = model(rows, use_cache=False).logits[:, :-1].float()  # [batch, 2047, V]
        total += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
        count += rows[:, 1:].numel()
    bytes_per_token = sum(len(text.encode()) for text in texts) / len(ids)
    return {"per_token": total / count, "bits_per_byte": total / count / math.log(2) / bytes_per_token, "tokens": count}


@torch.inference_mode()
def answer_loss(model: PreTrainedModel, tokenizer: Tokenizer, pairs: list[Pair], batch: int = 128) -> dict[str, float]:
    """Loss per token of the answers, and how many are exact.

    No token needs to be generated for the latter: greedy decoding gives exactly the answer if and only if, with the
    answer so far as its past, each next token of it (the end too) is the model's first choice.
    """
    total, count, exact = 0.0, 0, 0
    for start in range(0, len(pairs), batch):
        prompts = [chat_ids(tokenizer, question) for question, _ in pairs[start : start + batch]]
        answers = [
            [*tokenizer.encode(answer, add_special_tokens=False).ids, END_ID]
            for _, answer in pairs[start : start + batch]
        ]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers))
        ids = torch.full((len(prompts), length), PAD_ID)  # padded on the right, where a causal model cannot see it
        labels = torch.full((len(prompts), length), -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        ids, labels = ids.to(model.device), labels[:, 1:].to(model.device)
        logits = model(ids, use_cache=False).logits[:, :-1].float()  # [batch, length - 1, V]
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += int((labels >= 0).sum())
        exact += int(((logits.argmax(-1) == labels) | (labels < 0)).all(dim=1).sum())
    return {"per_token": total / count, "exact": exact / len(pairs)}


@torch.inference_mode()
def generate(model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int = 128) -> list[list[int]]:
    """Greedy continuations, up to and including <|end|>. Prompts are padded on the left and masked."""
    outputs = []
    batch = 512 if model.device.type == "cuda" else 64
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
        new = out[:, longest:].tolist()
        outputs += [row[: row.index(END_ID) + 1] if END_ID in row else row for row in new]
    return outputs


def ask(model: PreTrainedModel, tokenizer: Tokenizer, questions: list[str]) -> list[str]:
    """The greedy answers as text, without the end token."""
    outputs = generate(model, [chat_ids(tokenizer, question) for question in questions])
    return [tokenizer.decode(out, skip_special_tokens=True) for out in outputs]


def exact_answers(model: PreTrainedModel, tokenizer: Tokenizer, pairs: list[Pair]) -> tuple[float, list[dict]]:
    """Share of generated answers that are the whole right answer and then end; and the ones that are not."""
    outputs = generate(model, [chat_ids(tokenizer, question) for question, _ in pairs])
    wrong = []
    for (question, answer), out in zip(pairs, outputs):
        if out != [*tokenizer.encode(answer, add_special_tokens=False).ids, END_ID]:
            said = tokenizer.decode(out, skip_special_tokens=True)
            wrong.append({"question": question, "said": said, "right": answer})
    return 1 - len(wrong) / len(pairs), wrong


def evaluate(nano: NanoModel, folder: Path, device: str, stdlib: Path | None = None, every: int = 1) -> dict:
    """Everything that the model card states, measured on the files that ship: bf16 weights, float32 arithmetic.

    `every=10` looks at a tenth of the text and of the questions only: for a slow machine.
    """
    # Experts one after another: the plainest way that transformers has.
    plain = {"experts_implementation": "eager"} if nano.has_experts else {}
    model = nano.model_class.from_pretrained(folder, dtype=torch.float32, **plain).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    library, questions = load_library(stdlib), Questions.load(nano)
    held_out = list(library.held_out.values())
    trained = list(library.train.values())[:: max(1, len(library.train) // len(held_out))]  # as many, from all over
    results: dict = {
        "device": device,
        "python": library.facts()["python"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "text": {
            "trained": text_loss(model, tokenizer, trained, every),
            "held_out": text_loss(model, tokenizer, held_out, every),
        },
        "answers": {},
    }
    for name, pairs in vars(questions).items():
        pairs = pairs[::every]
        loss = answer_loss(model, tokenizer, pairs)["per_token"]
        exact, wrong = exact_answers(model, tokenizer, pairs)
        results["answers"][name] = {"count": len(pairs), "per_token": loss, "exact": exact, "wrong": wrong[:40]}
    results["samples"] = list(zip(SAMPLES, ask(model, tokenizer, SAMPLES)))
    results["limits"] = list(zip(LIMITS, ask(model, tokenizer, LIMITS)))
    prompts = [[BOS_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids] for prompt in CODE_PROMPTS]
    code = generate(model, prompts, max_new_tokens=96)
    results["code"] = [
        prompt + tokenizer.decode(out, skip_special_tokens=True) for prompt, out in zip(CODE_PROMPTS, code)
    ]
    if nano.has_experts:
        results["active_parameters"] = active_parameters(model)
        rows = samples(tokenizer, library, questions.off_topic_held_out)
        results["experts"] = describe_experts(folder, nano.config["num_experts"], rows, device)
    return results
