"""From files to batches: read the texts, make the tokenizer, count what there is."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from nano.batches import Batches, BatchShape, TextTokens, training_documents
from nano.conversations import ConversationMaker
from nano.glossary import GLOSSARY, load_entries, load_small_talk
from nano.models import NanoModel
from nano.stdlib import load_library
from nano.tokenizer import train_tokenizer
from tokenizers import Tokenizer


@dataclass
class Data:
    """What training needs. `held_out` are the library's held-out texts, `facts` the counts that the card states."""

    tokenizer: Tokenizer
    batches: Batches
    held_out: list[str]
    facts: dict

    def summary(self) -> str:
        facts, tokens = self.facts, len(self.batches.text.ids)
        library = f"Python {facts['python']}: {facts['train_files']} files, {facts['train_tokens']:,} tokens"
        return f"{library}; {facts['entries']} entries; {tokens:,} tokens of text with functions and glossary"


def prepare(
    nano: NanoModel,
    shape: BatchShape,
    seed: int,
    library_folder: Path | None,
    tokenizer_file: Path | None,
    as_written: float,
) -> Data:
    """Read everything. A `tokenizer_file` is used instead of a new tokenizer: a resumed run must keep its own."""
    entries, small_talk, library = load_entries(), load_small_talk(nano.name, nano.size), load_library(library_folder)
    texts = list(library.train.values())
    glossary = [f"{entry.answer}\n{' '.join(entry.questions)}" for entry in entries]
    if tokenizer_file:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    else:
        tokenizer = train_tokenizer([*texts, *glossary * 10])  # ten times: the glossary's words are to be whole tokens
    maker = ConversationMaker(nano.name, entries, small_talk, tokenizer, texts)
    maker.phraser.as_written = as_written
    text = TextTokens(training_documents(library, entries, Random(seed)), tokenizer)

    def count(documents: list[str]) -> int:
        return sum(len(encoding.ids) for encoding in tokenizer.encode_batch(documents, add_special_tokens=False))

    facts = library.facts() | {
        "train_tokens": count(texts),
        "held_out_tokens": count(list(library.held_out.values())),
        "entries": len(entries),
        "questions": sum(len(entry.questions) for entry in entries),
        "held_out_questions": sum(len(entry.held_out) for entry in entries),
        "glossary_files": len(list(GLOSSARY.glob("*.yaml"))),
        "glossary_bytes": sum(len(document.encode()) for document in glossary),
        "glossary_tokens": count(glossary),
    }
    return Data(tokenizer, Batches(text, maker, shape, seed), list(library.held_out.values()), facts)
