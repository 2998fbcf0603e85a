"""A proposer that knows every answer: it says so many right tokens, then so many wrong ones, as a script wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minillm.request import Request


@dataclass
class Scripted:
    """script: (right, wrong) of each time it is asked, over and over. answers: by request id, as far as it knows them.

    right: how many right drafts it has named that were asked for.
    """

    script: Sequence[tuple[int, int]]
    vocab_size: int
    answers: Mapping[int, list[int]] = field(default_factory=dict)
    asked: int = 0
    right: int = 0

    def propose(self, request: Request, most: int) -> list[int]:
        assert not request.in_flight, "its last token is not known"
        right, wrong = self.script[self.asked % len(self.script)]
        self.asked += 1
        known, answer = len(request.output_ids), self.answers.get(request.id, [])
        drafts = answer[known : known + right] if request.output_ids == answer[:known] else []
        self.right += len(drafts[:most])
        next_ones = answer[known + len(drafts) :]
        return drafts + [((next_ones[i] if i < len(next_ones) else i) + 1) % self.vocab_size for i in range(wrong)]
