"""The expert tracker: how often each expert of a mixture of experts is chosen, and by whose tokens.

It listens to the probe ``moe.route`` between `ExpertTracker.start` and `ExpertTracker.stop`; at any other time it does
not exist for the engine. What is counted is what was computed: a request that is preempted and computed again counts
again, as it costs again.
"""

import dataclasses
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from minillm.debug.expert_stats import ExpertStats, LayerStats, layer_stats
from minillm.debug.recorder import open_to_write
from minillm.layers.moe import MixtureOfExperts
from minillm.probe import Event, Listener, listen

KEPT_REQUESTS = 1000  # whose own counts are kept, those that ran last; the others stay in the sums


class ExpertTracker:
    """``with ExpertTracker(llm) as tracker: llm.generate(...)``, or `start` and `stop`; then ask it, or `export`.

    ``watched``: an LLM, an Engine or a model. Other engines in the same process are not counted.
    """

    def __init__(self, watched: Any) -> None:
        model = _model_of(watched)
        found = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
        if not found:
            raise ValueError(
                f"{type(model).__name__} has no mixture of experts: every layer is dense, nothing is chosen"
            )
        self.layer_ids = [module.layer for module in found]
        self.num_experts = max(module.shape.num_experts for module in found)
        self.top_k = max(module.shape.top_k for module in found)
        self._rows = {module: row for row, module in enumerate(found)}
        self._listener: Listener | None = None
        self.reset()

    def start(self) -> None:
        """Count from here on, on top of what is counted already."""
        if self._listener is None:
            self._listener = listen("moe.route", self._hear)

    def stop(self) -> None:
        """Count no more. What was counted stays."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def reset(self) -> None:
        """Forget everything. L layers with experts, E experts in each."""
        shape = len(self.layer_ids), self.num_experts
        self.tokens = np.zeros(shape, dtype=np.int64)  # [L, E], as the next four
        self.steps = np.zeros(shape, dtype=np.int64)
        self.weights = np.zeros(shape)
        self.last_step = np.zeros(shape, dtype=np.int64)
        self.last_time = np.zeros(shape)
        self.layer_tokens = np.zeros(shape[0], dtype=np.int64)  # [L], as the next
        self.layer_steps = np.zeros(shape[0], dtype=np.int64)
        self.requests: dict[int, np.ndarray] = {}  # request id -> its tokens [L, E]

    def __enter__(self) -> "ExpertTracker":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _hear(self, event: Event) -> None:
        row = self._rows.get(event.moe)
        if row is None:
            return  # some other engine's
        experts, weights, batch = event.experts.cpu().numpy(), event.weights.float().cpu().numpy(), event.batch
        E, R = self.num_experts, batch.num_requests
        owners = np.repeat(np.arange(R), batch.query_lens)  # [T]: whose token
        cells = (owners[:, None] * E + experts).ravel()  # [T * k]
        counts = np.bincount(cells, minlength=R * E).reshape(R, E)
        tokens = counts.sum(axis=0)  # [E]
        self.tokens[row] += tokens
        self.steps[row] += tokens > 0
        self.weights[row] += np.bincount(experts.ravel(), weights.ravel(), minlength=E)
        self.last_step[row, tokens > 0] = event.step
        self.last_time[row, tokens > 0] = time.time()
        self.layer_tokens[row] += len(experts)
        self.layer_steps[row] += 1
        for request_id, mine in zip(batch.request_ids, counts):
            self._of_request(request_id)[row] += mine

    def _of_request(self, request_id: int) -> np.ndarray:
        counts = self.requests.pop(request_id, None)
        if counts is None:
            counts = np.zeros_like(self.tokens)
            if len(self.requests) >= KEPT_REQUESTS:
                del self.requests[next(iter(self.requests))]  # the one that has not run for longest
        self.requests[request_id] = counts  # at the end again
        return counts

    def get_expert_stats(self, layer_id: int, expert_id: int) -> ExpertStats:
        """ValueError if there is no such layer with experts, or no such expert."""
        row = self._row(layer_id)
        if not 0 <= expert_id < self.num_experts:
            raise ValueError(f"there is no expert {expert_id}; layer {layer_id} has 0 to {self.num_experts - 1}")
        at = row, expert_id
        tokens, used = int(self.tokens[at]), bool(self.tokens[at])
        return ExpertStats(
            layer_id,
            expert_id,
            tokens,
            steps=int(self.steps[at]),
            share=tokens / max(int(self.tokens[row].sum()), 1),
            mean_weight=float(self.weights[at]) / max(tokens, 1),
            last_step=int(self.last_step[at]) if used else None,
            last_time=datetime.fromtimestamp(self.last_time[at]).astimezone().isoformat() if used else None,
            by_request={id: int(counts[at]) for id, counts in self.requests.items() if counts[at]},
        )

    def get_layer_stats(self) -> list[LayerStats]:
        """Every layer that has experts, in order."""
        sums = zip(self.layer_ids, self.tokens, self.layer_tokens.tolist(), self.layer_steps.tolist())
        return [layer_stats(layer_id, counts, tokens, steps) for layer_id, counts, tokens, steps in sums]

    def get_top_experts(self, k: int = 10) -> list[ExpertStats]:
        """The ``k`` that computed the most tokens, of all layers, busiest first; those that computed none are left
        out."""
        order = np.argsort(-self.tokens, axis=None, kind="stable")[:k]
        places = [divmod(int(number), self.num_experts) for number in order]
        return [
            self.get_expert_stats(self.layer_ids[row], expert) for row, expert in places if self.tokens[row, expert]
        ]

    def shares(self, request_id: int | None = None) -> np.ndarray:
        """``[L, E]``: each expert's share of its layer's choices, of all requests or of one."""
        tokens = self.tokens if request_id is None else self.requests.get(request_id, np.zeros_like(self.tokens))
        return tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1)

    def dump(self) -> dict[str, Any]:
        """Everything as plain data: ``expert_stats`` by layer and expert, ``layer_stats`` by layer, ``top_experts``."""
        experts = range(self.num_experts)
        return {
            "expert_stats": {
                layer: {expert: dataclasses.asdict(self.get_expert_stats(layer, expert)) for expert in experts}
                for layer in self.layer_ids
            },
            "layer_stats": {stats.layer_id: dataclasses.asdict(stats) for stats in self.get_layer_stats()},
            "top_experts": [dataclasses.asdict(stats) for stats in self.get_top_experts()],
        }

    def export(self, path: Path | str) -> None:
        """Write `dump` as JSON; numbers of layers, experts and requests become strings where they are keys."""
        with open_to_write(Path(path)) as file:
            json.dump(self.dump(), file, indent=1)

    def _row(self, layer_id: int) -> int:
        if layer_id not in self.layer_ids:
            known = ", ".join(map(str, self.layer_ids))
            raise ValueError(f"layer {layer_id} has no experts to ask about; layers that have: {known}")
        return self.layer_ids.index(layer_id)

    def __repr__(self) -> str:
        state = "running" if self._listener else "stopped"
        return f"ExpertTracker({len(self.layer_ids)} layers of {self.num_experts} experts, {state})"


def _model_of(watched: Any) -> nn.Module:
    """The model in an LLM or an Engine, or the model itself."""
    model = watched if isinstance(watched, nn.Module) else getattr(getattr(watched, "engine", watched), "model", None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"an expert tracker watches an LLM, an Engine or a model; got {watched!r}")
    return model
