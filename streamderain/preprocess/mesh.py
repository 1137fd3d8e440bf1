"""Motion as a mesh of control points, bilinear between, and what is fetched by it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess.image import check_image

Size = tuple[int, int]  # rows and columns

MESH: Size = (9, 13)  # control points, rows and columns; the outermost lie on the centres of the outermost pixels

_Table = TypeVar("_Table")

_kept: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping_tables() -> Iterator[dict[Any, Any]]:
    """Within, on this thread, each table of a GPU is made once and kept in what is yielded.

    Who records what is done here makes them in a step before, and keeps them for as long as the recording is replayed.
    """
    tables: dict[Any, Any] = {}
    token = _kept.set(tables)
    try:
        yield tables
    finally:
        _kept.reset(token)


def per_size(make: Callable[[Size, Size, torch.device], _Table]) -> Callable[[Size, Size, Tensor], _Table]:
    """What ``make`` gives for a frame's size, a mesh's and the device of a tensor; on the CPU made once for each.

    In a graph it is part of the graph, and on a GPU made anew, but within `keeping_tables`: a recording would go on
    reading the memory of a table that is long forgotten here.
    """

    @functools.lru_cache(maxsize=16)
    def once(size: Size, points: Size) -> _Table:
        with torch.inference_mode(False), torch.no_grad():  # for whoever comes next, with gradients or without
            return make(size, points, torch.device("cpu"))

    def get(size: Size, points: Size, like: Tensor) -> _Table:
        if torch.compiler.is_compiling():
            return make(size, points, like.device)
        if like.device.type == "cpu":
            return once(size, points)
        if (tables := _kept.get()) is None:
            return make(size, points, like.device)
        key = make, size, points, like.device
        if key not in tables:
            tables[key] = make(size, points, like.device)
        table: _Table = tables[key]
        return table

    return get


def axis(count: int, device: torch.device) -> Tensor:
    """``count`` places from -1 to 1, the first and the last pixel's centres."""
    if count == 1:
        return torch.zeros(1, device=device, dtype=torch.float32)
    return torch.linspace(-1, 1, count, device=device, dtype=torch.float32)


def _hats(count: int, points: int, device: torch.device) -> Tensor:
    """What each of ``points`` control points along an axis has to say at each of ``count`` places: [count, points]."""
    at = (axis(count, device) + 1) * ((points - 1) / 2)
    return (1 - (at[:, None] - torch.arange(points, device=device)).abs()).clamp_min(0)


def _beside(count: int, device: torch.device) -> Tensor:
    """How often each of ``count`` points in a row is beside each; at both ends one is beside itself: [count, count]."""
    at = torch.arange(count, device=device)
    return sum((((at + step).clamp(0, count - 1)[:, None] == at).float() for step in (-1, 1)), start=at.new_zeros(()))


class Lattice:
    """Meshes of ``points`` (rows, columns) over frames of ``size`` (height, width), made once for many motions.

    All in float32: half precision cannot name a place in a frame to better than half a pixel.
    """

    def __init__(self, size: Size, points: Size, device: torch.device) -> None:
        (height, width), (rows, columns) = size, points
        self.down, self.across = _hats(height, rows, device), _hats(width, columns, device).T  # [h, rows], [columns, w]
        # A mesh is bilinear, so where its points are at rest is as good as where each pixel is.
        self._up, self._back = self.down.T.contiguous(), self.across.T.contiguous()
        self._rest = torch.stack(torch.meshgrid(axis(columns, device), axis(rows, device), indexing="xy"))
        units = (2 / max(count - 1, 1) for count in (width, height))
        self._unit = torch.stack([torch.full((1, 1), unit, device=device, dtype=torch.float32) for unit in units])
        self._from_middle = self._rest / self._unit  # px
        self._place = torch.cat((self._from_middle, torch.ones_like(self._rest[:1]))).flatten(1)
        beside = tuple(_beside(count, device) for count in points)
        eyes = tuple(torch.eye(count, device=device, dtype=torch.float32) for count in points)
        self._around = torch.kron(beside[0], eyes[1]) + torch.kron(eyes[0], beside[1])  # [points, points]

    def affine(self, affine: Tensor) -> Tensor:
        """The mesh [B, 2, rows, columns] of an affine map [B, 2, 3] in px about the middle of the frame."""
        return (affine @ self._place).view(-1, *self._rest.shape) - self._from_middle

    def grid(self, motion: Tensor) -> Tensor:
        """Where each pixel comes from: [B, h, w, 2] (x, y), -1 to 1 from first pixel to last; ``motion`` in px."""
        return (self.down @ torch.addcmul(self._rest, motion.float(), self._unit) @ self.across).permute(0, 2, 3, 1)

    def windows(self, field: Tensor) -> Tensor:
        """[B, C, h, w] added up in the window of each point, where it has a say: [B, C, rows, columns]."""
        return self._up @ field @ self._back

    def neighbours(self, motion: Tensor) -> Tensor:
        """The sum of the four neighbours of each point of [B, 2, rows, columns]; at the border the point itself."""
        return (motion.flatten(2) @ self._around).view_as(motion)


lattice_of = per_size(Lattice)


def fetch(image: Tensor, grid: Tensor) -> Tensor:
    """[B, C, h, w] at the places of ``grid`` [B, h', w', 2], -1..1 as `Lattice.grid` gives them: [B, C, h', w'].

    Bilinear, borders replicated, in the dtype of ``image``.
    """
    fetched = F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return fetched.to(image.dtype)


def warp(image: Tensor, motion: Tensor, *, scale: float = 1.0) -> Tensor:
    """Fetch ``image`` at the places that ``motion`` names, bilinear, borders replicated.

    Args:
        image: [B, C, H, W], any float dtype and range, at ``1 / scale`` of the size that ``motion`` is given for.
        motion: [B, 2, rows, columns] displacement in px (x, y) of control points spread over the frame: what is shown
            at p was at p + motion(p).
        scale: full size over the size of ``image``; 4 for features at a quarter of the resolution.

    Returns:
        [B, C, H, W] in the dtype of ``image``; on the CPU ``image`` itself where nothing moves.

    Raises:
        ValueError: for what is no such image.
    """
    check_image(image)
    if image.device.type == "cpu" and not torch.compiler.is_compiling() and not motion.any():
        return image  # a camera that stands: a third of the work is saved, and what is not resampled stays sharp
    with torch.autocast(image.device.type, enabled=False):  # training's would name the places in eight bits
        lattice = lattice_of((image.shape[-2], image.shape[-1]), (motion.shape[-2], motion.shape[-1]), image)
        return fetch(image, lattice.grid(motion.float() / scale))
