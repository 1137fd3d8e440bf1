"""The textures of the street: what is where on them, and that they join and can be laid over others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training import scenery

DENSITY = 20  # texels a metre


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _part(texture: Tensor, left: float, top: float, right: float, bottom: float) -> list[float]:
    """The mean colour of a rectangle, m, and its alpha if there is one."""
    rows, columns = (
        slice(round(top * DENSITY), round(bottom * DENSITY)),
        slice(round(left * DENSITY), round(right * DENSITY)),
    )
    return texture[:, rows, columns].mean((1, 2)).tolist()


def test_what_is_laid_over_others_carries_its_alpha_in_its_colour() -> None:
    for texture in (
        scenery.paint_tree(wide=4.6, high=6.4, density=DENSITY, generator=_generator()),
        scenery.paint_lamp(wide=1.8, high=6.5, density=DENSITY),
        scenery.paint_car_end((0.9, 0.9, 0.9), rear=True, density=DENSITY),
        scenery.paint_car_side((0.9, 0.9, 0.9), density=DENSITY),
        scenery.paint_facades(length=33, high=15.0, density=DENSITY, generator=_generator()),
    ):
        colour, alpha = texture.split((3, 1))
        assert 0 <= alpha.min() < 0.01
        assert 0.95 < alpha.max() <= 1
        assert (colour <= alpha + 1e-6).all()
        assert (colour >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_houses_stand_side_by_side_without_a_gap(seed: int) -> None:
    houses = scenery.paint_facades(length=33, high=15.0, density=DENSITY, generator=_generator(seed))
    assert houses.shape == (4, 15 * DENSITY, 33 * DENSITY)
    assert houses[3, -8 * DENSITY :].min() > 0.7  # where two soft edges meet
    assert (houses[3, -8 * DENSITY :] == 1).float().mean() > 0.98
    assert houses[3, 0].max() == 0


def test_the_road_has_its_pavements_on_both_sides_and_is_darker() -> None:
    road = scenery.paint_road(length=32, width=16.8, lane=3.2, kerb=4.7, density=DENSITY, generator=_generator())
    assert road.shape == (3, 336, 640)
    lane = _part(road, 0, 16.8 / 2 + 1.0, 25, 16.8 / 2 + 2.5)
    for pavement in (_part(road, 0, 0, 32, 3.0), _part(road, 0, 13.8, 32, 16.8)):
        assert pavement[0] > lane[0] + 0.1
    middle = road[:, 336 // 2].mean(0)
    starts = [index for index in range(639) if middle[index] < 0.6 <= middle[index + 1] and middle[index + 5] > 0.6]
    assert len({start % (8 * DENSITY) // DENSITY for start in starts}) == 1, "dashes every 8 m, also across the seam"


def test_a_car_has_its_lamps_where_they_belong() -> None:
    paint = (0.2, 0.3, 0.5)
    for rear in (True, False):
        end = scenery.paint_car_end(paint, rear=rear, density=DENSITY)
        for left in (0.1, 1.45):
            red, green, *_ = _part(end, left, 0.75, left + 0.2, 0.85)
            assert (red > 1.5 * green) == rear
    side = scenery.paint_car_side(paint, density=DENSITY)
    (red, green, *_), (nose, *_) = _part(side, 0.06, 0.75, 0.18, 0.85), _part(side, 4.0, 0.75, 4.13, 0.85)
    assert red > 3 * green, "its tail is on the left"
    assert nose > 0.8


def test_a_lamp_s_arm_reaches_to_the_right_and_a_crown_stands_on_its_trunk() -> None:
    lamp = scenery.paint_lamp(wide=1.8, high=6.5, density=DENSITY)[3]
    assert lamp[:DENSITY, 10:34].amax(0).min() > 0.5
    assert lamp[:DENSITY, :6].max() == 0
    assert lamp[-DENSITY:, 12:].max() == 0
    tree = scenery.paint_tree(wide=4.6, high=6.4, density=DENSITY, generator=_generator())[3]
    crown, trunk = tree[: round(0.6 * len(tree))], tree[-DENSITY:]
    assert crown.mean() > 3 * trunk.mean() > 0


def test_the_sky_is_over_the_horizon_and_hills_below() -> None:
    sky = scenery.paint_sky(120, 160, 60.0, _generator())
    assert sky.shape == (3, 120, 160)
    hills = torch.tensor([0.56, 0.62, 0.64]).view(3, 1, 1)
    assert (sky[:, 60:] - hills).abs().max() < 0.1
    assert (sky[:, 45:48].mean(2) > hills[..., 0] + 0.08).all()
    assert sky.max() < 1
    assert sky[2, :20].mean() > sky[0, :20].mean() + 0.02


def test_noise_is_coarse_before_it_is_fine() -> None:
    field = scenery.noise(128, 128, _generator(), coarsest=64)
    grain = scenery.noise(128, 128, _generator(), coarsest=4)
    alike = [float((each[:, 4:] * each[:, :-4]).mean()) for each in (field, grain)]
    assert alike[0] > 0.9
    assert abs(alike[1]) < 0.3
