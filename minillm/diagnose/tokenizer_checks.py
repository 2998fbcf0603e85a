"""Checks of the way in and out: the tokenizer and the chat template."""

from typing import Any

import tokenizers
from jinja2 import TemplateSyntaxError

from minillm.diagnose.checkpoint import Checkpoint
from minillm.diagnose.findings import Check, Finding, ok, warn, wrong
from minillm.text.tokenizer import Tokenizer

TEXTS = ("Hello, world!", "def f(x):\n    return x + 1", "two  spaces, 123 456", "naïve café, 你好, 🙂")
CHATS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "Hello"}],
    "a conversation": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ],
    "a system message": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
}


def loads(checkpoint: Checkpoint) -> Finding:
    """tokenizer.json is there and works."""
    try:
        tokenizer = Tokenizer(checkpoint.folder)
    except (OSError, ValueError) as error:
        return wrong(str(error), "fetch tokenizer.json, or convert the older format as said")
    return ok(f"{tokenizer.vocab_size:,} tokens")


def round_trip(checkpoint: Checkpoint) -> Finding:
    """Text to tokens and back is the same text."""
    tokenizer, lost = checkpoint.tokenizer, []
    for text in TEXTS:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        if back != text:
            lost.append(f"{text!r} came back as {back!r}")
    if lost:
        todo = "some normalise on purpose (lower case, spaces); if not, tokenizer.json has the wrong decoder"
        return warn(f"{len(lost)} of {len(TEXTS)} texts change: {lost[0]}", todo)
    return ok(f"{len(TEXTS)} texts with code, spaces and other scripts come back as they were")


def vocabulary(checkpoint: Checkpoint) -> Finding:
    """Every token of the tokenizer has its row in the embedding."""
    # Those of the file: a class of transformers' may put some of its own behind them, which no model was trained on.
    tokens, rows = checkpoint.tokenizer.vocab_size, checkpoint.config.vocab_size
    file = checkpoint.folder / "tokenizer.json"
    if tokens > rows and file.exists():
        tokens = min(tokens, tokenizers.Tokenizer.from_file(str(file)).get_vocab_size())
    if tokens > rows:
        return wrong(
            f"the tokenizer makes {tokens:,} tokens, the embedding has {rows:,} rows",
            "tokens were added without resizing the model: take the tokenizer that belongs to it",
        )
    spare = f" ({rows - tokens:,} rows to spare)" if rows > tokens else ""
    return ok(f"{tokens:,} tokens in {rows:,} rows{spare}")


def chat_template(checkpoint: Checkpoint) -> Finding:
    """There is one, and it renders."""
    tokenizer, failed = checkpoint.tokenizer, {}
    try:
        if not tokenizer.has_chat_template:
            return warn("none", "use generate, not chat; or take the instruction-tuned model")
        for title, messages in CHATS.items():
            try:
                text = tokenizer.apply_chat_template(messages)
            except TemplateSyntaxError:
                raise
            except Exception as error:  # whatever a template does wrong
                failed[title] = f"{type(error).__name__}: {error}"
            else:
                if "Hello" not in text:
                    failed[title] = "what the user says is not in it"
    except Exception as error:
        return wrong(f"it is no template: {type(error).__name__}: {error}", "take it from the original checkpoint")
    if not failed:
        return ok("renders a question, a conversation, a system message")
    if set(failed) == {"a system message"}:
        return ok(f"renders a question and a conversation; refuses system messages ({failed['a system message']})")
    title, reason = next(iter(failed.items()))
    return wrong(f"does not render {title}: {reason}", "take it from the original checkpoint")


CHECKS: list[tuple[str, Check]] = [
    ("tokenizer", loads),
    ("round trip", round_trip),
    ("vocabulary", vocabulary),
    ("chat template", chat_template),
]
