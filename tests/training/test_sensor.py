"""The camera's noise and compression: another noise in each frame, compressed afterwards, the colours as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.rain import RainStyle
from training.sensor import compress, degrade, to_linear


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_noise_is_another_in_each_frame_and_channel_and_grows_with_the_light() -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    grey[..., 32:] = 0.2
    gain = 4.0
    noise = to_linear(degrade(grey, RainStyle("dry", gain=gain), _generator())) - to_linear(grey)
    alike = np.corrcoef(noise[..., :32].flatten(2).flatten(0, 1).numpy())
    assert np.abs(alike - np.eye(6)).max() < 0.15
    for half, level in ((noise[..., :32], 0.2140), (noise[..., 32:], 0.0331)):  # of IEC 61966-2-1's 0.5 and 0.2
        expected = 2e-4 * gain * level + (1.5e-3 * gain) ** 2
        assert float(half.var()) == pytest.approx(expected, rel=0.1)


def test_what_is_compressed_is_the_noise_as_well() -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    noisy, both = (degrade(grey, RainStyle("dry", gain=4.0, crf=crf), _generator()) for crf in (None, 40))
    assert float(both.std()) < 0.3 * float(noisy.std())


def test_compression_keeps_colours_up_to_the_last_row_and_column() -> None:
    clip = torch.empty(8, 3, 49, 63)
    for half, colour in ((clip[..., :32], (0.8, 0.3, 0.2)), (clip[..., 32:], (0.2, 0.5, 0.9))):
        half[:] = torch.tensor(colour)[:, None, None]
    off = (compress(clip, crf=18) - clip).abs()
    assert float(off[..., :28].max()) < 0.03
    assert float(off[..., 36:].max()) < 0.03
