"""What is done to frames before a network sees them: pure torch functions, batched, on any device."""

from __future__ import annotations

from streamderain.preprocess.bilateral import BilateralSplit, bilateral_detail
from streamderain.preprocess.guided import GuidedSplit, guided_filter
from streamderain.preprocess.mesh import MESH, keeping_tables, warp
from streamderain.preprocess.motion import estimate_motion
from streamderain.preprocess.padding import reflect_pad
from streamderain.preprocess.past import Past, look_back
from streamderain.preprocess.rlcn import RLCN, rlcn
from streamderain.preprocess.scene import same_scene

__all__ = [
    "MESH",
    "RLCN",
    "BilateralSplit",
    "GuidedSplit",
    "Past",
    "bilateral_detail",
    "estimate_motion",
    "guided_filter",
    "keeping_tables",
    "look_back",
    "reflect_pad",
    "rlcn",
    "same_scene",
    "warp",
]
