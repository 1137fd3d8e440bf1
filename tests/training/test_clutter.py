"""Things that look like rain and are none, painted over clean pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.clutter import paint_clutter
from training.data import Split, clean_clip


def _painted(seed: int) -> torch.Tensor:
    return paint_clutter(torch.full((3, 160, 240), 0.3), torch.Generator().manual_seed(seed))


def test_what_is_painted_is_bright_and_covers_a_part_and_is_another_for_another_seed() -> None:
    pictures = [_painted(seed) for seed in range(8)]
    for picture in pictures:
        assert picture.shape == (3, 160, 240)
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert 0.2 < float((picture.amax(0) < 0.32).float().mean()) < 1  # most of the picture is as it was, not all
        assert float(picture.amax()) > 0.4
    assert torch.equal(pictures[0], _painted(0))
    assert not torch.equal(pictures[0], pictures[1])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_the_stills_gets_it_before_the_camera_films_them(tmp_path: Path, share: float) -> None:
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((400, 600, 3), 60, np.uint8))
    files = Split((tmp_path / "flat.png",), ())
    clips = [
        clean_clip(
            files,
            torch.Generator().manual_seed(seed),
            frames=2,
            video_share=0.0,
            size=(96, 128),
            clutter_share=share,
        )
        for seed in range(6)
    ]
    assert any(float(clip.amax()) > 0.4 for clip in clips) == bool(share)
