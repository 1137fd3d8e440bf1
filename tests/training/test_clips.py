"""Clips that are trained on: a network sees in them what a session shows it, with all of the rain or a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import warp
from streamderain.runtime import EagerEngine
from streamderain.runtime.parity import moving_texture
from training import data as rendered
from training.clips import thin_rain, unroll
from training.data import Split, align_clip, clean_clip, rain_clip
from training.metrics import psnr
from training.rain import RainStyle


def _rainy() -> Tensor:
    return torch.cat(list(moving_texture(48, 64, 5)))


def test_a_clip_is_run_as_a_session_runs_it_and_what_was_before_a_reset_is_not_seen() -> None:
    torch.manual_seed(0)
    network = StreamingNet((4, 8, 8), (1, 1, 1), (1, 1)).eval()
    network.out.reset_parameters()
    engine, rainy = EagerEngine(network, 48, 64, torch.device("cpu"), torch.float32), _rainy()
    resets = torch.tensor([True, False, True, False, False])[:, None]
    previous, before, motion = (
        torch.cat(parts) for parts in zip(align_clip(rainy[:2]), align_clip(rainy[2:]), strict=True)
    )
    for t in (0, 2):
        previous[t], before[t : t + 2], motion[t] = 0, 0, 3
    expected, state = list[Tensor](), engine.zero_state()
    with torch.inference_mode():
        for frame, forget in zip(rainy[:, None], resets, strict=True):
            clean, state = engine.step(frame, engine.zero_state() if forget else state)
            expected.append(clean)
        found = unroll(
            network.train(), torch.stack((rainy, previous, before, rainy), 1)[:, :, None], motion[:, None], resets
        )
    torch.testing.assert_close(torch.cat(found).clamp(0, 1), torch.cat(expected), atol=1e-5, rtol=0)


def test_thinner_rain_is_thinner_in_the_past_as_well() -> None:
    rainy = _rainy()
    previous, before, motion = align_clip(rainy)
    target = rainy / 2
    pictures = torch.stack((rainy, previous, before, target), 1)[:, :, None].repeat(1, 1, 3, 1, 1, 1)
    pictures[2:, 1:3, 2] = 0.3  # a past that no motion explains
    motion = motion[:, None].repeat(1, 3, 1, 1, 1)
    thinner = thin_rain(pictures, motion, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(thinner[:, :, 2], pictures[:, :, 2]), "all of it is as it was rendered"
    torch.testing.assert_close(thinner[:, 0, 0], target)
    torch.testing.assert_close(thinner[:, 0, 1], 1.5 * target)
    for t, of in ((1, 0), (2, 0), (2, 1), (4, 0), (4, 1)):  # the frame is the last one now, and that is the one before
        torch.testing.assert_close(thinner[t, of + 1, :2], warp(thinner[t - 1, of, :2], motion[t, :2]))


def test_rain_is_drawn_again_until_it_is_seen_and_light_rain_is_left_without_that() -> None:
    clean = torch.full((1, 3, 48, 64), 0.3)

    def seen(visible_share: float) -> int:
        clips = [rain_clip(clean, torch.Generator().manual_seed(s), visible_share=visible_share) for s in range(24)]
        return sum(float(psnr(rainy, target)) < 30 for rainy, target in clips)

    assert seen(1.0) >= 20 > 16 >= seen(0.0)


def test_what_the_camera_adds_is_in_the_rainy_clip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "sample_style", lambda _: RainStyle("dry", gain=4.0))
    clean = torch.full((1, 3, 48, 64), 0.3)
    rainy, target = rain_clip(clean, torch.Generator().manual_seed(0), visible_share=0.0)
    assert torch.equal(target, clean)
    assert float((rainy - clean).std()) > 0.001


def test_a_share_of_the_clips_is_filmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "read_clip", lambda *_, **__: torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(rendered, "simulate_camera", lambda *_: torch.zeros(1))
    monkeypatch.setattr(rendered, "_filmed", lambda *_, **__: torch.ones(1))
    files, generator = Split((Path("a.png"),), (Path("a.mp4"),)), torch.Generator().manual_seed(0)
    clips = [clean_clip(files, generator, frames=1, video_share=0.8, size=(8, 8)) for _ in range(100)]
    assert 70 < int(torch.cat(clips).sum()) < 90
