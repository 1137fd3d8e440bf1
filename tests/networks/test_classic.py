"""The filter that learned nothing: streaks go, dry pictures and cuts stay, and engines can take it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from streamderain import Derainer, Frame
from streamderain.networks import describe, list_models, model_names
from streamderain.networks.classic import Classic
from training.evaluate import derain_clip
from training.metrics import psnr, to_8bit
from training.scene import street


def _scene(seed: int = 7) -> Tensor:
    return to_8bit(next(street(1, (96, 128), seed=seed)))


def _streaked(scene: Tensor, frames: int, *, count: int = 40) -> Tensor:
    """A standing scene with bright vertical streaks that are elsewhere in every frame."""
    clip = scene.expand(frames, -1, -1, -1).clone()
    random = np.random.default_rng(0)
    for picture in clip:
        for _ in range(count):
            y, x = int(random.integers(scene.shape[1] - 14)), int(random.integers(scene.shape[2] - 1))
            picture[:, y : y + 14, x : x + 2] += 0.4
    return to_8bit(clip)


def test_streaks_that_last_a_frame_are_gone_from_the_third_frame_on() -> None:
    scene = _scene()
    rainy = _streaked(scene, 6)
    clean = derain_clip(rainy, Derainer("classic", device="cpu", backend="eager"))
    before, after = psnr(rainy, scene.expand_as(rainy)), psnr(clean, scene.expand_as(clean))
    assert torch.equal(clean[0], rainy[0]), "without a past the frame passes"
    assert after[2:].min() > before[2:].max() + 8


def test_it_is_numpys_minimum_where_it_rains_and_nothing_where_it_does_not() -> None:
    torch.manual_seed(0)
    x, p, b = torch.rand(3, 1, 3, 64, 64).unbind(0)
    one = torch.ones(1, 1, 1, 1)
    spikes = torch.maximum(x, torch.maximum(p, b) + 0.05)
    dips = torch.minimum(x, torch.minimum(p, b) - 0.05)
    with torch.inference_mode():
        rain, dry = Classic()(spikes, p, b, one)[0], Classic()(dips, p, b, one)[0]
    np.testing.assert_allclose(rain.numpy(), np.minimum(p.numpy(), b.numpy()), atol=1e-6)
    np.testing.assert_array_equal(dry.numpy(), dips.numpy())


def test_dry_video_with_a_noisy_sensor_is_not_darkened_much() -> None:
    scene = _scene()
    noisy = to_8bit(scene + 0.004 * torch.randn(5, *scene.shape, generator=torch.Generator().manual_seed(0)))
    assert psnr(derain_clip(noisy, Derainer("classic", device="cpu", backend="eager")), noisy)[1:].min() > 45


def test_a_cut_leaves_no_trace_of_the_scene_before() -> None:
    one, other = _streaked(_scene(7), 4), _streaked(_scene(8).flip(-1).roll(40, -1) * 0.6 + 0.3, 3)
    derainer = Derainer("classic", device="cpu", backend="eager")
    joined = derain_clip(torch.cat((one, other)), derainer)
    assert torch.equal(joined[4:], derain_clip(other, derainer))


def test_it_is_a_model_with_a_name_and_no_weights() -> None:
    assert "classic" in model_names()
    card = describe("classic")
    assert (card.parameters, card.sha256) == (0, None)
    assert "classic" in [c.name for c in list_models()]
    frame = Frame(torch.full((19, 30, 3), 9000, dtype=torch.uint16), pts=5, time_base=Fraction(1, 25))
    assert torch.equal(
        Derainer("classic", device="cpu", backend="eager").session(19, 30).step(frame).pixels.int(), frame.pixels.int()
    )
