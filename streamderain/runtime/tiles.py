"""Frames that are too large for one go: a network's step in tiles, which gives what the whole gives."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from streamderain.runtime.backend import Job
from streamderain.runtime.step import Distinct

_MOST = 4096 * 2304  # px of a frame that goes through whole
_TILE = 1024  # px of a tile's side, less what it sees of its neighbours


def in_tiles(network: nn.Module, job: Job, *, most: int = _MOST, side: int = _TILE) -> nn.Module:
    """``network``, or where the frames of ``job`` are large and it sees no further than its ``reach``, it in tiles.

    Args:
        network: of ``job``, on its device; a network that sees the whole picture at once has no ``reach``.
        most: px; larger frames are tiled.
        side: px of a tile, at most.
    """
    reach = getattr(network, "reach", None)
    return network if reach is None or job.height * job.width <= most else Tiled(network, job, reach, side)


class Tiled(nn.Module):
    """A network's ``forward``, tile by tile: memory grows with the tile, and only inputs and outputs with the frame.

    Each tile is seen with ``reach`` px of its neighbours, which are computed again and thrown away.
    """

    def __init__(self, network: nn.Module, job: Job, reach: int, side: int) -> None:
        super().__init__()
        self._distinct = Distinct(network, job)
        self._height = job.height
        stride = int(network.stride)  # type: ignore[arg-type]
        self._margin = -(-reach // stride) * stride
        self._rows = tuple(_parts(job.height, side, stride))
        self._columns = tuple(_parts(job.width, side, stride))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for top, bottom in self._rows:
            for left, right in self._columns:
                margin = self._margin
                seen = max(top - margin, 0), bottom + margin, max(left - margin, 0), right + margin
                parts = self._distinct(*(_cut(tensor, self._scale(tensor), *seen) for tensor in inputs))
                if not outputs:
                    outputs = [part.new_empty(shape) for part, shape in zip(parts, self._distinct.shapes, strict=True)]
                inside = top - seen[0], bottom - seen[0], left - seen[2], right - seen[2]
                for output, part in zip(outputs, parts, strict=True):
                    scale = self._scale(output)
                    _cut(output, scale, top, bottom, left, right).copy_(_cut(part, scale, *inside))
        return self._distinct.complete(inputs, outputs)

    def _scale(self, tensor: Tensor) -> int:
        """px of the frame to one of ``tensor``; 0 where it has one value for all of the frame."""
        return 0 if tensor.shape[-2:] == (1, 1) else self._height // tensor.shape[-2]


def _cut(tensor: Tensor, scale: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    """The part of a tensor that lies over these px; all of it where ``scale`` is 0."""
    if scale == 0:
        return tensor
    return tensor[..., top // scale : bottom // scale, left // scale : right // scale]


def _parts(length: int, most: int, stride: int) -> Iterator[tuple[int, int]]:
    """``length``, a multiple of ``stride``, in parts of about one size that are multiples of it as well."""
    count = -(-length // most)
    each = -(-length // (count * stride)) * stride
    for start in range(0, length, each):
        yield start, min(start + each, length)
