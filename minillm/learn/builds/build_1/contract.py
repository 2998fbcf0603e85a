"""Build 1: a scheduler with its pool of pages, your own.

The engine asks the class `Scheduler` at the end of this file what to compute in each step, in place of its own. How it
decides is up to you: queues, free list, policy, more classes. After lesson 06 you know all that it takes.

What must hold. Each plan is checked before it runs, and a broken rule is told with its step:

1.  While a request is there, a plan has a row: a step that computes nothing can change nothing.
2.  Rows compute at most ``budget`` tokens together. A prompt that is longer comes in chunks.
3.  Each row is of another request, at a seat of its own (0 to num_seats - 1), which it keeps until it leaves.
4.  A page is one request's. A request's pages, in order, have room for all its tokens up to those of the row.
5.  A request's tokens are computed in order, each once, from 0 on; it begins at 0 again if it was preempted.
6.  Preempted requests lose seat and pages, and stand in ``plan.preempted``.
7.  After `commit`, no page is lost: ``num_free``, and the pages that requests hold, are all there are.
8.  Nobody waits for ever, however many come later; and all tokens are those of the engine's own scheduler.

The target: the workload of the last test, {requests} requests in {pages} pages of {page_size}, with {seats} seats and a
budget of {budget}, takes at most {steps} steps, with {at_once} requests at once at some time.

At hand:
    request.id, .prompt_ids, .output_ids    its number, and its tokens so far
    request.num_tokens                      how many it has
    request.num_pending                     how many of them are still to be computed: num_tokens - place.num_computed
    request.token_ids(start, count)         these tokens, prompt and output taken as one sequence
    request.place.seat, .pages, .num_computed    yours to write: -1, [] and 0 to begin with
    request.leave()                         empties its place again
    request.append(token_id, logprobs)      gives it a new token; ``request.finished`` says whether it was the last
    PlanRow(request_id, seat, start, count, token_ids, new_pages, num_pages, samples, joins)
        token_ids   request.token_ids(start, count)
        new_pages   pages that it did not have in the step before; ``num_pages`` is how many it has now
        samples     whether its last known token is among them, so that a new token comes out
        joins       Joining.of(request) where it takes its seat in this step, else None
    StepPlan(step, rows, preempted)         rows, and the ids of requests that had to leave
    result.tokens[id][0]                    the token that came out for a row that samples
    result.logprobs.get(id, [None])[0]      and what `append` wants to have with it

    python -m minillm learn check {id}     try it; learn watch {id} does at every save
    python -m minillm learn hint {id}      a hint, one more each time
    python -m minillm learn race {id}      against the engine's own
    python -m minillm learn diff {id}      one possible answer, beside yours (it is peeking)
    MINILLM_MINE={id} python -m minillm generate "Hello"    any command on your scheduler
"""

from minillm.learn.todo import Todo
from minillm.request import Request
from minillm.scheduler.plan import Joining, PlanRow, StepPlan, StepResult


class Scheduler:
    """Who runs in the next step, with how many tokens, in which pages."""

    def __init__(self, num_pages: int, page_size: int, num_seats: int, budget: int) -> None:
        """Pages 0 to num_pages - 1, of page_size tokens each; at most num_seats requests at once, and budget tokens a
        step."""
        raise Todo("build1")

    @property
    def num_free(self) -> int:
        """How many pages nobody has."""
        raise Todo("build1")

    def add(self, request: Request) -> None:
        """It has come. Alone, it would fit into the pages."""
        raise Todo("build1")

    def remove(self, request: Request) -> None:
        """It was aborted, or its text has ended it: forget it, wherever it is, and take back what it holds. It may have
        left already."""
        raise Todo("build1")

    def schedule(self, step: int) -> StepPlan:
        """Decide step number ``step``."""
        raise Todo("build1")

    def commit(self, plan: StepPlan, result: StepResult) -> list[Request]:
        """The plan was computed: note it, and give each request whose row samples its token. Whoever has finished with
        it leaves. The requests that got a token."""
        raise Todo("build1")
