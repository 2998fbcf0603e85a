"""Tokens to vectors, and vectors to logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.layers.build import LayerBuild
from minillm.probe import probe


class Embedding(nn.Module):
    """A table ``weight [V, hidden]``: a token's vector is its row."""

    def __init__(self, vocab_size: int, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size, dtype=dtype), requires_grad=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[T]`` -> ``[T, hidden]``."""
        return F.embedding(input_ids, self.weight)


class LMHead(nn.Module):
    """A hidden state to one logit for each token of the vocabulary. Tied, it multiplies with the embedding's own
    table."""

    def __init__(self, embedding: Embedding, tied: bool, build: LayerBuild) -> None:
        super().__init__()
        self.path, self.format = build.path, build.format
        self.bias = None
        self.keeps_weight = tied  # the embedding looks rows up in it
        table = embedding.weight
        self.weight = table if tied else nn.Parameter(torch.empty_like(table), requires_grad=False)

    def process_weights_after_loading(self) -> None:
        probe.on and probe("weights.process", layer=self, path=self.path, format=self.format)
        self.format.process_weights_after_loading(self)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> ``[rows, V]``."""
        return self.format.apply(self, hidden)
