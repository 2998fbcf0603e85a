"""Tokens to vectors, and vectors to logits. Each rank has some of the vocabulary (Megatron-LM, Shoeybi et al. 2019)."""

from torch import Tensor
from torch.nn import functional as F

from minillm.layers.build import LayerBuild
from minillm.layers.linear import Formatted
from minillm.layers.shards import Cut, Sharded, Shards
from minillm.quantization.dense import DenseFormat


class Embedding(Sharded):
    """A table ``weight [V, hidden]``: a token's vector is its row. Each rank has ``V / ranks`` rows, rounded up; where
    these are too many, the last ones are nobody's."""

    def __init__(self, vocab_size: int, hidden_size: int, build: LayerBuild) -> None:
        self.rows = Cut(vocab_size, build.group.size, build.group.rank)
        super().__init__(Shards(build.path, DenseFormat(), Cut(hidden_size), [self.rows], build.dtype))
        self.group = build.group

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[T]`` -> ``[T, hidden]``, the same on every rank."""
        if self.group.size == 1:
            return F.embedding(input_ids, self.weight)  # type: ignore[arg-type]
        mine = input_ids - self.rows.start
        foreign = (mine < 0) | (mine >= self.rows.share)  # [T]: another rank has that token's row
        vectors = F.embedding(mine.masked_fill(foreign, 0), self.weight)  # type: ignore[arg-type]
        return self.group.all_reduce(vectors.masked_fill(foreign[:, None], 0))


class LMHead(Formatted):
    """A hidden state to one logit for each token of the vocabulary. Tied, it multiplies with the embedding's own
    table."""

    def __init__(self, embedding: Embedding, tied: bool, build: LayerBuild) -> None:
        hidden = embedding.shards.inputs
        super().__init__(hidden, [embedding.rows], False, build)
        self.vocab_size, self.keeps_weight = embedding.rows.size, tied
        if tied:
            if self.shards.shapes != embedding.shards.shapes:
                raise ValueError(
                    f"{self.path} is tied to the embedding, whose table is a plain matrix: it cannot be held as "
                    f"{self.format.name!r}; choose a dense format for {self.path}"
                )
            self.weight = embedding.weight

    @property
    def reads_table(self) -> bool:
        """Whether it multiplies with the embedding's table itself, so that no weight is its own."""
        return self.keeps_weight and not self.format.copies

    def forward(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> ``[rows, V]``, the same on every rank."""
        logits = self.format.apply(self, hidden)  # [rows, V / ranks, rounded up]
        if self.group.size == 1:
            return logits
        return self.group.all_gather(logits)[:, : self.vocab_size].contiguous()
