"""Train a model that ships with minillm, and write everything about it to minillm/assets/NAME.

    python scripts/train_nano.py                             # nano-llama on a GPU, as the shipped one was made
    python scripts/train_nano.py --model nano-moe            # the same for the mixture of experts
    python scripts/train_nano.py --device cpu --quick        # a worse one on a laptop, in ten minutes
    python scripts/train_nano.py --evaluate                  # measure the one that is there; rewrite its card

The text is the project's glossary and the standard library of the Python that runs this: nothing is downloaded. See
scripts/nano/ for the parts: models (what differs between them); glossary, stdlib, phrasings, conversations, batches;
tokenizer, model, moe; evaluate, experts, card.
"""

import argparse
import json
import platform
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from nano.batches import BatchShape, loader
from nano.card import write_card
from nano.evaluate import Questions, answer_loss, evaluate, text_loss
from nano.model import build_model, save_model
from nano.models import MODELS
from nano.moe import balance_loss, expert_usage
from nano.prepare import prepare
from nano.tokenizer import save_tokenizer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
FULL = BatchShape(text_rows=8, text_length=2048, chat_rows=16, chat_length=1024)
QUICK = BatchShape(text_rows=1, text_length=128, chat_rows=2, chat_length=256)
console = Console()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="nano-llama")
    parser.add_argument("--out", type=Path, help="folder of the model (default: the shipped one; with --quick: build/)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small batches and ten minutes, for a CPU")
    parser.add_argument("--steps", type=int, help="default: the recipe's, the same on any machine")
    parser.add_argument("--minutes", type=float, help="train for a time instead (--quick: 6); the rate follows it")
    parser.add_argument("--lr", type=float, help="this and the next three: default as in the model's recipe")
    parser.add_argument("--weight-decay", type=float, help="quick: 0.1")
    parser.add_argument("--dropout", type=float, help="quick: 0")
    parser.add_argument("--balance", type=float, help="weight of the load-balancing loss, for a model with experts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that make batches (default 12 on a GPU, 0 on a CPU)")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    parser.add_argument("--checkpoint", type=Path, help="default: build/NAME.checkpoint.pt")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--evaluate", action="store_true", help="do not train; evaluate --out and rewrite its card")
    parser.add_argument("--stdlib", type=Path, help="read this library instead of the running Python's")
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile on a GPU")
    args = parser.parse_args()
    nano = MODELS[args.model]
    recipe = replace(nano.recipe, dropout=0.0, weight_decay=0.1) if args.quick else nano.recipe
    args.out = args.out or (ROOT / "build" / f"{nano.name}-quick" if args.quick else nano.folder)
    if args.quick and not args.steps:
        args.minutes = args.minutes or 6
    args.steps = args.steps or (None if args.minutes else recipe.steps)
    for name in ("lr", "dropout", "weight_decay", "balance"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(recipe, name))
    args.workers = args.workers if args.workers is not None else (12 if args.device == "cuda" else 0)
    args.checkpoint = args.checkpoint or ROOT / "build" / f"{args.out.name}.checkpoint.pt"
    return args


