"""The manager of the KV cache: who gets which pages, who shares, and that one reset takes a request's whole place."""

from dataclasses import fields

import pytest

from minillm.kvcache.manager import KVCacheManager
from minillm.request import Place, Request, RequestState, SamplingParams

S = 4
PROMPT = list(range(100, 110))  # two full pages, and two tokens more


def make(id: int = 0, prompt: list[int] = PROMPT, n: int = 1, leader: Request | None = None, **more: object) -> Request:
    params = SamplingParams(temperature=1, n=n)
    return Request(id, list(prompt), params, 8, seed=id, leader=leader, index=0 if leader is None else 1, **more)  # type: ignore[arg-type]


def computed(manager: KVCacheManager, request: Request, count: int) -> None:
    """A step of ``count`` tokens."""
    manager.take(request, count)
    request.place.num_computed += count
    request.state = RequestState.RUNNING


def admitted(manager: KVCacheManager, request: Request) -> Request:
    """Looked up, and computed to the end of its prompt."""
    manager.look_up(request)
    computed(manager, request, request.num_pending)
    return request


def test_take_gives_what_is_lacking_and_no_more() -> None:
    manager, request = KVCacheManager(8, S), make()
    assert manager.lacking(request, 10) == 3
    assert manager.take(request, 10) == request.pages == [0, 1, 2]
    request.place.num_computed = 10
    assert (manager.lacking(request, 2), manager.lacking(request, 3)) == (0, 1)
    assert manager.take(request, 2) == []
    assert manager.num_available == 5
    manager.check([request])


def test_one_reset_takes_the_whole_place() -> None:
    """Whatever a request holds is gone after it gave back: nothing of the old place is left to be forgotten."""
    manager, request = KVCacheManager(8, S, shares_prefixes=True), make()
    admitted(manager, request)
    request.place.seat, request.place.last_on_device = 3, True
    changed = {one.name for one in fields(Place) if getattr(request.place, one.name) != getattr(Place(), one.name)}
    assert changed == {one.name for one in fields(Place)}, "this test must change all there is"
    manager.give_back(request)
    assert request.place == Place()
    manager.check([request])


def test_tokens_in_flight_outlive_the_place() -> None:
    """Who is preempted while a token is on its way gets it all the same."""
    request = make()
    request.in_flight = 1
    request.leave()
    assert request.in_flight == 1 and request.num_pending == 11


def test_a_look_up_that_is_given_back_leaves_nothing() -> None:
    manager = KVCacheManager(8, S, shares_prefixes=True)
    first = admitted(manager, make())
    manager.give_back(first)
    second = make(1)
    manager.look_up(second)
    assert (second.num_computed, second.pages) == (8, [0, 1]) and manager.cache.num_evictable == 0
    manager.give_back(second)
    assert second.place == Place() and manager.cache.num_evictable == 2
    manager.check([second])


def test_peek_changes_nothing() -> None:
    manager = KVCacheManager(8, S, shares_prefixes=True)
    manager.give_back(admitted(manager, make()))
    assert manager.peek(make(1)) == 2
    assert manager.peek(make(2, namespace="other")) == 0


@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_another_answer_shares_the_prompt(shares_prefixes: bool) -> None:
    manager = KVCacheManager(8, S, shares_prefixes)
    first = admitted(manager, make(n=2))
    second = make(1, n=2, leader=first)
    manager.look_up(second)
    assert second.pages == first.pages[:2] and second.num_computed == 8
    manager.check([first, second])


def test_without_a_prefix_cache_only_answers_to_one_prompt_share() -> None:
    manager = KVCacheManager(16, S)
    first = admitted(manager, make(n=2))
    alone, others = make(2), make(3, n=2)
    for request in (alone, others):
        manager.look_up(request)
        assert (request.pages, request.num_computed) == ([], 0)
    assert alone.place.node is None and manager.peek(alone) == 0
    manager.check([first, alone, others])


def test_without_a_prefix_cache_nothing_is_kept_that_nobody_uses() -> None:
    manager = KVCacheManager(8, S)
    first = admitted(manager, make(n=2))
    second = admitted(manager, make(1, n=2, leader=first))
    manager.give_back(first)
    assert manager.pool.num_used == 3 and manager.cache.num_evictable == 0  # two shared pages and one of its own
    third = make(2, n=2, leader=first)
    manager.look_up(third)
    assert third.num_computed == 8, "the first answer has gone, the second still has the prompt"
    for request in (second, third):
        manager.give_back(request)
    assert manager.pool.num_used == 0 and not manager.cache.kept_pages() and manager.cache.stats.evictions == 0
    manager.check([])


def test_without_reuse_nobody_shares() -> None:
    manager = KVCacheManager(8, S, reuse_kv=False)
    first = admitted(manager, make(n=2))
    second = make(1, n=2, leader=first)
    manager.look_up(second)
    assert second.pages == [] and manager.awaited(second) is None


def test_who_waits_for_whose_prompt() -> None:
    manager = KVCacheManager(8, S)
    first = make(n=2)
    second = make(1, n=2, leader=first)
    assert manager.awaited(first) is None and manager.awaited(second) is None  # it does not run yet
    manager.look_up(first)
    computed(manager, first, 5)
    assert manager.awaited(second) is first
    computed(manager, first, 5)
    assert manager.awaited(second) is None


def test_a_page_is_offered_only_when_its_tokens_are_known_by_number() -> None:
    """With overlap scheduling a page is filled by a token that nobody has read yet: others find it a step later."""
    manager = KVCacheManager(8, S, shares_prefixes=True)
    request = admitted(manager, make())
    request.append(1)
    request.in_flight = 1
    computed(manager, request, 1)
    computed(manager, request, 1)  # fills the third page with the token in flight
    assert request.num_computed == 12 and manager.peek(make(1, [*PROMPT, 1, 2, 3])) == 2
    request.append(2)
    computed(manager, request, 1)  # the token after it
    assert manager.peek(make(1, [*PROMPT, 1, 2, 3])) == 3
    manager.check([request])


def test_check_finds_pages_that_nobody_named() -> None:
    manager = KVCacheManager(8, S)
    request = admitted(manager, make())
    with pytest.raises(RuntimeError, match="page 0: 0 page tables hold it, but 1 references are counted"):
        manager.check([])
    manager.check([request])


def test_reset_frees_everything_and_flush_only_what_is_cached() -> None:
    manager = KVCacheManager(8, S, shares_prefixes=True)
    manager.give_back(admitted(manager, make()))
    manager.flush()
    assert manager.pool.num_used == 0
    request = admitted(manager, make(1))
    manager.reset()
    request.leave()
    assert manager.num_available == 8
    manager.check([request])
