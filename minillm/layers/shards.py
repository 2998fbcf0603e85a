"""Where a checkpoint's tensors go: which parts a layer fuses, and which share of each part is this rank's.

All of it follows from what a format declares of its pieces, see `Piece`. No format is known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minillm.quantization.format import Along, LinearFormat, Piece

WHOLE = -1  # as a part: all parts at once, which some checkpoints hold as one tensor


@dataclass(frozen=True)
class Cut:
    """``size`` numbers along N or K, cut into ``count`` equal shards, of which this rank has the one called ``index``.

    Where they cannot be shared out evenly (the vocabulary), the last shards are padded: all have the same length.
    """

    size: int
    count: int = 1
    index: int = 0

    @property
    def share(self) -> int:
        """How many numbers a shard has, padding included."""
        return -(-self.size // self.count)

    @property
    def start(self) -> int:
        """The first of this rank's numbers."""
        return min(self.index * self.share, self.size)

    @property
    def end(self) -> int:
        """The one after its last: not before ``start + share``, but for padding."""
        return min(self.start + self.share, self.size)


class Shards:
    """The pieces of one layer, whole as in the checkpoint, and this rank's shares of them, as its parameters hold them.

    path: the layer's, for errors. inputs: how K is cut. parts: how each part's N is cut; a layer that fuses nothing has
    one part.
    """

    def __init__(
        self, path: str, format: LinearFormat, inputs: Cut, parts: Sequence[Cut], dtype: torch.dtype, bias: bool = False
    ) -> None:
        self.path, self.inputs, self.parts = path, inputs, list(parts)

        def declared(out_features: int) -> dict[str, Piece]:
            try:
                pieces = format.pieces(inputs.size, out_features, dtype)
            except ValueError as error:
                raise ValueError(f"{path}: {format.name} cannot hold this layer: {error}") from None
            if bias:
                pieces.append(Piece("bias", (out_features,), dtype, n=Along(0), added=True))
            return {piece.name: piece for piece in pieces}

        self.pieces = [declared(part.size) for part in self.parts]
        # All parts in one tensor, if the format could hold that too.
        self._whole = declared(sum(part.size for part in self.parts)) if len(self.parts) > 1 else self.pieces[0]
        self.shapes = {name: self._shape_here(name) for name in self.pieces[0]}

    def dtype(self, name: str) -> torch.dtype:
        return self.pieces[0][name].dtype

    def checkpoint_shape(self, name: str, part: int) -> list[int]:
        """The shape, whole, of the checkpoint's tensor for piece ``name`` of this part."""
        return list((self._whole if part == WHOLE else self.pieces[part])[name].shape)

    def load(self, here: Tensor, name: str, tensor: Tensor, part: int) -> None:
        """Copy this rank's share of the checkpoint's ``tensor``, whole, to its place in ``here``, all of our piece."""
        if tensor.is_floating_point() != here.is_floating_point():
            raise ValueError(f"{self.path}: the checkpoint's {name} holds {tensor.dtype}, and {here.dtype} is wanted")
        if part == WHOLE:
            for i, own in enumerate(self._taken_apart(name, tensor)):
                self.load(here, name, own, i)
            return
        piece, place = self.pieces[part][name], here
        if piece.n is None:
            place = here[part]
        else:
            before = (self._range(name, piece.n, cut)[1] for cut in self.parts[:part])
            _, length = self._range(name, piece.n, self.parts[part])
            place = here.narrow(piece.n.dim, sum(before), length)
        for along, cut in ((piece.n, self.parts[part]), (piece.k, self.inputs)):
            if along is not None:
                first, length = self._range(name, along, cut)
                length = min(length, tensor.shape[along.dim] - first)  # the last shard may be padded
                tensor = tensor.narrow(along.dim, first, length)
                place.narrow(along.dim, length, place.shape[along.dim] - length).zero_()
                place = place.narrow(along.dim, 0, length)
        if piece.added and self.inputs.index:
            place.zero_()  # or the sum over the ranks would hold it many times
        else:
            place.copy_(tensor)

    def _shape_here(self, name: str) -> tuple[int, ...]:
        """Of this rank's parameter: every part's share, beside each other along N."""
        piece = self.pieces[0][name]
        shape = list(piece.shape)
        if piece.k is not None:
            shape[piece.k.dim] = self._range(name, piece.k, self.inputs)[1]
        if piece.n is None:
            return (len(self.parts), *shape)
        shape[piece.n.dim] = sum(self._range(name, piece.n, cut)[1] for cut in self.parts)
        return tuple(shape)

    def _range(self, name: str, along: Along, cut: Cut) -> tuple[int, int]:
        """The first of this rank's entries, and how many there are. ValueError if what lies together would be cut."""
        if cut.count > 1 and cut.share % along.values:
            axis = "inputs" if cut is self.inputs else "outputs"
            raise ValueError(
                f"{self.path}: {cut.size} {axis} in {cut.count} shards are {cut.share} each, but an entry of its "
                f"{name!r} is for {along.values} {axis} together, and cannot be cut; take fewer ranks (a lower "
                f"tensor_parallel_size), or a checkpoint in another format"
            )
        return along.entries_of(cut.start), along.entries_of(cut.share)

    def _taken_apart(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        """The parts of a tensor that holds them all, one after the other along N."""
        along = self._whole[name].n
        if along is None:
            return [tensor] * len(self.parts)
        sizes = [part.size for part in self.parts]
        if any(size % along.values for size in sizes[:-1]):
            raise ValueError(
                f"{self.path}: the checkpoint holds parts of {sizes} outputs as one tensor, but an entry of its "
                f"{name!r} is for {along.values} outputs together, and cannot be cut between two parts"
            )
        return tensor.split([along.entries_of(size) for size in sizes], dim=along.dim)


class Sharded(nn.Module):
    """A module whose parameters are the pieces of ``shards``."""

    def __init__(self, shards: Shards, stack: Sequence[int] = ()) -> None:
        """``stack``: so many of each piece, in dimensions before its own."""
        super().__init__()
        self.shards, self.path = shards, shards.path
        for name, shape in shards.shapes.items():
            empty = torch.empty(*stack, *shape, dtype=shards.dtype(name))
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def checkpoint_shape(self, leaf: str, part: int) -> list[int]:
        """The whole shape, over all ranks, of the checkpoint's tensor for this part of our parameter ``leaf``."""
        return self.shards.checkpoint_shape(leaf, part)

    def load(self, leaf: str, tensor: Tensor, part: int) -> None:
        """Copy this rank's share of a checkpoint's whole tensor to its place in our parameter ``leaf``."""
        self.shards.load(getattr(self, leaf).data, leaf, tensor, part)
