"""The figures of held-out clips, of a derainer that takes half of the rain."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.session import Session
from training.evaluate import evaluate
from training.rain import RainStyle, render_rain, sample_style
from training.synthesise import add_rain, to_tensor


def test_figures_are_before_and_after_of_each_kind_of_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = set[Session]()

    def halfway_down_to_100(session: Session, frame: Frame) -> Frame:
        sessions.add(session)
        return replace(frame, pixels=((frame.pixels.int() + 100) // 2).byte())

    monkeypatch.setattr(Session, "step", halfway_down_to_100)
    target = torch.full((2, 3, 16, 16), 100 / 255)

    def brighter(first: int, last: int) -> Tensor:
        return target + torch.tensor([first, last])[:, None, None, None] / 255

    clips = [("stills", brighter(10, 20)), ("stills", brighter(20, 40)), ("videos", brighter(2, 2))]
    figures = evaluate([(kind, rainy, target) for kind, rainy in clips], Derainer("identity", device="cpu"))
    assert len(sessions) == 3, "each clip begins anew"
    stills, db = figures["stills"], 3.01  # half the error is 6.02 dB less, and the other clip and frame have twice
    assert stills["psnr_in"] == pytest.approx(28.13 - 2 * db, abs=0.01)
    assert stills["psnr_out"] == pytest.approx(34.15 - 2 * db, abs=0.01)
    assert (stills["psnr_out_first"], stills["psnr_out_last"]) == pytest.approx((34.15 - db, 28.13 - db), abs=0.01)
    luma = 1.32  # dB; white is 219 levels above black
    assert stills["psnr_y_in"] == pytest.approx(stills["psnr_in"] + luma, abs=0.01)
    assert stills["psnr_y_out"] == pytest.approx(stills["psnr_out"] + luma, abs=0.01)
    assert (stills["temporal_in"], stills["temporal_out"]) == pytest.approx((15.0, 7.5), abs=0.01)
    assert stills["ssim_in"] < stills["ssim_out"] < 1
    assert figures["videos"]["psnr_out"] == pytest.approx(48.13, abs=0.01)
    assert (stills["clips"], figures["videos"]["clips"]) == (2, 1)


def test_rain_over_a_video_is_the_renderers_at_its_frame_rate() -> None:
    frames = [Frame(torch.full((48, 64, 3), 60, dtype=torch.uint8), pts, Fraction(1, 50)) for pts in range(3)]
    style = replace(sample_style(torch.Generator().manual_seed(1), family="physical"), veil=0.0)
    clean = torch.stack([to_tensor(frame) for frame in frames])
    expected, _ = render_rain(clean, style, torch.Generator().manual_seed(3), frame_rate=50.0)
    rainy = torch.stack([to_tensor(frame) for frame in add_rain(frames, seed=3, style=style, frame_rate=50.0)])
    torch.testing.assert_close(rainy, expected, atol=0.51 / 255, rtol=0)
    dry = add_rain(frames, seed=3, style=RainStyle("dry"))
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(dry, frames, strict=True))
