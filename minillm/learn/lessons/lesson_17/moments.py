"""The quiz of lesson 17, where experts compute: when it asks, and where it reads the answers."""

from minillm.learn.moments import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler

_CLEAR = 5  # points of a percent by which the likeliest must lead, so that rounded numbers tell


def routed(event: Event) -> Facts:
    """How many tokens chose, among how many experts, in which layer."""
    T, k = event.experts.shape
    return {"layer": event.layer, "count": T, "k": k, "experts": event.moe.shape.num_experts}


def several_chose(event: Event, _scheduler: Scheduler) -> Facts | None:
    return routed(event) if len(event.experts) > 1 else None


def percents(event: Event) -> list[int]:
    """The probabilities of all experts for the one token of this step."""
    return [round(100 * p) for p in event.logits[0].float().softmax(dim=-1).tolist()]


def one_token_chooses(event: Event, _scheduler: Scheduler) -> Facts | None:
    """A step of one token; its likeliest expert is clear."""
    if len(event.experts) != 1 or event.moe.shape.num_experts > 16:
        return None
    shares = percents(event)
    best, second = sorted(shares, reverse=True)[:2]
    if best - second < _CLEAR:
        return None
    listed = ", ".join(f"{expert} {share}%" for expert, share in enumerate(shares))
    return {**routed(event), "listed": listed}


def weights_are_scaled(event: Event, _scheduler: Scheduler) -> Facts | None:
    """A step of one token; its chosen experts have clearly less than all of the probability."""
    if len(event.experts) != 1 or not event.moe.shape.renormalise:
        return None
    chosen = [percents(event)[expert] for expert in event.experts[0].tolist()]
    return {**routed(event), "chosen": " and ".join(f"{p}%" for p in chosen)} if sum(chosen) < 95 else None


def a_few_chose(event: Event, scheduler: Scheduler) -> Facts | None:
    """Another step than the first ones, of so few tokens that one sees all of their choices."""
    few = 2 < len(event.experts) <= 12 and scheduler.num_steps > 2
    if not few:
        return None
    choices = event.experts.flatten().tolist()
    asked = max(choices, key=choices.count)
    pairs = "; ".join(" ".join(map(str, of_token)) for of_token in event.experts.tolist())
    return {**routed(event), "pairs": pairs, "expert": asked}


def many_chose(event: Event, scheduler: Scheduler) -> Facts | None:
    """A longer text, in a layer whose first choice is not its lowest expert."""
    choices = event.experts.flatten().tolist()
    few = 12 < len(event.experts) <= 40 and scheduler.num_steps > 2
    if not few or choices[0] == min(choices):
        return None
    return {**routed(event), "listed": " ".join(map(str, choices))}


# How the answers are read.


def choices_of_layer(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.experts.numel()


def expert_that_computes(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return event.expert if event.layer == facts["layer"] else None


def sum_of_weights(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return round(100 * float(event.weights[0].sum()))


def rows_of_expert(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return len(event.rows) if (event.layer, event.expert) == (facts["layer"], facts["expert"]) else None
