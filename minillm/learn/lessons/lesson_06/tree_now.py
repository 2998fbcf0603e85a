"""An engine's prefix tree as it is now, and what it has given up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.radix_tree import radix_tree
from minillm.engine.engine import Engine
from minillm.kvcache.radix import RadixCache
from minillm.probe import Event


def tree(engine: Engine, before: Any = None, order: bool = False) -> Drawing:
    """The tree; what is new since ``before`` (`remember`) is marked. order: which leaf goes first."""
    scheduler, cache = engine.scheduler, engine.scheduler.cache
    assert isinstance(cache, RadixCache), 'an engine without prefix_cache="radix" has no tree'
    return radix_tree(cache, scheduler.running, engine.tokenizer, before, order)


@dataclass
class GivenUp:
    """``with listen("radix.evict", gone.note): ...``: step, pages, and how their tokens begin, of each eviction."""

    engine: Engine
    pages: list[tuple[int, Sequence[int], str]] = field(default_factory=list)

    def note(self, event: Event) -> None:
        size = self.engine.pool.page_size
        text = self.engine.tokenizer.decode(event.node.token_ids[:size], skip_special_tokens=False)
        self.pages.append((self.engine.scheduler.num_steps, list(event.pages), text))

    def print(self, console: Console) -> None:
        for step, given, text in self.pages:
            said = f"  step {step:>2}: page {', '.join(map(str, given))}, from the end of {text!r}..."
            console.print(said, highlight=False, markup=False)
        console.print()
