from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.video import write_still
from training.data import Split, clean_clip
from training.foreground import KINDS, lay_foreground


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _laid(seed: int, kind: str | None = None) -> Tensor:
    """White things over a grey clip."""
    return lay_foreground(torch.full((4, 3, 96, 128), 0.5), torch.ones(3, 40, 60), _generator(seed), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_it_covers_a_part_of_the_scene_and_leaves_the_rest(kind: str) -> None:
    clips = [_laid(seed, kind) for seed in range(8)]
    for clip in clips:
        assert clip.shape == (4, 3, 96, 128)
        assert 0 <= clip.min() <= clip.max() <= 1
    untouched = torch.stack([(clip - 0.5).abs() < 1e-3 for clip in clips]).float().mean()
    assert 0.2 < untouched < 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_by_itself(kind: str) -> None:
    moved = [float((clip[0] - clip[1]).abs().max()) for clip in (_laid(seed, kind) for seed in range(8))]
    assert sorted(moved)[4] > 0.2  # of a scene that stands still


def test_same_seed_same_thing() -> None:
    torch.testing.assert_close(_laid(3), _laid(3), rtol=0, atol=0)
    assert not torch.equal(_laid(3), _laid(4))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves, bars, body"):
        _laid(0, "umbrella")


def test_a_share_of_the_clips_gets_it(tmp_path: Path) -> None:
    grey = torch.full((200, 240, 3), 128, dtype=torch.uint8)
    write_still(tmp_path / "still.png", Frame(grey, 0, Fraction(1), 1))
    files = Split((tmp_path / "still.png",), ())

    def clip(share: float) -> Tensor:
        return clean_clip(files, _generator(1), frames=2, video_share=0.0, size=(96, 128), foreground_share=share)

    assert clip(0.0).std() < 1e-3
    assert clip(1.0).std() > 0.01
