"""A model with its cache and nothing around it: no scheduler, no runner, and, if need be, one of several ranks."""

from pathlib import Path

import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention
from minillm.kvcache.storage import KVCache
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.weights import build_model, load_weights

CPU = torch.device("cpu")
PAGE, PAGES = 4, 16  # tokens a page, pages a request
Step = list[tuple[int, list[int]]]  # which requests compute which tokens of theirs; one-token requests first

# Two prompts, one of them in chunks, then both decode, alone and together: every kind of step there is.
STEPS: list[Step] = [
    [(0, [5, 6, 7, 8, 9, 10, 11])],
    [(0, [12]), (1, [20, 21, 22, 23, 24])],
    [(0, [13]), (1, [25, 26])],
    [(0, [14]), (1, [27])],
    [(1, [28])],
    [(0, [15, 16, 17, 18])],
]


class Bare:
    """One rank's model of a checkpoint, built as ``build`` says, and the keys and values of two requests."""

    def __init__(self, folder: Path, build: LayerBuild | None = None, load_format: str = "auto") -> None:
        self.config, build = ModelConfig.from_folder(folder), build or LayerBuild()
        self.model: nn.Module = build_model(self.config, build)
        load_weights(self.model, folder, CPU, load_format)
        self.model.make_tables(PAGE * PAGES, CPU)  # type: ignore[operator]
        self.backend = GatherAttention(AttentionShape.of(self.config, build.dtype, CPU, build.group))
        self.cache = KVCache(self.backend.shape.kv, 2 * PAGES, PAGE, CPU)
        self.lengths = [0, 0]

    @torch.inference_mode()
    def step(self, rows: Step) -> Tensor:
        """Compute the rows' tokens -> the logits after each row's last ``[R, V]``."""
        counts = [len(tokens) for _, tokens in rows]
        starts = [self.lengths[request] for request, _ in rows]
        positions = torch.cat([torch.arange(start, start + count) for start, count in zip(starts, counts)])
        firsts = torch.tensor([request * PAGES for request, _ in rows])  # of each row's pages, which lie side by side
        batch = ForwardBatch(
            input_ids=torch.tensor([token for _, tokens in rows for token in tokens]),
            positions=positions,
            slots=torch.repeat_interleave(firsts, torch.tensor(counts)) * PAGE + positions,
            page_table=firsts[:, None] + torch.arange(PAGES),
            context_lens=[start + count for start, count in zip(starts, counts)],
            query_lens=counts,
            num_single=counts.count(1),
            sample_rows=None,
            kv_cache=self.cache,
            backend=self.backend,
        )
        batch.plan = batch.backend.prepare(batch)
        for request, tokens in rows:
            self.lengths[request] += len(tokens)
        hidden = self.model(batch.input_ids, batch.positions, batch)  # [T, hidden]
        return self.model.compute_logits(hidden[torch.tensor(counts).cumsum(0) - 1])  # type: ignore[operator]

    def walk(self) -> Tensor:
        """All of `STEPS`, one after the other: their logits ``[9, V]``."""
        return torch.cat([self.step(rows) for rows in STEPS])
