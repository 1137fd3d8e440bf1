"""Folders of shards: filled by several processes, never by two recipes, and nothing is left undone silently."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from streamderain.frame import Frame
from streamderain.video import write_still
from training import command
from training import data as rendered
from training.data import ShardReader, Split, check_material
from training.errors import UsageError
from training.recipe import ClipData
from training.record import as_json
from training.render import RECORD, Rendering, claim

_ROOT = Path(__file__).parents[2]
_RECIPE = """
name = "tiny"
[network]
architecture = "streaming"
[data]
stills = ["*.png"]
clips = []
held_out_stills = 0.34
frames = 2
patch = 32
patches_per_clip = 2
clips_per_shard = 1
[optimiser]
steps = 1
batch = 1
frames = 2
patch = 32
"""
_TINY = ClipData(stills=("*.png",), clips=(), frames=2, patch=32)

Command = Callable[..., None]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text(_RECIPE)
    return tmp_path / "r.toml"


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    folder = tmp_path / "stills"
    folder.mkdir()
    for i in range(3):
        grey = torch.full((270, 400, 3), 60 * i + 40, dtype=torch.uint8)
        write_still(folder / f"{i}.png", Frame(grey, 0, Fraction(1), 1))
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that fit the recipes here are rendered at once: it is the folder that is looked at."""
    monkeypatch.setattr(rendered, "_HEIGHT", 48)
    monkeypatch.setattr(rendered, "_WIDTH", 64)


def _arguments(recipe: Path, stills: Path, *more: str) -> list[str]:
    shards = str(recipe.parent / "shards")
    return ["training", "render", str(recipe), "--data", str(stills), "--shards", shards, "--count", "2", *more]


@pytest.fixture
def run(recipe: Path, stills: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(*more: str) -> None:
        monkeypatch.setattr(sys, "argv", _arguments(recipe, stills, *more))
        command.main()

    return call


def _shards(recipe: Path) -> list[str]:
    return sorted(p.name for p in (recipe.parent / "shards").iterdir())


def test_shards_stand_beside_what_they_were_rendered_by(run: Command, recipe: Path) -> None:
    run()
    assert _shards(recipe) == [RECORD, "shard-00000.safetensors", "shard-00001.safetensors"]
    recorded = json.loads((recipe.parent / "shards" / RECORD).read_text())
    assert (recorded["seed"], recorded["part"], recorded["data"]["patches_per_clip"]) == (0, "train", 2)
    ShardReader(recipe.parent / "shards", 0).batch(0, size=1, frames=2, patch=32)


def test_shards_have_the_mode_of_any_other_file(run: Command, recipe: Path) -> None:
    before = os.umask(0o027)
    try:
        run()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (recipe.parent / "shards").iterdir()} == {0o640}


def test_it_tells_when_all_is_there_already(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    run()
    out, err = capsys.readouterr()
    assert not out
    assert "all 2 shards from 0 on were in" in err
    assert "--first 2" in err
    run("--count", "3")
    out, err = capsys.readouterr()
    assert out.split("shards/")[1:] == ["shard-00002.safetensors\n"]
    assert "2 of the 3 shards" in err


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ("patches_per_clip = 2", "patches_per_clip = 3", r"data\.patches_per_clip \(2 there, 3 here\)"),
        ("patch = 32\npatches", "foreground_share = 0.5\npatch = 32\npatches", r"data\.foreground_share \(0\.0 there"),
        ('name = "tiny"', 'name = "tiny"\nseed = 5', r"seed \(0 there, 5 here\)"),
    ],
)
def test_another_recipe_wants_another_folder(
    was: str, now: str, named: str, run: Command, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--count", "1")
    before = _shards(recipe)
    recipe.write_text(_RECIPE.replace(was, now))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run()
    assert _shards(recipe) == before
    with pytest.raises(UsageError, match=f"otherwise: {named}.*another folder with --shards"):
        claim(recipe.parent / "shards", _rendering(recipe))


def _rendering(recipe: Path) -> Rendering:
    loaded = command._clip_recipe(recipe)
    return Rendering(data=loaded.data, seed=loaded.seed, part="train")


def test_the_held_out_part_wants_a_folder_of_its_own(run: Command, recipe: Path) -> None:
    run("--count", "1")
    with pytest.raises(UsageError, match=r'part \("train" there, "validation" here\)'):
        claim(recipe.parent / "shards", replace(_rendering(recipe), part="validation"))


def test_a_folder_of_nobody_knows_what_is_adopted_only_when_told_to(run: Command, recipe: Path) -> None:
    run("--count", "1")
    folder = recipe.parent / "shards"
    (folder / RECORD).unlink()
    with pytest.raises(SystemExit):
        run()
    assert _shards(recipe) == ["shard-00000.safetensors"]
    with pytest.raises(UsageError, match="--adopt"):
        claim(folder, _rendering(recipe))
    run("--adopt")
    assert _shards(recipe) == [RECORD, "shard-00000.safetensors", "shard-00001.safetensors"]


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("[")
    with pytest.raises(UsageError, match=r"rendered\.json is damaged.*--adopt"):
        claim(tmp_path, Rendering(data=_TINY, seed=0, part="train"))


def test_a_process_that_comes_second_keeps_the_record_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Rendering(data=_TINY, seed=seed, part="train") for seed in (1, 2))
    link = os.link

    def late(source: Path, target: Path) -> None:  # the other process is here between the look and the writing
        (tmp_path / RECORD).write_text(json.dumps(as_json(first)))
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(UsageError, match=r"seed \(1 there, 2 here\)"):
        claim(tmp_path, second)
    assert json.loads((tmp_path / RECORD).read_text())["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [RECORD]


def test_two_processes_fill_one_folder(recipe: Path, stills: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", *_arguments(recipe, stills, "--first", first, "--count", "1")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in ("0", "1")
    ]
    for process in begun:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert _shards(recipe) == [RECORD, "shard-00000.safetensors", "shard-00001.safetensors"]
    pictures = [load_file(recipe.parent / "shards" / name)["pictures"] for name in _shards(recipe)[1:]]
    assert not torch.equal(*pictures)


def test_every_shard_and_every_seed_has_rain_of_its_own(run: Command, recipe: Path) -> None:
    def pictures() -> list[Tensor]:
        paths = sorted((recipe.parent / "shards").glob("*.safetensors"))
        return [load_file(path)["pictures"] for path in paths]

    run()
    one = pictures()
    shutil.rmtree(recipe.parent / "shards")
    recipe.write_text(_RECIPE.replace('name = "tiny"', 'name = "tiny"\nseed = 5'))
    run()
    every = [*one, *pictures()]
    assert not any(torch.equal(a, b) for a, b in combinations(every, 2))


def test_shares_that_are_made_of_stills_want_some_in_the_part() -> None:
    with pytest.raises(UsageError, match=r"foreground_share = 0\.5"):
        check_material(replace(_TINY, foreground_share=0.5), Split((), (Path("a.mp4"),)))
    with pytest.raises(UsageError, match="patch = 300"):
        check_material(replace(_TINY, patch=300), Split((Path("a.png"),), ()))


@pytest.mark.parametrize(("frames", "patch"), [(3, 32), (2, 40)])
def test_more_than_the_shards_hold_says_so(run: Command, recipe: Path, frames: int, patch: int) -> None:
    run("--count", "1")
    reader = ShardReader(recipe.parent / "shards", 0)
    with pytest.raises(UsageError, match=r"shard-00000.* 2 frames and 32 px: lower frames or patch"):
        reader.batch(0, size=1, frames=frames, patch=patch)
