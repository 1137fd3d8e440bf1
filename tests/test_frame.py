"""Frames and what is known of a video: times are exact, and what makes no sense is refused where it is said."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch

from streamderain.frame import Frame, VideoInfo
from streamderain.video.probe import Orientation, picture_info
from streamderain.yuv import YuvFormat, YuvFrame

PIXELS = torch.zeros(2, 4, 3, dtype=torch.uint8)
TICK = Fraction(1, 25)


def _yuv(pts: Any, time_base: Any, duration: Any = None) -> YuvFrame:
    planes = tuple(torch.zeros(2, 4, dtype=torch.uint8) for _ in range(3))
    return YuvFrame(planes, YuvFormat("yuv444p", 1), pts, time_base, duration)


def _rgb(pts: Any, time_base: Any, duration: Any = None) -> Frame:
    return Frame(PIXELS, pts, time_base, duration)


@pytest.mark.parametrize("make", [_rgb, _yuv])
def test_times_of_a_frame_are_exact(make: Any) -> None:
    frame = make(np.int64(3), 1, np.int32(2))
    assert [type(value) for value in (frame.pts, frame.time_base, frame.duration)] == [int, Fraction, int]
    assert (frame.pts, frame.time_base, frame.duration) == (3, 1, 2)
    for wrong, said in (
        ((0.5, TICK), r"pts .*0\.5"),
        ((None, TICK), "pts .*None"),
        ((0, 1 / 25), r"time_base .*0\.04"),
        ((0, Fraction(0)), "time_base .*Fraction"),
        ((0, -TICK), "time_base .*-1, 25"),
        ((0, TICK, 1.0), r"duration .*1\.0"),
    ):
        with pytest.raises(ValueError, match=said):
            make(*wrong)


def test_a_video_has_a_size_a_rate_and_quarter_turns() -> None:
    info = VideoInfo(np.int64(64), 48, TICK, frame_rate=30)
    assert (info.frame_rate, type(info.frame_rate), type(info.width)) == (30, Fraction, int)
    assert VideoInfo(64, 48, TICK, rotation=270, chroma="444").frame_rate is None
    for name, wrong in (
        ("width", 0),
        ("height", 4.5),
        ("time_base", 0.04),
        ("frame_rate", 29.97),
        ("frame_rate", 0),
        ("sample_aspect_ratio", -1),
        ("rotation", 45),
        ("rotation", -90),
        ("chroma", "411"),
    ):
        given: dict[str, Any] = {"width": 64, "height": 48, "time_base": TICK, name: wrong}
        with pytest.raises(ValueError, match=f"{name} .*{wrong}"):
            VideoInfo(**given)


def test_a_rate_and_a_shape_of_pixels_that_no_video_has_are_unknown() -> None:
    told = {"rate": Fraction(-25), "aspect": Fraction(-1, 2), "time_base": TICK, "count": None}
    info = picture_info(av.VideoFrame(64, 48, "yuv420p"), "h264", turned=Orientation(0, mirrored=False), **told)
    assert (info.frame_rate, info.sample_aspect_ratio) == (None, 1)
