"""What the frames before show where a frame is: laid on it by motion, and dropped at a cut."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from streamderain.preprocess.mesh import MESH, warp
from streamderain.preprocess.motion import estimate_motion
from streamderain.preprocess.scene import same_scene


class Past(NamedTuple):
    """The past of one frame, as far as no network is needed to know it.

    Attributes:
        motion: [B, 2, 9, 13] px into the last frame, for what else is to be laid on this one.
        previous, before: [B, 3, H, W] the last frame and the one before, laid on this one; the frame itself where
            ``keep`` is 0.
        keep: [B, 1, 1, 1], 0 where there is no past: at the start and after a cut; else 1.
    """

    motion: Tensor
    previous: Tensor
    before: Tensor
    keep: Tensor


def look_back(rainy: Tensor, previous: Tensor, before: Tensor, keep: Tensor) -> Past:
    """Find the motion into the last frame and lay the past on the present.

    Args:
        rainy: [B, 3, H, W], 0..1, H and W at least 16 px.
        previous, before: [B, 3, H, W], the last frame, and what was ``previous`` to it, laid on that.
        keep: [B, 1, 1, 1], 0 where these are no past of this frame.
    """
    on_cpu = rainy.device.type == "cpu" and not torch.compiler.is_compiling()  # where a value can be asked for
    if on_cpu and not keep.any():
        return Past(rainy.new_zeros(rainy.shape[0], 2, *MESH, dtype=torch.float32), rainy, rainy, keep)
    motion = estimate_motion(rainy, previous, before)
    pictures = warp(torch.cat((previous, before), 1), motion)
    keep = keep * same_scene(rainy, pictures[:, :3]).to(keep.dtype)[:, None, None, None]
    previous, before = torch.split(pictures, 3, 1)
    if not on_cpu or not keep.all():
        previous, before = torch.lerp(rainy, previous, keep), torch.lerp(rainy, before, keep)
    return Past(motion, previous, before, keep)
