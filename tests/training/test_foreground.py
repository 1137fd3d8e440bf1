from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.video import write_still
from training import foreground
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


def _disc(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """In the middle, and an eighth of the frame's height wide."""
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    return (size[0] / 32 + 0.5 - torch.hypot(x, y)).clamp(0, 1)[None]


@pytest.mark.parametrize("kind", ["body", "posts"])
def test_it_moves_and_grows_by_no_more_than_documented(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, f"_{kind}", _disc)
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(320.0), indexing="ij")
    moves, growths = [], []
    for seed in range(24):
        clip = lay_foreground(torch.zeros(3, 3, 160, 320), torch.ones(3, 9, 9), _generator(seed), kind=kind)
        mass = clip[:, 0].sum((1, 2))
        middle = torch.stack([(clip[:, 0] * axis).sum((1, 2)) / mass for axis in (x, y)], 1)
        assert torch.allclose(middle[1], torch.tensor([159.5, 79.5]), atol=0.05)
        assert 19 < 2 * float((clip[1, 0] > 0.5 * clip[1, 0].max()).sum() / np.pi) ** 0.5 < 22
        moves.append((middle[2] - middle[0]) / 2)
        growths.append(float(mass[2] / mass[0]) ** 0.25)
    speeds = [float(move.norm()) for move in moves]
    assert 10 < max(speeds) < 16.1
    assert 0.965 < min(growths) < 0.99
    assert 1.01 < max(growths) < 1.035
    across, down = torch.stack(moves).T
    assert len({*across.sign().tolist()}) == 2, "to either side"
    if kind == "posts":
        assert bool((down.abs() < 0.2 * across.abs() + 0.05).all())
    else:
        assert bool((down.abs() > across.abs()).any())


def test_what_it_looks_like_is_repeated_by_reflection_and_mostly_in_the_shade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "_body", lambda size, generator: torch.ones(1, *size))
    texture = 0.5 + 0.4 * torch.rand(3, 11, 14, generator=_generator(0))
    tiled = np.pad(texture.numpy(), ((0, 0), (0, 60), (0, 80)), mode="reflect")
    every = np.lib.stride_tricks.sliding_window_view(tiled, (3, 20, 30))[0, :20, :26].reshape(520, -1)
    lights = []
    for seed in range(12):
        seen = lay_foreground(torch.rand(1, 3, 20, 30), texture, _generator(seed), kind="body").flatten().numpy()
        light = seen @ every.T / (every**2).sum(1)
        off = np.abs(seen - light[:, None] * every).max(1)
        assert off.min() < 1e-5
        lights.append(light[off.argmin()])
    assert 0.14 < min(lights) < 0.4
    assert max(lights) > 0.8


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "posts"])
def test_what_is_dark_hides_what_is_behind_it(kind: str) -> None:
    grey, black = torch.full((2, 3, 96, 128), 0.5), torch.zeros(3, 40, 60)
    clips = torch.stack([lay_foreground(grey, black, _generator(seed), kind=kind) for seed in range(3)])
    assert clips.max() <= 0.5
    assert clips.min() < 0.01


def test_posts_are_light_and_upright() -> None:
    for seed in range(6):
        clip = lay_foreground(torch.zeros(2, 3, 96, 128), torch.zeros(3, 40, 60), _generator(seed), kind="posts")
        if float(clip.max()) > 0.1:  # one is in view
            assert float(clip.max()) >= 0.4
            assert float(clip.diff(dim=3).abs().sum()) > 2 * float(clip.diff(dim=2).abs().sum())


def test_all_kinds_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    made = set[str]()
    for kind in KINDS:
        monkeypatch.setattr(foreground, f"_{kind}", lambda *given, kind=kind: made.add(kind) or _disc(*given))
    for seed in range(20):
        lay_foreground(torch.zeros(1, 3, 8, 8), torch.ones(3, 4, 4), _generator(seed))
    assert made == set(KINDS)


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
