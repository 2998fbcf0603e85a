"""Training batches. Batch number `step` depends on the seed and the step alone, so a resumed run sees the same ones."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from nano.conversations import ConversationMaker
from nano.glossary import Entry
from nano.stdlib import Library, functions_of
from nano.tokenizer import BOS_ID, END_ID
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset


@dataclass
class BatchShape:
    """Rows of each kind, and their lengths in tokens."""

    text_rows: int
    text_length: int
    chat_rows: int
    chat_length: int

    @property
    def tokens(self) -> int:
        return self.text_rows * self.text_length + self.chat_rows * self.chat_length


class TextTokens:
    """Documents one after another, `<|bos|>text<|end|>`, in one array: whole files, their functions, the glossary.

    `ids`: [tokens] uint16; `starts`: [documents], where each begins.
    """

    def __init__(self, documents: list[str], tokenizer: Tokenizer) -> None:
        encoded = [
            [BOS_ID, *encoding.ids, END_ID] for encoding in tokenizer.encode_batch(documents, add_special_tokens=False)
        ]
        self.ids = np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in encoded])
        self.starts = np.cumsum([0] + [len(ids) for ids in encoded[:-1]])

    def rows(self, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """[count, length] windows; every other one begins where a document does, as a prompt will."""
        last = len(self.ids) - length
        at = np.where(np.arange(count) % 2 == 0, rng.choice(self.starts, count), rng.integers(0, last, count))
        return self.ids[np.minimum(at, last)[:, None] + np.arange(length)]


def training_documents(library: Library, entries: list[Entry], rng: Random, glossary_copies: int = 8) -> list[str]:
    """Files, their functions once more on their own, and the glossary as plain sentences, shuffled."""
    documents = list(library.train.values())
    documents += [function for text in library.train.values() for function in functions_of(text)]
    documents += [f"{entry.answer}\n" for entry in entries] * glossary_copies
    rng.shuffle(documents)
    return documents


class Batches(Dataset):
    """`batches[step]` -> `text` [rows, length + 1] and `chat` [rows, length + 1] (int64), `weights` [rows, length]."""

    def __init__(self, text: TextTokens, maker: ConversationMaker, shape: BatchShape, seed: int) -> None:
        self.text, self.maker, self.shape, self.seed = text, maker, shape, seed
        maker.max_context = min(maker.max_context, shape.chat_length // 2)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = Random(f"{self.seed}/{step}")
        numbers = np.random.default_rng([self.seed, step])
        rows = [self._chat_row(rng) for _ in range(self.shape.chat_rows)]
        text = self.text.rows(self.shape.text_rows, self.shape.text_length + 1, numbers)
        return {
            "text": torch.from_numpy(text.astype(np.int64)),
            "chat": torch.tensor([ids for ids, _ in rows]),
            "weights": torch.tensor([weights for _, weights in rows])[:, 1:],  # a token's weight, where it is predicted
        }

    def _chat_row(self, rng: Random) -> tuple[list[int], list[float]]:
        """Whole conversations until the row is full; the last one is cut."""
        ids: list[int] = []
        weights: list[float] = []
        length = self.shape.chat_length + 1
        while len(ids) < length:
            more_ids, more_weights = self.maker.make(rng)
            ids, weights = ids + more_ids, weights + more_weights
        return ids[:length], weights[:length]


def loader(batches: Batches, first_step: int, workers: int) -> DataLoader:
    """An endless stream of batches from `first_step` on, made by `workers` processes."""
    pinned = torch.cuda.is_available()
    steps = range(first_step, 10_000_000)
    return DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pinned)