def weighted_loss(
    model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean next-token loss, and how the experts were used ([L, 2, E] or None: moe.expert_usage).

    ids: [B, T + 1]; weights: [B, T], or None if every token counts the same.
    """
    logits = model(ids[:, :-1], use_cache=False).logits.flatten(0, 1).float()  # [B * T, V]
    losses = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")  # [B * T]
    usage = expert_usage(model)
    if weights is None:
        return losses.mean(), usage
    return (losses * weights.flatten()).sum() / weights.sum(), usage


def make_optimizer(model: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; matrices decay (stacked experts too), norms, routers and the embedding (also the output) do not."""

    def decays(name: str, p: torch.nn.Parameter) -> bool:
        return p.ndim >= 2 and "embed" not in name and not name.endswith("mlp.gate.weight")

    decayed = [p for name, p in model.named_parameters() if decays(name, p)]
    kept = [p for name, p in model.named_parameters() if not decays(name, p)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


class Trainer:
    """The loop and its state: model, optimiser, step, and seconds trained so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.shape, self.warm_up = args, (QUICK if args.quick else FULL), (20 if args.quick else 100)
        self.nano = MODELS[args.model]
        data = prepare(
            self.nano,
            self.shape,
            args.seed,
            library_folder=args.stdlib,
            tokenizer_file=args.out / "tokenizer.json" if args.resume else self.nano.tokenizer_file,
            as_written=0.7 if args.quick else 0.2,  # no time to learn much more than the questions as they stand
        )
        console.print(data.summary())
        self.tokenizer, self.batches, self.held_out, self.facts = (
            data.tokenizer,
            data.batches,
            data.held_out,
            data.facts,
        )
        self.questions = Questions.load(self.nano)
        self.model = build_model(self.nano, args.dropout).to(args.device)
        self.optimizer = make_optimizer(self.model, args.lr, args.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.usage: tuple[torch.Tensor, ...] = ()
        args.out.mkdir(parents=True, exist_ok=True)
        save_tokenizer(self.nano.tokenizer_file or self.tokenizer, args.out, self.nano.name)
        if args.resume:
            self.load()
        self.loss = weighted_loss
        if args.device == "cuda":
            torch.set_float32_matmul_precision("high")
            self.loss = weighted_loss if args.no_compile else torch.compile(weighted_loss, dynamic=False)

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if self.args.steps:
            return self.step / self.args.steps
        return self.seconds / (60 * self.args.minutes)

    def train(self) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        first, last = self.step, time.perf_counter()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("training", total=1000)
            for batch in loader(self.batches, self.step, self.args.workers):
                losses = self.train_step(batch)
                self.step += 1
                if self.step % 20 == 0 and self.args.device == "cuda":
                    torch.cuda.synchronize()  # so that the clock below is the GPU's
                if self.step <= first + 2:
                    last = time.perf_counter()  # the first steps compile: not counted
                self.seconds, last = self.seconds + time.perf_counter() - last, time.perf_counter()
                bar.update(task, completed=min(1000, round(1000 * self.progress)), description=f"step {self.step}")
                if self.step % (100 if self.args.quick else 200) == 0:
                    self.report(*losses)
                if self.step % self.args.save_every == 0:
                    if not self.args.quick:
                        self.check()
                    self.save()
                    last = time.perf_counter()
                if self.progress >= 1:
                    break
        self.save()

    def train_step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """One update from both kinds of rows; (text loss, chat loss)."""
        device = self.args.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * min(1.0, (self.step + 1) / self.warm_up) * max(0.0, 1 - self.progress)
        self.model.train()
        with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext():
            text_loss_, text_usage = self.loss(self.model, batch["text"], None)
            chat_loss, chat_usage = self.loss(self.model, batch["chat"], batch["weights"])
        total = text_loss_ + chat_loss
        if text_usage is not None:
            total = total + self.args.balance * balance_loss([text_usage, chat_usage])
            self.usage = (text_usage.detach(), chat_usage.detach())
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return text_loss_.detach(), chat_loss.detach()

    def report(self, text: torch.Tensor, chat: torch.Tensor) -> None:
        speed = self.step * self.shape.tokens / max(self.seconds, 1e-9)
        losses = f"text {text.item():.3f}  chat {chat.item():.3f}"
        if self.usage:
            least, most = torch.stack(self.usage).mean(dim=0)[:, 0].aminmax()
            losses += f"  an expert's share {least.item():.1%} to {most.item():.1%}"
        console.print(f"step {self.step}  {self.progress:4.0%}  {losses}  {speed:,.0f} tokens/s")

    def check(self) -> None:
        """Held-out figures on the way, without generating: a moment on a GPU, minutes on a CPU."""
        self.model.eval()
        with torch.autocast("cuda", torch.bfloat16) if self.args.device == "cuda" else nullcontext():
            held_out = text_loss(self.model, self.tokenizer, self.held_out)
            trained, other = (
                answer_loss(self.model, self.tokenizer, pairs)["exact"]
                for pairs in (self.questions.trained, self.questions.held_out)
            )
        text = f"held-out text {held_out['per_token']:.3f}"
        console.print(f"  {text}; exact: trained {trained:.1%}, held-out {other:.1%}")

    def save(self) -> None:
        """The model as it would ship, the recipe so far, and a checkpoint to go on from."""
        save_model(self.nano, self.model, self.args.out)
        (self.args.out / "training.json").write_text(json.dumps(self.recipe(), indent=2) + "\n")
        self.args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.args.checkpoint)

    def load(self) -> None:
        state = torch.load(self.args.checkpoint, map_location=self.args.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def recipe(self) -> dict:
        """What ran, for training.json and the card."""
        gpu = self.args.device == "cuda"
        return self.facts | {
            "optimiser": f"AdamW (betas 0.9 and 0.95, weight decay {self.args.weight_decay:g} on matrices)",
            "lr": self.args.lr,
            "warmup": self.warm_up,
            "dropout": self.args.dropout,
            **({"balance": self.args.balance} if self.nano.has_experts else {}),
            "steps": self.step,
            "batch_tokens": self.shape.tokens,
            **vars(self.shape),
            "tokens": self.step * self.shape.tokens,
            "minutes": self.seconds / 60,
            "seed": self.args.seed,
            "hardware": f"one {torch.cuda.get_device_name()}" if gpu else f"a CPU ({platform.machine()})",
            "precision": "bf16 autocast" if gpu else "float32",
            "torch": torch.__version__,
        }


def main() -> None:
    args = parse_arguments()
    if not args.evaluate:
        Trainer(args).train()
    nano = MODELS[args.model]
    results = evaluate(nano, args.out, args.device, args.stdlib, every=10 if args.quick else 1)
    for name, row in results["text"].items():
        bits = row["bits_per_byte"]
        console.print(f"library, {name}: loss {row['per_token']:.3f} per token, {bits:.3f} bits per byte")
    for name, row in results["answers"].items():
        rate = f"{row['exact']:.1%} of {row['count']} exact"
        console.print(f"answers, {name}: {rate}, loss {row['per_token']:.4f} per token")
        for wrong in row["wrong"]:
            console.print(f"  {wrong['question']}\n    -> {wrong['said']}", markup=False, highlight=False)
    (args.out / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")
    write_card(nano, args.out, json.loads((args.out / "training.json").read_text()), results)
    console.print((args.out / "README.md").read_text(), markup=False, highlight=False)


if __name__ == "__main__":
    main()
