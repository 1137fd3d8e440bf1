"""Large frames in tiles: the pictures and states that the whole gives, of any shape, and nothing for the others."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from streamderain.networks import NetworkSpec
from streamderain.runtime import EagerEngine, backend_of
from streamderain.runtime.backend import Job
from streamderain.runtime.step import example_inputs
from streamderain.runtime.tiles import in_tiles
from streamderain.session import job_for

_SIZES: list[Mapping[str, Any]] = [
    {"channels": [4, 4, 8]},
    {"channels": [4, 4, 8], "encoder_blocks": [2, 1, 1], "decoder_blocks": [1, 2]},
    {"channels": [4, 4, 8], "encoder_blocks": [1, 2, 3], "decoder_blocks": [2, 1]},
]


def _job(options: Mapping[str, Any], height: int, width: int) -> Job:
    torch.manual_seed(0)
    spec = NetworkSpec("streaming", options)
    network = spec.build().eval()
    with torch.no_grad():  # so that what is far away is felt
        for parameter in network.parameters():
            parameter.abs_().mul_(2)
    return replace(job_for("fast"), network=network, spec=spec, height=height, width=width)


def _exact(job: Job) -> nn.Module:
    """In double precision, and not clamped."""
    return copy.deepcopy(job.network).double().train()


def _inputs(job: Job) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.rand(part.shape, generator=generator, dtype=torch.double) for part in example_inputs(job)]
    inputs[-1] = torch.ones_like(inputs[-1])  # a past that counts
    return inputs


@pytest.mark.parametrize("options", _SIZES)
@pytest.mark.parametrize(("height", "width"), [(216, 328), (16, 600), (264, 8)])
def test_tiles_give_what_the_whole_gives(options: Mapping[str, Any], height: int, width: int) -> None:
    job = _job(options, height, width)
    inputs = _inputs(job)
    network = _exact(job)
    with torch.inference_mode():
        whole = network(*inputs)
        tiles = in_tiles(network, job, most=1, side=72)(*inputs)
    assert len(whole) == len(tiles)
    for expected, got in zip(whole, tiles, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_reach_is_as_far_as_the_shipped_network_sees() -> None:
    job = replace(job_for("fast"), height=216, width=328)
    inputs, network = _inputs(job), _exact(job)
    errors = []
    with torch.inference_mode():
        whole = network(*inputs)[0]
        for less in (0, 8):
            network.reach -= less  # type: ignore[operator]
            errors.append((whole - in_tiles(network, job, most=1, side=72)(*inputs)[0]).abs().max())
    assert errors[0] < 1e-12
    assert errors[1] > 1e-7


def test_a_network_that_sees_all_of_the_picture_is_never_tiled() -> None:
    job = replace(job_for("paper-b"), height=64, width=64)
    assert in_tiles(job.network, job, most=1) is job.network


def test_frames_of_usual_sizes_go_through_whole() -> None:
    job = job_for("fast")
    for height, width, whole in ((2160, 3840, True), (2304, 4096, True), (2312, 4096, False), (4000, 6000, False)):
        frame = replace(job, height=height, width=width)
        assert (in_tiles(frame.network, frame) is frame.network) == whole


def test_a_session_of_large_frames_gives_what_a_whole_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(job_for("fast"), height=160, width=224)
    whole = backend_of("eager").load(job, Path())
    large = functools.partial(in_tiles, most=1, side=96)  # as if the frames were
    monkeypatch.setattr("streamderain.runtime.eager.in_tiles", large)
    tiled = backend_of("eager").load(job, Path())
    assert isinstance(whole, EagerEngine)
    assert isinstance(tiled, EagerEngine)
    states = whole.zero_state(), tiled.zero_state()
    generator = torch.Generator().manual_seed(2)
    picture = torch.rand(1, 3, 20, 28, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.inference_mode():
        for _ in range(3):
            frame = (picture + 0.2 * torch.rand(picture.shape, generator=generator)).clamp(0, 1)
            expected, first = whole.step(frame, states[0])
            got, second = tiled.step(frame, states[1])
            states = first, second
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
