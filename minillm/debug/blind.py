"""Probes that cannot fire: where a recorded step is replayed, no Python runs. Whoever arms one is told."""

import warnings
import weakref
from fnmatch import fnmatchcase
from typing import Any

from minillm import probe as probes
from minillm.debug.catalogue import catalogue

# Beside what stands in the model (``captured`` in the catalogue): a recorded step goes on to the token of every row.
# These come by only where a request asks for more than a temperature, or never.
TO_THE_TOKEN = {"model.logits", "sampler.logits", "sampler.choose"}
_told: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the recordings that somebody was warned of: once is enough


def warn_the_blind() -> None:
    """From here on, whoever arms a probe in vain is told, and who has armed one when an engine begins to replay."""
    probes.on_listen = warn_if_blind


def blind_names(patterns: tuple[str, ...]) -> list[str]:
    """The probes among these that stand inside a recorded step. Who wants all, as a recorder does, means none of them
    in particular."""
    wanted = [pattern for pattern in patterns if pattern != "*"]
    return [
        name
        for name, info in catalogue().items()
        if (info.captured or name in TO_THE_TOKEN) and any(fnmatchcase(name, one) for one in wanted)
    ]


def warn_if_blind(patterns: tuple[str, ...]) -> None:
    """Warn of the probes among these that cannot fire now."""
    if all(recordings in _told for recordings in probes.replaying):
        return
    if names := blind_names(patterns):
        for recordings in probes.replaying:
            _told.add(recordings)
        warnings.warn(
            f"{', '.join(names)}: cannot fire in decode steps that are replayed, for no Python runs there, and this "
            f"process has an engine that replays them; prompts still come by. Make the engine with enforce_eager=True, "
            f"or arm the probe before an engine with enforce_eager='auto' is made",
            stacklevel=3,
        )
