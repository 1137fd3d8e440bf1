"""Recipes of the engines' shelf: those that ship are right, and wrong ones are told with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamderain.networks import model_names
from streamderain.runtime import BACKENDS, PRECISIONS
from streamderain.runtime.recipe import EngineRecipe, parse_size, read_recipe
from streamderain.runtime.tensorrt_rtx import CAPABILITIES

SHELF = Path(__file__).parents[2] / "engines"


@pytest.mark.parametrize("path", sorted(SHELF.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_ship_name_what_there_is(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.summary
    assert recipe.model in model_names()
    assert recipe.backend in BACKENDS
    assert recipe.precision in ("auto", *PRECISIONS)
    assert set(recipe.compute_capabilities) <= set(CAPABILITIES)
    assert {(1280, 720), (1920, 1080), (1080, 1920)} <= set(recipe.sizes), "720p, 1080p and portrait"


def test_the_shelf_has_a_recipe_for_each_kind_of_machine() -> None:
    names = {path.stem for path in SHELF.glob("*.toml")}
    assert names == {"desktop-rtx", "jetson-orin", "data-centre", "laptop-cpu"}


def test_what_a_recipe_leaves_out_is_as_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "mine.safetensors"\nsizes = ["64x48"]\nbatch = 4\n')
    mine = EngineRecipe(model=str(tmp_path / "mine.safetensors"), sizes=((64, 48),), batch=4)
    assert read_recipe(path) == mine


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 'red'", "colour, which is none of"),
        ("sizes = '1280x720'", "sizes = '1280x720'"),
        ("sizes = []", "sizes = "),
        ("sizes = ['1280']", "'1280' is not a size"),
        ("model = 3", "model = 3"),
        ("batch = 'four'", "batch = 'four', not a number above zero"),
        ("batch = 0", "batch = 0"),
        ("batch = true", "batch = True"),
        ("model =", "cannot read the recipe"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_recipe(path)


def test_sizes_are_width_by_height() -> None:
    for text in ("1080x1920", "1080X1920", " 1080×1920 "):
        assert parse_size(text) == (1080, 1920)
    for wrong in ("1080", "0x48", "x", "1920x1080x3", "-4x4", "1e3x4"):
        with pytest.raises(ValueError, match=wrong):
            parse_size(wrong)
