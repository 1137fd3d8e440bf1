"""What a frame is shown of the frames before it, across motion, starts and cuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess import look_back


def _scene(seed: int) -> Tensor:
    cells = torch.rand(1, 3, 30, 50, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, (120, 240), mode="bicubic").clamp(0, 1)


def test_the_past_is_laid_on_the_frame_and_is_the_frame_itself_at_a_start_and_after_a_cut() -> None:
    """Three streams: one goes on, one begins, one is cut; the camera moves by more than the details are large."""
    scene = _scene(1)
    frame, last = scene[..., 48:208], scene[..., 36:196]
    other = 1 - _scene(2)[..., :160]
    keep = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    older = torch.cat((last, last, other))
    past = look_back(frame.expand(3, -1, -1, -1), older, older.flip(1), keep)  # another colour before
    assert past.keep.flatten().tolist() == [1, 0, 0]
    for laid, expected in ((past.previous, frame), (past.before, frame.flip(1))):
        assert (laid[0] - expected[0])[..., 8:-24].abs().max() < 0.05
        assert torch.equal(laid[1:], frame.expand(2, -1, -1, -1))
    assert (past.motion[0] - torch.tensor([12.0, 0.0])[:, None, None])[:, 1:-1, 1:-1].abs().max() < 0.3


def test_a_stream_that_begins_has_no_motion() -> None:
    frame, unlike = _scene(1)[..., :160], _scene(2)[..., :160]
    past = look_back(frame, unlike, unlike, torch.zeros(1, 1, 1, 1))
    assert not past.motion.any()
    assert torch.equal(past.previous, frame)
    assert torch.equal(past.before, frame)
    assert not past.keep.any()
