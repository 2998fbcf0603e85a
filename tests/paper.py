"""An engine on paper: the real scheduler and manager, and a model that only notes which tokens stand where.

The key and value of a token are a number made of the token and the number before it, so it stands for the token and all
that came before. A page that was shared wrongly, written over, or read before it was written gives other numbers, and
so other tokens: nothing in the books can be wrong for long without being seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from minillm.kvcache.pages import slot_of
from minillm.kvcache.radix import Node
from minillm.scheduler.plan import PlanRow, StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

VOCAB = 50


def note_of(before: int, token_id: int) -> int:
    return hash((before, token_id))


def next_token(note: int, seed: int) -> int:
    """What the model says after a text whose last note this is. Only few tokens, so that prefixes meet again."""
    return hash((note, seed)) % VOCAB


def answer_alone(prompt: Sequence[int], seed: int, count: int) -> list[int]:
    """The first tokens of the answer to a prompt."""
    note, answer = 0, []
    for token_id in prompt:
        note = note_of(note, token_id)
    for _ in range(count):
        answer.append(next_token(note, seed))
        note = note_of(note, answer[-1])
    return answer


@dataclass
class Paper:
    """What the device knows: by seat the page table, the seed and the last token; and a note in each slot."""

    scheduler: Scheduler
    tables: dict[int, list[int]] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    notes: dict[int, int] = field(default_factory=dict)

    def execute(self, plan: StepPlan) -> StepResult:
        for row in plan.rows:
            self._write(row)
        self.check_tree()
        return StepResult({row.request_id: self._sample(row) for row in plan.rows if row.samples})

    def _write(self, row: PlanRow) -> None:
        table = self.tables.setdefault(row.seat, [])
        if row.joins:
            self.seeds[row.seat] = row.joins.seed
            table.clear()
        assert len(table[: row.num_pages - len(row.new_pages)]) == row.num_pages - len(row.new_pages), "a page is lost"
        table[row.num_pages - len(row.new_pages) :] = row.new_pages
        token_ids = row.token_ids or [self.last[row.seat]]
        assert len(token_ids) == row.count
        for position, token_id in enumerate(token_ids, row.start):
            before = self.note_at(row.seat, position - 1) if position else 0
            self.notes[slot_of(table, position, self.page_size)] = note_of(before, token_id)

    def _sample(self, row: PlanRow) -> list[int]:
        """The row's next token; and for each draft that it proves right, the one after it."""
        end, drafts = row.start + row.count, list(row.draft_ids)
        seed, first = self.seeds[row.seat], row.start + row.count - len(drafts)
        sampled = [next_token(self.note_at(row.seat, position - 1), seed) for position in range(first, end + 1)]
        taken = sampled[:1]
        while len(taken) <= len(drafts) and drafts[len(taken) - 1] == taken[-1]:
            taken.append(sampled[len(taken)])
        self.last[row.seat] = taken[-1]
        return taken

    @property
    def page_size(self) -> int:
        return self.scheduler.pool.page_size

    def note_at(self, seat: int, position: int) -> int:
        return self.notes[slot_of(self.tables[seat], position, self.page_size)]

    def check_tree(self) -> None:
        """Every page that others may find holds what its tokens say."""
        todo: list[tuple[Node, int]] = [(node, 0) for node in self.scheduler.cache.root.children.values()]
        while todo:
            node, note = todo.pop()
            for position, token_id in enumerate(node.token_ids):
                note = note_of(note, token_id)
                assert self.notes[slot_of(node.pages, position, self.page_size)] == note, f"{node} at {position}"
            todo += [(child, note) for child in node.children.values()]
