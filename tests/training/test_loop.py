"""The loop on a pocket-sized run: it learns, it resumes to the bit, and recipes say what is wrong with them."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamderain.errors import InputError
from streamderain.networks import load_checkpoint, read_provenance
from streamderain.preprocess import MESH, warp
from training.clips import ClipTask
from training.data import ShardReader, align_clip, crop_motion, split
from training.errors import UsageError
from training.loop import Run, learning_rate
from training.parallel import Workers
from training.recipe import ClipData, ClipRecipe, load_recipe
from training.state import read_part

_RECIPE = """
name = "tiny"
[network]
architecture = "streaming"
options = {{ channels = [4, 8, 8], encoder_blocks = [1, 1, 1], decoder_blocks = [1, 1] }}
[data]
stills = ["*.png"]
clips = []
[optimiser]
steps = {steps}
batch = 4
frames = 3
patch = 32
warm_up = 2
learning_rate = 2e-3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(_RECIPE.format(steps=8))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat grey clips with bright specks that last one frame."""
    folder = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(12, 1, 3, 1, 1, generator=generator).mul(120).add(40).expand(12, 4, 3, 40, 40)
    rain = (torch.rand(12, 4, 1, 40, 40, generator=generator) < 0.1) * 90.0
    rainy = clean + rain
    previous = torch.cat((rainy[:, :1], rainy[:, :-1]), 1)
    before = torch.cat((previous[:, :1], previous[:, :-1]), 1)
    pictures = torch.stack((rainy, previous, before, clean), 2).byte()
    motion = torch.zeros(12, 4, 2, 9, 9)
    save_file({"pictures": pictures, "motion": motion}, folder / "shard.safetensors")
    return folder


def _run(path: Path, folder: Path, shards: Path) -> Run:
    recipe = load_recipe(path)
    assert isinstance(recipe, ClipRecipe)
    return Run(recipe, ClipTask(recipe, shards, validation=shards), folder)


def _step(run: Run) -> float:
    return float(run.advance(*run.task.batch(run.step, part=0, parts=1))["loss"])


def test_training_lowers_the_loss_and_averages_the_end_of_a_short_run(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    recipe.write_text(_RECIPE.format(steps=50))
    run = _run(recipe, tmp_path / "run", shards)
    start = _flat(run.network)
    first = _step(run)
    run.train()
    end = _flat(run.network)
    assert (_flat(run.result) - end).norm() < 0.2 * (start - end).norm()
    assert _step(run) < first - 0.15


def test_a_step_is_that_of_pytorch_with_the_recipes_rate_clipping_and_average(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    more = "clip_norm = 0.01\nema = 0.5\nbetas = [0.5, 0.6]\nweight_decay = 0.1\n"
    recipe.write_text(_RECIPE.format(steps=8) + more)
    run = _run(recipe, tmp_path / "run", shards)
    theirs = copy.deepcopy(run.task.objective)
    network = theirs.network.train()
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.5, 0.6), weight_decay=0.1)
    average: dict[str, Tensor] = {}
    for step in range(3):
        _step(run)
        optimiser.zero_grad()
        theirs(*run.task.batch(step, part=0, parts=1))[0].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        optimiser.param_groups[0]["lr"] = learning_rate(step, run.recipe.optimiser)
        optimiser.step()
        now = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        new = max(0.5, 9 / (10 + step))
        average = {name: average.get(name, tensor).lerp(tensor, new) for name, tensor in now.items()}
    torch.testing.assert_close({name: parameter.detach() for name, parameter in run.network.named_parameters()}, now)
    torch.testing.assert_close({name: parameter.detach() for name, parameter in run.result.named_parameters()}, average)


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_average_is_validated_and_training_is_not_left_for_it(
    recipe: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(recipe, tmp_path / "run", shards)
    for _ in range(2):
        _step(run)
    seen: list[nn.Module] = []

    def validate(network: nn.Module) -> dict[str, float]:
        seen.append(network)
        return {"score": 1.0}

    monkeypatch.setattr(run.task, "validate", validate)
    run.validate()
    weights = [torch.cat([p.flatten() for p in of.parameters()]) for of in (seen[0], run.result, run.network)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert (seen[0].training, run.network.training) == (False, True)


def test_clips_begin_without_a_past_lose_it_now_and_then_and_some_are_dry(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    recipe.write_text(_RECIPE.format(steps=8) + "reset_probability = 0.5\ndry_share = 0.5\n")
    task = _run(recipe, tmp_path / "run", shards).task
    batches = [task.batch(step, part=0, parts=1) for step in range(20)]
    resets = torch.cat([batch[2] for batch in batches], 1)
    assert bool(resets[0].all())
    assert 0.35 < float(resets[1:].float().mean()) < 0.65
    pictures = torch.cat([batch[0] for batch in batches], 2)
    dry = (pictures[:, 0] - pictures[:, 3]).abs().amax((0, 2, 3, 4)) < 1e-6
    assert 0.1 < float(dry.float().mean()) < 0.4, "half of those with less rain have none"


def test_processes_share_the_clips_of_a_step(recipe: Path, tmp_path: Path) -> None:
    noise = torch.randint(256, (4, 3, 4, 3, 32, 32)).byte()
    save_file({"pictures": noise, "motion": torch.randn(4, 3, 2, 9, 9)}, tmp_path / "shard.safetensors")
    task = _run(recipe, tmp_path / "run", tmp_path).task
    whole, first, second = (task.batch(3, part=part, parts=parts) for part, parts in ((0, 1), (0, 2), (1, 2)))
    for dim, every, one, other in zip((2, 1, 1), whole, first, second, strict=True):
        assert torch.equal(every.unflatten(dim, (-1, 2)).movedim(dim + 1, 0), torch.stack((one, other)))


def test_clips_validate_on_shards_of_their_own(recipe: Path, shards: Path, tmp_path: Path) -> None:
    recipe.write_text(_RECIPE.format(steps=4) + "validate_every = 2\n")
    run = _run(recipe, tmp_path / "run", shards)
    run.train()
    assert run.best["step"] in (2, 4)
    assert read_provenance(tmp_path / "run" / "tiny-best.safetensors").steps == run.best["step"]


def test_figures_of_clips_are_those_of_the_held_out_shards_in_8_bits(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    held_out = torch.full((2, 3, 4, 3, 32, 32), 110, dtype=torch.uint8)
    held_out[:, :, 3] = 100  # where the other shards have rain, these are brighter all over
    (tmp_path / "held").mkdir()
    save_file({"pictures": held_out, "motion": torch.zeros(2, 3, 2, 9, 9)}, tmp_path / "held" / "shard.safetensors")
    settings = load_recipe(recipe)
    assert isinstance(settings, ClipRecipe)
    task = ClipTask(settings, shards, validation=tmp_path / "held")
    network = task.objective.network.eval()
    network.out.weight.data.zero_()  # type: ignore[union-attr,operator]
    network.out.bias.data.fill_(1e-3)  # type: ignore[union-attr,operator]  # less than half a level
    with torch.no_grad():
        figures = task.validate(network)
    assert figures["score"] == figures["psnr"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-3)
    a, b, c = 110 / 255, 100 / 255, 1e-4  # of flat pictures only the means count
    assert figures["ssim"] == pytest.approx((2 * a * b + c) / (a * a + b * b + c), abs=5e-4)


def test_resuming_gives_the_weights_of_an_unbroken_run(recipe: Path, shards: Path, tmp_path: Path) -> None:
    _run(recipe, tmp_path / "whole", shards).train()
    broken = _run(recipe, tmp_path / "broken", shards)
    for _ in range(3):
        _step(broken)
    broken.save()
    resumed = _run(recipe, tmp_path / "broken", shards)
    assert resumed.step == 3
    resumed.train()
    for name in ("network", "average", "optimiser"):
        a, b = (load_file(tmp_path / r / "state" / f"{name}-8.safetensors") for r in ("whole", "broken"))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key
    load_checkpoint(tmp_path / "broken" / "tiny.safetensors")


def test_a_state_has_the_mode_of_any_other_file_and_leaves_no_other(recipe: Path, shards: Path, tmp_path: Path) -> None:
    run = _run(recipe, tmp_path / "run", shards)
    state = tmp_path / "run" / "state"
    before = os.umask(0o027)
    try:
        run.save()
        assert read_part(state, "optimiser", 0) == {}
        (state / ".network-0.safetensors.999999").write_bytes(b"half of it")  # by a process that was killed
        _step(run)
        run.save()
    finally:
        os.umask(before)
    names = {"average-1.safetensors", "network-1.safetensors", "optimiser-1.safetensors", "progress.json"}
    assert {p.name for p in state.iterdir()} == names
    assert {stat.S_IMODE(p.stat().st_mode) for p in state.iterdir()} == {0o640}


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("ending", ["checkpoint", "signal", "validation"])
def test_what_is_no_number_is_never_saved(
    ending: str, recipe: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(_RECIPE.format(steps=8) + ("validate_every = 3\n" if ending == "validation" else ""))
    run = _run(recipe, tmp_path / "run", shards)
    _step(run)
    run.save()
    good = _files(tmp_path / "run")
    advance = run.advance

    def broken(*batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if ending == "signal":
            signal.raise_signal(signal.SIGTERM)
        values = advance(*batch)
        return {**values, "loss": values["loss"] * math.nan} if run.step == 2 else values

    monkeypatch.setattr(run, "advance", broken)
    with pytest.raises(FloatingPointError, match=r"the loss is nan; step \d is not saved: lower learning_rate"):
        run.train(checkpoint_every=3 if ending == "checkpoint" else 100, log_every=100)
    assert _files(tmp_path / "run") == good


def test_what_is_no_number_in_one_process_ends_all_of_them(
    recipe: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes: list[bool] = []

    def asked(of: Workers, flag: bool) -> bool:
        votes.append(flag)
        return True  # there is another, which failed if this one did not

    run = _run(recipe, tmp_path / "run", shards)
    monkeypatch.setattr(Workers, "any", asked)
    with pytest.raises(FloatingPointError, match="another process failed"):
        run.train(log_every=1)
    monkeypatch.setattr(run, "advance", lambda *batch: {"loss": torch.tensor(math.nan)})
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        run.train(log_every=1)
    assert votes == [False, True]


def test_a_last_step_that_breaks_the_weights_is_not_saved(
    recipe: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(recipe, tmp_path / "run", shards)
    _step(run)
    run.save()
    good = _files(tmp_path / "run" / "state")
    advance = run.advance

    def broken(*batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        values = advance(*batch)  # its loss is that of the weights before
        with torch.no_grad():
            next(run.network.parameters()).fill_(math.inf)
        return values

    monkeypatch.setattr(run, "advance", broken)
    with pytest.raises(FloatingPointError, match="weights"):
        run.train(checkpoint_every=2)
    assert _files(tmp_path / "run" / "state") == good


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ("learning_rate = 2e-3", "learning_rate = 1e-3", r"optimiser\.learning_rate \(0\.002 there, 0\.001 here\)"),
        ("warm_up = 2", "warm_up = 2\nema = 0.9", r"optimiser\.ema \(0\.999 there, 0\.9 here\)"),
        ('name = "tiny"', 'name = "tiny"\nseed = 3', r"seed \(0 there, 3 here\)"),
        ("[4, 8, 8]", "[8, 8, 8]", r"network\.options\.channels \(\[4, 8, 8\] there, \[8, 8, 8\] here\)"),
    ],
)
def test_a_folder_is_not_gone_on_with_by_another_recipe(
    was: str, now: str, named: str, recipe: Path, shards: Path, tmp_path: Path
) -> None:
    run = _run(recipe, tmp_path / "run", shards)
    _step(run)
    run.save()
    good = _files(tmp_path / "run")
    recipe.write_text(recipe.read_text().replace(was, now))
    with pytest.raises(UsageError, match=f"another recipe: {named}: name another folder with --run"):
        _run(recipe, tmp_path / "run", shards)
    assert _files(tmp_path / "run") == good


def test_more_steps_and_another_card_are_gone_on_with(recipe: Path, shards: Path, tmp_path: Path) -> None:
    run = _run(recipe, tmp_path / "run", shards)
    _step(run)
    run.save()
    progress = tmp_path / "run" / "state" / "progress.json"
    recorded = json.loads(progress.read_text())
    del recorded["recipe"]["data"]["foreground_share"]  # as of a version that did not know this field
    progress.write_text(json.dumps(recorded))
    recipe.write_text(_RECIPE.format(steps=9) + '[card]\nsummary = "longer"\n')
    again = _run(recipe, tmp_path / "run", shards)
    assert (again.step, again.steps) == (1, 9)


def test_learning_rate_warms_up_and_comes_down(recipe: Path) -> None:
    settings = load_recipe(recipe).optimiser
    rates = [learning_rate(s, settings) for s in range(settings.steps + 1)]
    assert rates[0] == settings.learning_rate / 2
    assert max(rates) == settings.learning_rate
    assert rates[-1] == pytest.approx(settings.final_learning_rate)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_batches_are_the_same_for_the_same_step(shards: Path) -> None:
    a, b = ShardReader(shards, 1), ShardReader(shards, 1)
    for step in (0, 5):
        for x, y in zip(
            a.batch(step, size=3, frames=3, patch=32), b.batch(step, size=3, frames=3, patch=32), strict=True
        ):
            assert torch.equal(x, y)
    assert not torch.equal(a.batch(0, size=3, frames=3, patch=32)[0], a.batch(1, size=3, frames=3, patch=32)[0])


def test_the_motion_of_a_patch_is_that_of_the_picture_there() -> None:
    picture = torch.rand(1, 3, 101, 141, generator=torch.Generator().manual_seed(0))
    motion = torch.zeros(1, 2, *MESH)
    motion[:, 0], motion[:, 1] = torch.linspace(-3, 3, MESH[1]), torch.linspace(2, -2, MESH[0])[:, None]
    top, left, patch = 20, 30, 33
    whole = warp(picture, motion)[..., top : top + patch, left : left + patch]
    cut = picture[..., top - 8 : top + patch + 8, left - 8 : left + patch + 8]
    part = crop_motion(motion, (101, 141), (top - 8, left - 8), patch + 16)
    torch.testing.assert_close(warp(cut, part)[..., 8:-8, 8:-8], whole, atol=2e-2, rtol=0)


def test_motion_is_that_of_the_picture_in_mirrored_patches_as_well(tmp_path: Path) -> None:
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    first = nn.functional.interpolate(noise, (40, 40), mode="bicubic").clamp(0, 1)
    motion = torch.zeros(1, 2, 9, 9)
    motion[:, 0], motion[:, 1] = torch.linspace(0.5, 4, 9), torch.linspace(2, -1, 9)[:, None]
    rainy = torch.cat((first, warp(first, motion)))
    pictures = rainy[None, :, None].expand(1, 2, 4, 3, 40, 40).mul(255).round().byte().contiguous()
    save_file({"pictures": pictures, "motion": motion.repeat(1, 2, 1, 1, 1)}, tmp_path / "shard.safetensors")
    batch, motions = ShardReader(tmp_path, 0).batch(0, size=8, frames=2, patch=40)
    as_they_are = [torch.equal(one, batch[0, 0, 0]) for one in batch[0, 0]]
    assert len(set(as_they_are)) == 2, "some are mirrored"
    torch.testing.assert_close(warp(batch[0, 0], motions[1]), batch[1, 0], atol=2e-2, rtol=0)


def test_alignment_of_a_clip_starts_from_nothing() -> None:
    clip = torch.rand(3, 3, 32, 48)
    previous, before, motion = align_clip(clip)
    torch.testing.assert_close(previous[0], clip[0])
    torch.testing.assert_close(before[1], previous[1])
    assert motion.shape == (3, 2, *MESH)


def test_parts_share_no_scene(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.png").touch()
    parts = split(ClipData(stills=("*.png",), clips=()), tmp_path)
    names = [set(p.stills) for p in parts.values()]
    assert [len(parts[k].stills) for k in ("validation", "test", "train")] == [2, 2, 16]
    assert len(set.union(*names)) == 20
    twice = split(ClipData(stills=("*.png", "1*.png"), clips=()), tmp_path)
    assert [twice[k] for k in ("validation", "test")] == [parts[k] for k in ("validation", "test")]
    assert list(dict.fromkeys(twice["train"].stills)) == list(parts["train"].stills)
    assert all(twice["train"].stills.count(p) == 1 + p.name.startswith("1") for p in parts["train"].stills)
    with pytest.raises(InputError, match=r"gone\.mp4"):
        split(ClipData(stills=("*.png",), clips=(), test_clips=("gone.mp4",)), tmp_path)


def test_a_recipe_with_a_wrong_field_names_it(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("warm_up", "warmup"))
    with pytest.raises(ValueError, match=r"tiny\.toml\.optimiser: unknown \['warmup'\].*warm_up"):
        load_recipe(recipe)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml")), ids=str)
def test_shipped_recipes_load_and_build(path: Path) -> None:
    with torch.device("meta"):
        load_recipe(path).network.build()
