"""Clips that are trained on: a network sees in them what a session shows it, with all of the rain or a part of it."""

from __future__ import annotations

import torch
from torch import Tensor

from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import warp
from streamderain.runtime import EagerEngine
from streamderain.runtime.parity import moving_texture
from training.clips import thin_rain, unroll
from training.data import align_clip


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
