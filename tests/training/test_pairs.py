"""Pairs of pictures: found by the names that the public sets have, read as cv2 reads them, split by background."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamderain.errors import InputError
from tests.training import pictures as made
from training.errors import UsageError
from training.pairs import Pair, Pictures, find_pairs, fingerprint, group_backgrounds

_NAMES = {  # rainy and clean paths of two backgrounds
    "rain100": [("rain-001.png", "norain-001.png"), ("rain-010.png", "norain-010.png")],
    "rain100-test": [("rainy/rain-001.png", "norain-001.png"), ("rainy/rain-002.png", "norain-002.png")],
    "rain200": [("rain/X2/norain-1x2.png", "norain/norain-1.png"), ("rain/X2/norain-2x2.png", "norain/norain-2.png")],
    "rain200-test": [("rain/norain-1.png", "norain/norain-1.png"), ("rain/norain-2.png", "norain/norain-2.png")],
    "rain1400": [(f"rainy_image/{i}_{k}.jpg", f"ground_truth/{i}.jpg") for i in (901, 902) for k in range(1, 15)],
    "folders": [("input/a.png", "target/a.png"), ("input/b_1.png", "target/b_1.png")],
    "folders-other": [("Rain/000/1.png", "Norain/000/1.png"), ("Rain/001/1.png", "Norain/001/1.png")],
    "LQ-GT": [("LQ/a.png", "GT/a.png"), ("LQ/b.png", "GT/b.png")],
    "SPA-Data": [("real_world/1.png", "real_world_gt/1gt.png"), ("real_world/10.png", "real_world_gt/010gt.png")],
    "RainDS": [(f"rainstreak/pie-rd-rain-{i}.png", f"gt/pie-norain-{i}.png") for i in (3, 12)],
}


@pytest.mark.parametrize("names", _NAMES.values(), ids=_NAMES.keys())
def test_pairs_are_found_by_their_published_names(names: list[tuple[str, str]], tmp_path: Path) -> None:
    for rainy, clean in names:
        made.write(tmp_path / rainy, made.background(0, 8, 8))
        made.write(tmp_path / clean, made.background(0, 8, 8))
    found = [(p.rainy.relative_to(tmp_path).as_posix(), p.clean.relative_to(tmp_path).as_posix())
             for p in find_pairs(tmp_path)]  # fmt: skip
    assert found == names


@pytest.mark.parametrize("name", sorted(_NAMES))
def test_parts_for_training_and_testing_are_not_mixed(name: str, tmp_path: Path) -> None:
    names = _NAMES[name]
    for part in ("train", "test"):
        for path in {path for pair in names for path in pair}:
            made.write(tmp_path / part / path, made.background(0, 8, 8))
    pairs = find_pairs(tmp_path)
    assert len(pairs) == 2 * len(names)
    for pair in pairs:
        rainy, clean = (path.relative_to(tmp_path) for path in (pair.rainy, pair.clean))
        assert rainy.parts[0] == clean.parts[0]
        assert ("/".join(rainy.parts[1:]), "/".join(clean.parts[1:])) in names


@pytest.mark.parametrize("again", ["norain-001.png", "norain-1.bmp"])
def test_two_clean_pictures_for_one_are_no_pair(again: str, tmp_path: Path) -> None:
    for name in ("rain-1.png", "norain-1.png", again):
        made.write(tmp_path / name, made.background(1, 8, 8))
    with pytest.raises(UsageError, match=r"rain-1\.png has two clean ones, .*norain-.*norain-"):
        find_pairs(tmp_path)


def test_rainy_pictures_whose_clean_ones_are_elsewhere_are_not_taken_for_halves(tmp_path: Path) -> None:
    made.write(tmp_path / "wet" / "rain-1.png", made.background(1, 8, 8))
    made.write(tmp_path / "dry" / "norain-1.png", made.background(1, 8, 8))
    with pytest.raises(InputError, match="'wet/rain-1' the first"):
        find_pairs(tmp_path)


def test_pictures_of_no_known_layout_are_not_taken_for_halves(tmp_path: Path) -> None:
    for i in range(4):
        made.write(tmp_path / "wet" / f"{i}.png", made.rain_over(made.background(i), i))
        made.write(tmp_path / "dry" / f"{i}.png", made.background(i))
    with pytest.raises(UsageError, match=r"of no known layout: .*known: rain100, .*clean_folder in \[data\]"):
        find_pairs(tmp_path)
    assert {pair.layout for pair in find_pairs(tmp_path, layout="side-by-side")} == {"side-by-side"}


@pytest.mark.parametrize("same", ["1.png", "pie-norain-1.png", "1gt.jpg"])
def test_two_folders_pair_by_name_or_else_by_number(same: str, tmp_path: Path) -> None:
    for i in (1, 2):
        made.write(tmp_path / "wet" / "a" / f"{i}.png", made.background(i))
        made.write(tmp_path / "dry" / "a" / same.replace("1", str(i)), made.background(i))
    pairs = find_pairs(tmp_path / "wet", clean=tmp_path / "dry")
    assert [(p.rainy.name, p.clean.name) for p in pairs] == [("1.png", same), ("2.png", same.replace("1", "2"))]
    made.write(tmp_path / "dry" / "a" / "1_2.png", made.background(3))  # of two numbers, none is the number
    assert find_pairs(tmp_path / "wet", clean=tmp_path / "dry") == pairs


def test_two_folders_anywhere_make_pairs(tmp_path: Path) -> None:
    made.write(tmp_path / "wet" / "1.png", made.background(1))
    made.write(tmp_path / "dry" / "1.jpg", made.background(1))
    (pair,) = find_pairs(tmp_path / "wet", clean=tmp_path / "dry")
    assert (pair.rainy.name, pair.clean.name) == ("1.png", "1.jpg")
    (tmp_path / "dry" / "1.jpg").unlink()
    with pytest.raises(InputError, match="the same names"):
        find_pairs(tmp_path / "wet", clean=tmp_path / "dry")


def test_left_half_is_clean_and_right_half_rainy(tmp_path: Path) -> None:
    made.write_side_by_side(tmp_path, 1)
    (pair,) = find_pairs(tmp_path)
    rainy, clean = pair.read()
    both = cv2.cvtColor(cv2.imread(str(tmp_path / "0.png")), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(clean.permute(1, 2, 0).numpy(), both[:, :64])
    np.testing.assert_array_equal(rainy.permute(1, 2, 0).numpy(), both[:, 64:])
    assert int(rainy.sum()) > int(clean.sum())


def test_pictures_of_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (8, 16, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "0.png"), deep)
    (pair,) = find_pairs(tmp_path, layout="side-by-side")
    both = torch.cat(pair.read()[::-1], 2).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(both, np.rint(deep[..., ::-1] / 257))


def test_pictures_are_kept_as_far_as_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_side_by_side(tmp_path, 3)
    monkeypatch.setattr("training.pairs._CACHE", 2 * 3 * 48 * 64)
    read, names = Pair.read, list[str]()
    monkeypatch.setattr(Pair, "read", lambda self: names.append(self.name) or read(self))
    pictures = Pictures(find_pairs(tmp_path, layout="side-by-side"))
    names.clear()
    for index in (0, 1, 2, 1, 0):
        assert torch.equal(pictures[index][1], read(pictures.pairs[index])[1])
    assert names == ["0", "1", "1", "0"], "one pair fits"


def test_what_is_not_a_pair_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs of pictures"):
        find_pairs(tmp_path)
    with pytest.raises(ValueError, match="'rain900'"):
        find_pairs(tmp_path, layout="rain900")
    for name in ("rain-1.png", "norain-1.png", "rain-2.png"):
        made.write(tmp_path / name, made.background(1))
    with pytest.raises(InputError, match="'rain-2' the first"):
        find_pairs(tmp_path)
    made.write(tmp_path / "norain-1.png", made.background(1, 40, 40))
    (tmp_path / "rain-2.png").unlink()
    with pytest.raises(
        UsageError, match=r"rain-1 is no pair: .*rain-1\.png has 64x48, .*norain-1\.png has 40x40: take"
    ):
        find_pairs(tmp_path)[0].read()


def test_a_background_is_known_again_in_other_clothes() -> None:
    pictures = [made.background(seed, 96, 128) for seed in range(20)]
    again = []
    for picture in pictures:
        smaller = cv2.resize(picture, (80, 60), interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 40])
        again.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    prints = [fingerprint(torch.from_numpy(p).permute(2, 0, 1)) for p in (*pictures, *again)]
    groups = group_backgrounds(prints)
    assert groups[20:] == groups[:20]
    assert len(set(groups)) == 20


def test_no_background_is_in_both_parts(tmp_path: Path) -> None:
    made.write_side_by_side(tmp_path, 20)  # ten backgrounds, twice each
    pictures = Pictures(find_pairs(tmp_path))
    train, validation = pictures.split(held_out=0.25, seed=3)
    assert sorted(train + validation) == list(range(20))
    assert len(validation) == 6  # a quarter is five, and backgrounds stay together
    assert {i // 2 for i in train}.isdisjoint(i // 2 for i in validation)
    assert pictures.split(held_out=0.25, seed=3) == (train, validation)
    assert pictures.split(held_out=0.25, seed=4) != (train, validation)


@pytest.mark.needs_shared
def test_a_jpeg_is_read_as_others_read_it(shared: Path) -> None:
    pair = next(p for p in find_pairs(shared / "data" / "rain800" / "train") if p.name == "10")
    rainy, clean = pair.read()
    both = cv2.cvtColor(cv2.imread(str(pair.clean)), cv2.COLOR_BGR2RGB)
    ours = torch.cat((clean, rainy), 2).permute(1, 2, 0).numpy()
    assert cv2.PSNR(ours, both) > 40  # chroma at half the resolution is enlarged in more ways than one
