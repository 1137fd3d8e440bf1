"""Things that look like rain and are none, painted over clean pictures."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training import clutter
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


def test_what_is_not_painted_over_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clutter, "_lamps", clutter._lines)  # their glare goes far
    still = torch.tensor([40.8, 100.8, 180.8]).view(3, 1, 1).expand(3, 160, 240) / 255
    pictures = torch.stack([paint_clutter(still, torch.Generator().manual_seed(seed)) for seed in range(4)])
    assert ((pictures - still).abs().amax(1) < 0.5 / 255).float().mean() > 0.4


def test_two_to_six_groups_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    painted = list[str]()
    for kind in ("words", "bars", "lines", "lamps"):
        monkeypatch.setattr(clutter, f"_{kind}", lambda picture, lot, kind=kind: painted.append(kind))
    counts, kinds = set[int](), set[str]()
    for seed in range(40):
        painted.clear()
        _painted(seed)
        counts.add(len(painted))
        kinds.update(painted)
    assert counts == {2, 3, 4, 5, 6}
    assert kinds == {"words", "bars", "lines", "lamps"}


def test_colours_are_light_and_hardly_any() -> None:
    lot = np.random.default_rng(0)
    colours = np.array([clutter._colour(lot) for _ in range(200)])
    assert 97 <= colours.min() < 130
    assert 230 < colours.max() <= 255
    assert (colours.min(1) >= 0.84 * colours.max(1)).all()


def test_lamps_only_brighten() -> None:
    for seed in range(8):
        picture = np.full((60, 80, 3), 180, np.uint8)
        clutter._lamps(picture, np.random.default_rng(seed))
        assert picture.min() >= 180
        assert picture.max() > 240


def test_lines_are_mostly_upright_and_dashes_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[tuple[tuple[float, float], tuple[float, float], tuple[float, ...]]]()
    monkeypatch.setattr(clutter, "_line", lambda picture, start, end, colour, wide: drawn.append((start, end, colour)))
    for seed in range(30):
        clutter._lines(np.zeros((160, 240, 3), np.uint8), np.random.default_rng(seed))
    across, down = np.abs([np.subtract(end, start) for start, end, _ in drawn]).sum(0)
    assert down > 1.5 * across
    gaps = [
        np.hypot(*np.subtract(after[0], before[1])) / np.hypot(*np.subtract(before[1], before[0]))
        for before, after in itertools.pairwise(drawn)
        if before[2] == after[2]  # of one line
    ]
    assert len(gaps) > 50
    assert np.allclose(gaps, 1)


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
