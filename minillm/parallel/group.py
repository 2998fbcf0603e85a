"""ParallelGroup: the ranks that share one model, seen from one of them. A group of one is the normal case."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ParallelGroup:
    """This process is ``rank`` of ``size``. With more than one, torch.distributed must be initialised."""

    rank: int = 0
    size: int = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``, in place."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's ``x [..., n]`` beside each other: ``[..., size * n]``."""
        if self.size == 1:
            return x
        import torch.distributed

        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)

    def share_of(self, total: int, what: str) -> int:
        """This rank's part of ``total`` things; ValueError if they cannot be shared out evenly."""
        if total % self.size:
            raise ValueError(
                f"{what}: {total} cannot be split evenly over {self.size} ranks; take a number that divides it"
            )
        return total // self.size

    def heads_of(self, num_heads: int, num_kv_heads: int) -> tuple[int, int]:
        """This rank's query heads and key/value heads. With more ranks than key/value heads, ranks share a head."""
        copies = max(1, self.size // num_kv_heads)
        return self.share_of(num_heads, "query heads"), self.share_of(num_kv_heads * copies, "key/value heads")


SINGLE = ParallelGroup()
