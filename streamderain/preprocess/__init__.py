"""What is done to frames before a network sees them: pure torch functions, batched, on any device."""

from __future__ import annotations

from streamderain.preprocess.bilateral import BilateralSplit, bilateral_detail, bilateral_filter
from streamderain.preprocess.guided import GuidedSplit, guided_filter
from streamderain.preprocess.motion import MESH, estimate_motion, same_scene, warp
from streamderain.preprocess.padding import reflect_pad
from streamderain.preprocess.past import Past, look_back
from streamderain.preprocess.rlcn import RLCN, rlcn

__all__ = [
    "MESH",
    "RLCN",
    "BilateralSplit",
    "GuidedSplit",
    "Past",
    "bilateral_detail",
    "bilateral_filter",
    "estimate_motion",
    "guided_filter",
    "look_back",
    "reflect_pad",
    "rlcn",
    "same_scene",
    "warp",
]
