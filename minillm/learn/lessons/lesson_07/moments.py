"""The quiz of lesson 07, where tokens are chosen: when it asks, and where it reads the answers."""

from collections import defaultdict

import torch

from minillm.learn.moments import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def some_min_p(event: Event, _scheduler: Scheduler) -> Facts | None:
    """A row draws with min-p, which leaves a few tokens, and none of the others only just falls short."""
    settings = event.settings
    if settings is None or settings.min_p is None:
        return None
    logits = event.logits if settings.drawn is None else event.logits[settings.drawn]  # [D, V]
    for row in settings.min_p.nonzero()[:, 0].tolist():
        least = float(settings.min_p[row])
        shares = 100 * torch.softmax(logits[row] / settings.temperature[row], dim=-1).topk(7).values
        bound = least * float(shares[0])
        if 3 <= int((shares >= bound).sum()) <= 6 and float((shares - bound).abs().min()) > 0.2:
            listed = ", ".join(f"{share:.1f}" for share in shares.tolist())
            return {"row": row, "min_p": f"{least:.2g}", "shares": listed, "bound": f"{bound:.1f}"}
    return None


def likeliest_was_said(event: Event, _scheduler: Scheduler) -> Facts | None:
    """One row alone is penalised for repetition; its likeliest token was said, and not every rival was."""
    if len(event.before) != 1:
        return None
    before, after = event.before[0], event.after[0]
    likeliest = int(before.argmax())
    said, rival = float(before[likeliest]), float(before[after == before].max())
    penalty = said / float(after[likeliest])
    if not event.counts[0, likeliest] or said <= 0 or penalty <= 1 or abs(said / penalty - rival) < 0.1:
        return None
    if float(after.max()) > max(said / penalty, rival):  # another that was said
        return None
    return {"id": likeliest, "said": f"{said:.2f}", "rival": f"{rival:.2f}", "penalty": f"{penalty:.2g}"}


def twins_draw(event: Event, _scheduler: Scheduler) -> Facts | None:
    """Two rows have the same seed, position and probabilities."""
    if event.settings.drawn is not None:
        return None
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(event.settings.seeds.tolist(), event.settings.positions.tolist())):
        seen[key].append(row)
    for rows in seen.values():
        if len(rows) == 2 and torch.allclose(*event.probs[rows]):
            return {"rows": rows, "first": rows[0], "second": rows[1], "batch": len(event.probs)}
    return None


def several_answers(event: Event, scheduler: Scheduler) -> Facts | None:
    """One prompt, several answers, nothing else there and nothing of it cached."""
    request = event.request
    if request.params.n == 1 or not scheduler.idle or scheduler.pool.num_used:
        return None
    return {"count": len(request.prompt_ids), "n": request.params.n, "page_size": scheduler.pool.page_size}


def grammar_is_at_its_end(event: Event, _scheduler: Scheduler) -> Facts | None:
    complete = event.matcher.state.is_accepting() and event.matcher.taken > 1
    return {"taken": event.matcher.taken, "vocabulary": 32 * len(event.mask)} if complete else None


# How the answers are read.


def is_still_chosen(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return int(event.tokens[0]) == facts["id"]


def twins_agree(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return len(set(event.tokens[facts["rows"]].tolist())) == 1


def tokens_allowed(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int((event.after[0] > float("-inf")).sum())
