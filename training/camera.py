"""A moving camera over a still photograph: clean clips where there is no clean footage."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import UsageError

__all__ = ["KINDS", "simulate_camera", "smallest_still"]

KINDS = ("still", "pan", "driving", "shake", "pan+shake", "driving+shake")
_SHARES = (0.12, 0.22, 0.22, 0.12, 0.14, 0.18)

_TOP_SPEED = 12.0  # px a frame
_LARGEST_UPSCALE = 1.3  # a small still may be enlarged so much; beyond it there is no texture left to learn from
_STRETCH = 0.9  # how much driving may enlarge what it comes near to, for the same reason
_BORDER = 2.0  # px of the still around every sample, so that bicubic taps never leave it


def smallest_still(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width, px, that a still has at least to be filmed in frames of ``size``, height and width."""
    height, width = (math.ceil(n / _LARGEST_UPSCALE + 1 + 2 * _BORDER) for n in size)
    return height, width


def simulate_camera(
    still: Tensor, frames: int, size: tuple[int, int], generator: torch.Generator, *, kind: str | None = None
) -> Tensor:
    """Film a still with a moving camera. Every sample comes from inside the still.

    Where the still is too small for the motion drawn by lot, it is first enlarged (at most 1.3 times), then the
    motion is reduced until it fits.

    Args:
        still: [3, H, W] float 0..1, on any device.
        frames: number of frames, at least 1.
        size: height and width of a frame, px.
        generator: the only source of chance; on any device.
        kind: one of ``KINDS``; None draws one by lot. "driving" flows out of a vanishing point, faster the nearer
            the ground and the walls beside the road would be.

    Returns:
        [frames, 3, h, w], dtype and device of ``still``, 0..1. Speeds go up to 12 px a frame.

    Raises:
        ValueError: if an argument is out of its range, or ``still`` is too small even when enlarged.
    """
    if still.ndim != 3 or still.shape[0] != 3 or not still.is_floating_point():
        raise ValueError(f"still must be floating point [3, H, W], got {still.dtype} {tuple(still.shape)}")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    height, width = size
    room = min((still.shape[1] - 1 - 2 * _BORDER) / height, (still.shape[2] - 1 - 2 * _BORDER) / width)
    least = smallest_still(size)
    if height < 1 or width < 1 or still.shape[1] < least[0] or still.shape[2] < least[1]:
        raise UsageError(f"size {size} does not fit a still of {tuple(still.shape[1:])} enlarged {_LARGEST_UPSCALE}x")

    lot = torch.rand(16, generator=generator, device=generator.device, dtype=torch.float64).cpu().tolist()
    hand = torch.randn(3, frames, generator=generator, device=generator.device).cpu()
    chosen = kind if kind is not None else _pick(lot[0])
    # A fifth of the way towards the largest possible crop is kept free for motion, as far as enlarging allows.
    scale = min(1.0, max(room * 0.8, 1 / _LARGEST_UPSCALE))

    rows = torch.arange(height, dtype=torch.float32).view(1, height, 1) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32).view(1, 1, width) - (width - 1) / 2
    place = torch.stack(
        [columns.expand(1, height, width), rows.expand(1, height, width)], dim=-1
    )  # [1, h, w, 2], x and y from the middle, px
    moved = torch.zeros(frames, 1, 1, 2)
    if "pan" in chosen:
        moved = moved + _pan(frames, lot[1:5])
    if "driving" in chosen:
        moved = moved + _drive(place, frames, lot[5:12])
    if "shake" in chosen:
        moved = moved + _shake(place, hand, lot[12:14])
    place, moved = place * scale, moved * scale
    limit = torch.tensor([still.shape[2] - 1 - 2 * _BORDER, still.shape[1] - 1 - 2 * _BORDER])
    for _ in range(64):
        path = place + moved
        low, high = path.amin((0, 1, 2)), path.amax((0, 1, 2))
        if bool((high - low <= limit).all()):
            break
        moved = moved * 0.85
    else:
        path, low, high = place.expand(frames, -1, -1, -1), place.amin((0, 1, 2)), place.amax((0, 1, 2))
    path = path - low + _BORDER + (limit - (high - low)).clamp(min=0) * torch.tensor(lot[14:16])
    path = path.clamp(min=0)  # against rounding only

    extent = torch.tensor([still.shape[2] - 1.0, still.shape[1] - 1.0])
    grid = (path / extent * 2 - 1).expand(frames, height, width, 2).to(still)
    clip = F.grid_sample(still.unsqueeze(0).expand(frames, -1, -1, -1), grid, mode="bicubic", align_corners=True)
    return clip.clamp(0, 1)


