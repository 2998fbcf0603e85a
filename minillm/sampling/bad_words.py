"""Bad words: sequences of tokens that an answer must not hold."""

import math

import torch
from torch import Tensor

from minillm.probe import probe
from minillm.sampling.masks import keep_some
from minillm.sampling.processors import SeatProcessor
from minillm.sampling.seat_rows import SeatRows
from minillm.scheduler.plan import Joining

ANYTHING, NOTHING, NEVER = -1, -2, -3  # stand for tokens: fits all, none there yet, fits none


class BadWords(SeatProcessor):
    """bad_words: the last token of a word is forbidden when the answer ends with all the others.

    A word of at most ``W + 1`` tokens is a row of ``prefixes [seats, words, W]``, filled up on the left, and its last
    token. ``recent [seats, W]`` holds the answer's latest tokens, as the device chose them.
    """

    def __init__(self, num_seats: int, device: torch.device) -> None:
        self.seats = self._make(num_seats, device, words=1, width=1)

    @staticmethod
    def _make(num_seats: int, device: torch.device, words: int, width: int) -> SeatRows:
        shapes = {"prefixes": (words, width), "last": (words,), "recent": (width,)}
        return SeatRows(num_seats, device, **{name: (shape, torch.int64) for name, shape in shapes.items()})

    def join(self, seat: int, joining: Joining) -> None:
        self._make_room(len(joining.bad_words), max(map(len, joining.bad_words)) - 1)
        words, width = self.seats["prefixes"].shape[1:]
        filled = [fill_left(word[:-1], width, ANYTHING) for word in joining.bad_words]
        prefixes = filled + [[NEVER] * width] * (words - len(filled))
        last = [word[-1] for word in joining.bad_words] + [0] * (words - len(filled))
        recent = fill_left(joining.output_ids[-width:], width, NOTHING)
        row = self.seats.take(seat)
        for name, value in (("prefixes", prefixes), ("last", last), ("recent", recent)):
            self.seats[name][row] = torch.tensor(value)

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        prefixes, last, recent = (self.seats[name][rows] for name in ("prefixes", "last", "recent"))
        said = (prefixes == ANYTHING) | (prefixes == recent[:, None, :])  # [n, words, W]
        off = torch.zeros(last.shape, device=last.device).masked_fill(said.all(dim=-1), -math.inf)  # [n, words]
        after = logits.scatter_add(1, last, off)
        probe.on and probe("sampler.mask", control="bad_words", before=logits, after=after, where=where)
        return keep_some(logits, after)

    def record(self, tokens: Tensor, rows: Tensor) -> None:
        recent = self.seats["recent"][rows]
        self.seats["recent"][rows] = torch.cat([recent[:, 1:], tokens[:, None]], dim=1)

    def _make_room(self, words: int, width: int) -> None:
        """Make the tensors wider, if this request has more words or a longer one than any before."""
        old, (old_words, old_width) = self.seats, self.seats["prefixes"].shape[1:]
        if words <= old_words and width <= old_width:
            return
        new = self._make(len(old.row_of), old.device, max(words, old_words), max(width, old_width))
        new._grow(len(old))
        new.row_of, new.free = old.row_of, old.free
        new["prefixes"].fill_(NEVER)
        new["prefixes"][:, :old_words] = ANYTHING
        new["prefixes"][:, :old_words, -old_width:] = old["prefixes"]
        never = (old["prefixes"] == NEVER).all(dim=-1, keepdim=True)
        new["prefixes"][:, :old_words].masked_fill_(never, NEVER)
        new["last"][:, :old_words] = old["last"]
        new["recent"].fill_(NOTHING)
        new["recent"][:, -old_width:] = old["recent"]
        self.seats = new


def fill_left(tokens: list[int], width: int, filling: int) -> list[int]:
    """The last ``width`` of the tokens, with ``filling`` in front if there are fewer."""
    kept = tokens[-width:] if width else []
    return [filling] * (width - len(kept)) + kept
