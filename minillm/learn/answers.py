"""How the quiz reads an answer from the engine: each function gets the question's facts and a later event."""

from minillm.debug.views.theme import letter
from minillm.learn.questions import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def tokens_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.plan.num_tokens


def rows_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.plan.rows)


def tokens_of_request(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return next((row.count for row in event.plan.rows if row.request_id == facts["id"]), None)


def pages_in_use(_facts: Facts, _event: Event, scheduler: Scheduler) -> int:
    return scheduler.pool.num_used


def pages_taken(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(len(row.new_pages) for row in event.plan.rows)


def takes_a_page(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.new_pages for row in event.plan.rows)


def page_handed_out(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.pages[0]


def pages_handed_out(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return len(event.pages) if event.request.id == facts["id"] else None


def somebody_joins(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.joins for row in event.plan.rows)


def admitted(_facts: Facts, event: Event, _scheduler: Scheduler) -> str:
    return letter(event.request.id)


def preempted(_facts: Facts, event: Event, _scheduler: Scheduler) -> str:
    return letter(event.plan.preempted[0])


def got_a_token(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return facts["id"] in event.result.tokens


def steps_it_took(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return event.step - facts["step"] if event.request.id == facts["id"] else None


def longest_context(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return max(event.batch.context_lens)


def slot_of_row(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """The slot of the request's first token in this step, from the tensor that the model gets."""
    index = [row.request_id for row in event.rows].index(facts["id"])
    return int(event.batch.slots[sum(event.batch.query_lens[:index])])


def vectors_kept(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.hidden)


def scores_of_a_row(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.logits.shape[1]


def candidates_left(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int((event.probs[facts["row"]] > 0).sum())


def is_first_choice(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return int(event.tokens[0]) == int(event.logits[0].argmax())


def pages_freed(facts: Facts, _event: Event, scheduler: Scheduler) -> int:
    return scheduler.pool.num_free - facts["free"]


def tokens_found(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return next((row.start for row in event.plan.rows if row.request_id == facts["id"] and row.joins), None)


def first_page_evicted(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.pages[-1]


def choices_of_layer(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.experts.numel()


def expert_that_computes(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return event.expert if event.layer == facts["layer"] else None


def sum_of_weights(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return round(100 * float(event.weights[0].sum()))


def rows_of_expert(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return len(event.rows) if (event.layer, event.expert) == (facts["layer"], facts["expert"]) else None


def size_of_the_stream(_facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """The mean of the squares of each token's vector, as the first layer finds it."""
    return round(float(event.stream.square().mean(dim=1).max())) if event.layer == 0 else None


def unturned_queries(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """How many tokens' queries are what they were."""
    return int((event.q == facts["q"]).flatten(1).all(dim=1).sum()) if event.layer == 0 else None


def keys_change_length(facts: Facts, event: Event, _scheduler: Scheduler) -> bool | None:
    before, after = facts["k"].norm(dim=-1), event.k.norm(dim=-1)
    return not before.allclose(after, rtol=1e-4) if event.layer == 1 else None


def beyond_the_cap(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return bool((event.logits.abs() > 15).any())


def is_still_chosen(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return int(event.tokens[0]) == facts["id"]


def twins_agree(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return len(set(event.tokens[facts["rows"]].tolist())) == 1


def tokens_allowed(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int((event.after[0] > float("-inf")).sum())


def queries_a_key(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.scores.shape[1]


def page_read_last(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """Once the block with the last position is read."""
    ends = int(event.positions[-1]) == facts["position"]
    return int(event.slots[-1]) // facts["page_size"] if ends else None


def splits_combined(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.tops)


def a_sum_below_one(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return bool((event.totals < 0.5).any())


def token_ids_named(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(len(row.token_ids) for row in event.plan.rows)


def start_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.plan.rows[0].start


def has_a_row(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.request_id == facts["id"] for row in event.plan.rows)


def was_overtaken(facts: Facts, event: Event, scheduler: Scheduler) -> bool | None:
    return scheduler.num_steps > facts["step"] if event.plan.step == facts["step"] else None


def ranges_of_layer(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(span.name == f"layer {facts['layer']}" for span in event.profile.ranges)


def matrix_kernels(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return round(next(row.calls for row in event.kinds if row.kind == "matrix"))


def reads_of_each_weight(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """From the bytes of the profile's table; what goes in and comes out is less than the weights."""
    shape, row = event.profile.shape, next(row for row in event.kinds if row.kind == "matrix")
    return int(row.bytes // (shape.layers * shape.layer_weights + shape.head_weights))


def idle_between(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """Of the kernels that the question named, as the profile counts it."""
    from minillm.debug import spans

    return round(spans.busy_and_idle(facts["spans"], facts["a"], facts["f"])[1])


def operations_a_weight(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """The operations of the profile's table without the head's, by the layers' weights."""
    shape, row = event.profile.shape, next(row for row in event.kinds if row.kind == "matrix")
    head = 2 * sum(step.samples for step in event.steps) / len(event.steps) * shape.hidden * shape.vocab
    return round((row.flops - head) / (shape.layers * shape.layer_numbers))


def rows_replayed(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.size


def rows_of_nobody(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.size - event.count


def step_is_replayed(_facts: Facts, _event: Event, _scheduler: Scheduler) -> bool:
    """The tensors of a batch are built where it is computed from Python, and only there."""
    return False


def slots_written(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    graphs = event.engine.runner.graphs
    return int((graphs.rows[2, : facts["size"]] >= 0).sum())


def length_of_first_row(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int(event.graphs.lengths[0])
