"""What is done to frames before a network sees them: pure torch functions, batched, on any device."""

from __future__ import annotations

from streamderain.preprocess.motion import MESH, estimate_motion, same_scene, warp

__all__ = ["MESH", "estimate_motion", "same_scene", "warp"]