def _pick(draw: float) -> str:
    for kind, share in zip(KINDS, _SHARES, strict=True):
        if draw < share:
            return kind
        draw -= share
    return KINDS[-1]


def _pan(frames: int, lot: list[float]) -> Tensor:
    """[T, 1, 1, 2] px: mostly sideways, gently speeding up or slowing down."""
    speed = _TOP_SPEED * lot[0] ** 1.5
    heading = (lot[1] - 0.5) * 1.2 + (math.pi if lot[2] < 0.5 else 0.0)
    time = torch.arange(frames, dtype=torch.float32)
    travelled = speed * (time + (lot[3] - 0.5) * 0.5 * time * time / frames)
    return torch.stack([travelled * math.cos(heading), travelled * math.sin(heading)], dim=1).view(frames, 1, 1, 2)


def _drive(place: Tensor, frames: int, lot: list[float]) -> Tensor:
    """[T, h, w, 2] px: where a pixel was at the start, seen in a corridor with an end that the camera drives along.

    A point at inverse depth w that is seen at P (from the vanishing point) after the way s was seen at
    P / (1 + s·w) before. On the ground w grows with the height below the horizon, on a wall with the distance
    beside it; the corridor's edges are rounded, since a photograph has none.
    """
    height, width = place.shape[1:3]
    centre = torch.tensor([(lot[0] - 0.5) * 2.0 * width, (lot[1] - 0.5) * 1.4 * height])
    seen = place - centre
    corner = float(seen.norm(dim=-1).amax())
    end, ground, wall = 0.15 + 0.5 * lot[2], 0.4 + 0.6 * lot[3], 0.2 + 0.8 * lot[4]
    inverse: Tensor = torch.sqrt(end**2 + (ground * seen[..., 1] / corner) ** 2 + (wall * seen[..., 0] / corner) ** 2)
    fastest = float((seen.norm(dim=-1) * inverse).amax())
    speed = (1.0 + (_TOP_SPEED - 1.0) * lot[5] ** 1.5) / fastest
    speed = min(speed, _STRETCH / (frames * float(inverse.amax())))
    way = torch.arange(frames, dtype=torch.float32).view(frames, 1, 1) * speed
    if lot[6] < 0.15:  # reversing, or looking out of the rear window
        way = way.flip(0)
    moved: Tensor = seen * (1 / (1 + way * inverse) - 1).unsqueeze(-1)
    return moved


def _shake(place: Tensor, hand: Tensor, lot: list[float]) -> Tensor:
    """[T, h, w, 2] px: a hand's tremble: position and roll follow damped noise."""
    reach = 0.3 * (10.0 ** lot[0])  # 0.3..3 px a frame
    damping = 0.5 + 0.4 * lot[1]
    state, speed = torch.zeros(3), torch.zeros(3)
    track = []
    for kick in hand.T:
        speed = damping * speed + kick
        state = 0.9 * state + speed
        track.append(state)
    x, y, roll = (torch.stack(track) * reach * (1 - damping)).T.view(3, -1, 1, 1)
    turn = (roll * 2e-3).clamp(-0.04, 0.04)
    rolled = torch.stack([x - turn * place[..., 1], y + turn * place[..., 0]], dim=-1)
    return rolled - rolled[:1]
