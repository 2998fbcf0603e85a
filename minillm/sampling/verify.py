"""Which drafts are right: a row with drafts samples at several positions, and gives several tokens."""

from collections.abc import Sequence
from dataclasses import replace

from minillm.scheduler.plan import PlanRow


def each_position(rows: list[PlanRow]) -> list[PlanRow]:
    """The rows, and in place of one with drafts one for each position at which it samples: the row as if it ended
    there. Whatever is asked of a row that samples is so answered for each position."""
    return [
        replace(row, count=row.count - drafts) if drafts else row
        for row in rows
        for drafts in range(len(row.draft_ids), -1, -1)
    ]


def accepted(draft_ids: Sequence[int], sampled: Sequence[int]) -> int:
    """How many of ``sampled``, a token for each draft and one more, a request gets: the first, and the next one for as
    long as the draft before it is what was sampled there. What comes after a wrong draft was computed from it."""
    right = 0
    while right < len(draft_ids) and draft_ids[right] == sampled[right]:
        right += 1
    return right + 1


def tokens_by_request(rows: list[PlanRow], sampled: list[int]) -> dict[int, list[int]]:
    """``sampled``: a token for each of `each_position`'s rows -> by request id the tokens that it gets."""
    tokens, at = {}, 0
    while at < len(rows):
        row = rows[at]
        positions = len(row.draft_ids) + 1
        mine = sampled[at : at + positions]
        tokens[row.request_id] = mine[: accepted(row.draft_ids, mine)]
        at += positions
    return tokens
