"""In which order requests wait and run. Sorting is all that a policy does; the scheduler takes from the front."""

from collections import deque

from minillm.kvcache.manager import KVCacheManager
from minillm.request import Request


class FirstComeFirstServed:
    """Requests wait and run in order of arrival: as the scheduler has them anyway."""

    def sort_waiting(self, waiting: deque[Request], manager: KVCacheManager) -> None:
        """Bring the queue into the order in which requests shall be admitted."""

    def sort_running(self, running: list[Request]) -> None:
        """Who stands first gets pages first; who stands last is preempted first."""

    def admitted(self, request: Request, waiting: deque[Request]) -> None:
        """A request was taken from the front."""


class ByPriority(FirstComeFirstServed):
    """Lower ``priority`` first, as in vLLM; among equals, who came first."""

    def sort_waiting(self, waiting: deque[Request], manager: KVCacheManager) -> None:
        ordered = sorted(waiting, key=_by_priority)
        waiting.clear()
        waiting.extend(ordered)

    def sort_running(self, running: list[Request]) -> None:
        running.sort(key=_by_priority)


class LongestPrefixMatch(FirstComeFirstServed):
    """Whoever finds most in the prefix cache first, so that what is cached is used before it must go (SGLang: lpm).

    Only the first of a long queue are looked up. Nobody waits for ever: a request that ``patience`` later ones have
    overtaken goes to the front.
    """

    window = 128  # of the queue: a look-up costs some microseconds, and this is done before every step
    patience = 64

    def sort_waiting(self, waiting: deque[Request], manager: KVCacheManager) -> None:
        candidates = [waiting.popleft() for _ in range(min(self.window, len(waiting)))]
        candidates.sort(key=lambda request: request.id)
        known = {request.id: manager.peek(request) for request in candidates}
        candidates.sort(key=lambda request: (request.overtaken < self.patience, -known[request.id]))
        waiting.extendleft(reversed(candidates))

    def admitted(self, request: Request, waiting: deque[Request]) -> None:
        for other in list(waiting)[: self.window]:
            other.overtaken += other.id < request.id


Policy = FirstComeFirstServed
POLICIES: dict[str, type[Policy]] = {"fcfs": FirstComeFirstServed, "lpm": LongestPrefixMatch, "priority": ByPriority}


def _by_priority(request: Request) -> tuple[int, int]:
    return request.priority, request.id
