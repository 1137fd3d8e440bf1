"""How much rain is left where nobody knows the truth: flicker and streak energy of real clips, and the detail kept.

All three look at a frame between its neighbours, laid on it by the motion of the *rainy* clip, so that every method is
judged under the same alignment. None says that a picture is right; together they say that something which came and
went is gone (flicker, streaks) and that it was not gone by blurring (detail).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess import estimate_motion, same_scene, warp

_LENGTH = 9  # px of the line that a streak must hold
_LEAN = math.radians(35)  # from vertical, either way
_ORIENTATIONS = 5
_SMOOTH = 15  # px of the box that slow changes are measured over, which are light and no rain
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a clip shows of rain; 8-bit levels of luma, means over frames that have both neighbours.

    Attributes:
        flicker: mean |x - (a + b) / 2| where a and b are the aligned neighbours, less its local mean: the second
            difference over time that a still scene does not have (in the spirit of the warping error of Lai et al.,
            "Learning Blind Video Temporal Consistency", ECCV 2018).
        streaks: mean of what is brighter than *both* aligned neighbours (the photometric constraint of Garg & Nayar,
            "Detection and Removal of Rain from Videos", CVPR 2004) and holds a thin line of 9 px within 35 degrees of
            vertical; sensor noise holds none.
        detail: mean gradient of the aligned temporal median, in which rain has no part. Compare it with the rainy
            clip's: less is blurred.
    """

    flicker: float
    streaks: float
    detail: float


def neighbours(rainy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Motion of a clip [T, 3, H, W], 0..1, that lays each inner frame's neighbours on it.

    Returns:
        from the frame before and from the frame after [T - 2, 2, 9, 13], and [T - 2] bool: no cut is between the three.
    """
    if rainy.ndim != 4 or rainy.shape[0] < 3:
        raise ValueError(f"a clip has at least three frames [T, 3, H, W], got {tuple(rainy.shape)}")
    before, after, whole = [], [], []
    for t in range(1, rainy.shape[0] - 1):
        x, a, b = (rainy[i : i + 1] for i in (t, t - 1, t + 1))
        before.append(estimate_motion(x, a))
        after.append(estimate_motion(x, b))
        same = same_scene(x, warp(a, before[-1])) * same_scene(x, warp(b, after[-1]))
        whole.append(same.bool())
    return torch.cat(before), torch.cat(after), torch.cat(whole)


def traces(clip: Tensor, motion: tuple[Tensor, Tensor, Tensor]) -> Traces:
    """What is to be seen of rain in a clip [T, 3, H, W], 0..1, rainy or derained.

    Args:
        motion: of the rainy clip, from ``neighbours``.

    Raises:
        ValueError: the clip is cut in so many places that no frame has both neighbours.
    """
    before, after, whole = motion
    if not bool(whole.any()):
        raise ValueError("no frame of the clip has both neighbours in one scene")
    grey = (clip * clip.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True) * 255
    x = grey[1:-1][whole]
    a, b = warp(grey[:-2], before)[whole], warp(grey[2:], after)[whole]
    second = x - (a + b) / 2
    median = torch.maximum(torch.minimum(x, a), torch.minimum(torch.maximum(x, a), b))
    across, down = median.diff(dim=-1).abs().mean(), median.diff(dim=-2).abs().mean()
    return Traces(
        flicker=float((second - _box(second)).abs().mean()),
        streaks=float(_lines((x - torch.maximum(a, b)).clamp_min(0)).mean()),
        detail=float(across + down),
    )


def _box(image: Tensor) -> Tensor:
    margin = _SMOOTH // 2
    return F.avg_pool2d(F.pad(image, (margin,) * 4, mode="replicate"), _SMOOTH, stride=1)


def _lines(spikes: Tensor) -> Tensor:
    """[B, 1, H, W] >= 0 opened by lines near vertical, less what a line across holds too."""
    steep = [_open(spikes, lean) for lean in torch.linspace(-_LEAN, _LEAN, _ORIENTATIONS).tolist()]
    return (torch.stack(steep).amax(0) - _open(spikes, math.pi / 2)).clamp_min(0)


def _open(image: Tensor, lean: float) -> Tensor:
    """Grey opening by a line of 9 px that leans from vertical by ``lean`` rad: an erosion, then a dilation."""
    reach = _LENGTH // 2
    offsets = [(round(k * math.cos(lean)), round(k * math.sin(lean))) for k in range(-reach, reach + 1)]
    return _extreme(-_extreme(-image, offsets), [(-y, -x) for y, x in offsets])


def _extreme(image: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    """The largest of the image moved by each offset (y, x); what is outside has no say."""
    reach = _LENGTH // 2
    padded = F.pad(image, (reach,) * 4, value=-math.inf)
    height, width = image.shape[-2:]
    best = torch.full_like(image, -math.inf)
    for y, x in offsets:
        best = torch.maximum(best, padded[..., reach + y : reach + y + height, reach + x : reach + x + width])
    return best
