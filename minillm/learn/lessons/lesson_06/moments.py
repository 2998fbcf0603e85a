"""The quiz of lesson 06, where requests share their beginnings: when it asks, and where it reads the answers."""

from minillm.config import EngineConfig
from minillm.debug.views.theme import letter
from minillm.kvcache.radix import RadixCache
from minillm.learn.moments import Facts, who
from minillm.probe import Event
from minillm.request import Request
from minillm.scheduler.scheduler import Scheduler


def lpm(config: EngineConfig) -> bool:
    return config.scheduling_policy == "lpm"


def tree_of(scheduler: Scheduler) -> RadixCache | None:
    return scheduler.cache if scheduler.manager.shares_prefixes else None


def ends_in_the_tree(event: Event, scheduler: Scheduler) -> Facts | None:
    """A request ends that was alone, and its last page is not full."""
    request, size = event.request, scheduler.pool.page_size
    alone = len(scheduler.running) == 1 and not scheduler.waiting and request.finished
    if not alone or tree_of(scheduler) is None or request.num_computed % size == 0:
        return None
    facts = {"computed": request.num_computed, "pages": len(request.pages), "page_size": size}
    return {**who(request), **facts, "free": scheduler.pool.num_free}


def shared_tokens(request: Request, cache: RadixCache) -> int:
    """The longest beginning of a prompt that a text in the tree has too, in tokens and not in pages."""
    node, shared, rest = cache.root, 0, request.prompt_ids
    while True:
        best, run = 0, 0
        for child in node.children.values():
            same = next((i for i, (a, b) in enumerate(zip(child.token_ids, rest)) if a != b), None)
            same = min(len(child.token_ids), len(rest)) if same is None else same
            if same > best:
                best, run, following = same, len(child.token_ids), child
        shared += best
        if not best or best < run:
            return shared
        node, rest = following, rest[best:]


def begins_like_another(event: Event, scheduler: Scheduler) -> Facts | None:
    """A prompt leaves a text of the tree in the middle of a page, and it is not the first page."""
    cache, request = tree_of(scheduler), event.request
    shared = shared_tokens(request, cache) if cache else 0
    size, known = scheduler.pool.page_size, len(request.prompt_ids)
    if shared < size or shared % size == 0 or shared == known:
        return None
    return {**who(request), "known": known, "shared": shared, "page_size": size}


def is_known_already(event: Event, scheduler: Scheduler) -> Facts | None:
    """All of a prompt's tokens are in the tree, as far as they fill pages."""
    cache, request = tree_of(scheduler), event.request
    size, known = scheduler.pool.page_size, len(request.prompt_ids)
    if cache is None or known < size or shared_tokens(request, cache) < known:
        return None
    return {**who(request), "known": known, "page_size": size}


def somebody_must_evict(_event: Event, scheduler: Scheduler) -> Facts | None:
    """One runs, is at the end of its last page, and nothing is free; two leaves at least could go."""
    running, cache = scheduler.running, tree_of(scheduler)
    if len(running) != 1 or cache is None or scheduler.pool.num_free or scheduler.waiting:
        return None
    leaves = [node for node in cache.nodes() if node.locks == 0 and not node.children]
    if running[0].num_computed % scheduler.pool.page_size or len(leaves) < 2:
        return None
    leaves.sort(key=lambda node: node.last_used)
    return {**who(running[0]), "leaves": ", then ".join(str(node.pages) for node in leaves)}


def somebody_finds_more(_event: Event, scheduler: Scheduler) -> Facts | None:
    """Several wait, nobody runs, and who came first is not the one who finds most."""
    waiting, cache = sorted(scheduler.waiting, key=lambda request: request.id), tree_of(scheduler)
    if len(waiting) < 2 or cache is None or scheduler.running:
        return None
    size = scheduler.pool.page_size
    found = [cache.peek(one.prompt_ids, one.namespace) * size for one in waiting]
    if found.index(max(found)) == 0:
        return None
    return {"found": ", ".join(f"{letter(one.id)} {tokens}" for one, tokens in zip(waiting, found))}


# How the answers are read.


def pages_freed(facts: Facts, _event: Event, scheduler: Scheduler) -> int:
    return scheduler.pool.num_free - facts["free"]


def tokens_found(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return next((row.start for row in event.plan.rows if row.request_id == facts["id"] and row.joins), None)


def first_page_evicted(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.pages[-1]
