"""Training on pairs: which patches, in which order, to which loss; and the loop under signals, kills and processes."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from streamderain.networks import read_provenance
from streamderain.networks.ecnet import RainAutoencoder
from tests.training import pictures
from training import command
from training.evaluate_pairs import held_out
from training.journal import Journal
from training.loop import Run, learning_rate
from training.recipe import PairRecipe, load_recipe
from training.restoration import PairTask, RestorationObjective

_ROOT = Path(__file__).parents[2]
_RECIPE = """
name = "tiny"
task = "pairs"
[network]
{network}
[data]
folder = "rain"
held_out = 0.2
patches = "{patches}"
stride = 16
flips = true
[optimiser]
algorithm = "adam"
{length}
batch = 4
patch = 16
learning_rate = 2e-3
schedule = "step"
milestones = [2]
warm_up = 0
validate_every = 2
{more}
[loss]
{loss}
"""
_SMALL = 'architecture = "detail-resnet"\noptions = { channels = 4, blocks = 1, diameter = 5 }'
_ECNET = 'architecture = "ecnet"\noptions = { channels = 4, skips = "mspam" }'
_PRENET = 'architecture = "prenet"\noptions = { channels = 4, blocks = 1, stages = 2 }'
_AUTOENCODER = 'architecture = "rain-autoencoder"\noptions = { channels = 4 }'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pictures.write_side_by_side(folder / "rain", 10)
    return folder


def _recipe(
    folder: Path,
    *,
    network: str = _SMALL,
    loss: str = "mse = 1.0",
    length: str = "steps = 6",
    patches: str = "random",
    more: str = "",
) -> PairRecipe:
    path = folder / "tiny.toml"
    path.write_text(_RECIPE.format(network=network, loss=loss, length=length, patches=patches, more=more))
    recipe = load_recipe(path)
    assert isinstance(recipe, PairRecipe)
    return recipe


def _sources(patches: Tensor) -> list[list[int]]:
    """For each patch the pictures that hold it somewhere."""

    def held(patch: Tensor, windows: Tensor) -> bool:
        return bool((windows == patch[:, None, None]).all(dim=(0, 3, 4)).any())

    clean = [torch.from_numpy(pictures.background(i // 2)).permute(2, 0, 1).float() / 255 for i in range(10)]
    windows = [picture.unfold(1, 16, 1).unfold(2, 16, 1) for picture in clean]  # [3, H, W, 16, 16]
    return [[i for i, w in enumerate(windows) if held(p, w) or held(p.flip(-1), w)] for p in patches]


def test_the_grid_cuts_every_picture_into_its_fixed_patches(tmp_path: Path, data: Path) -> None:
    task = PairTask(_recipe(tmp_path, patches="grid"), data)
    kept = {picture for picture, _, _ in task.patches}
    assert len(kept) == 8  # two of ten validate
    assert [p[1:] for p in task.patches if p[0] == min(kept)] == [
        (top, left) for top in (0, 16, 32) for left in (0, 16, 32, 48)
    ]
    assert task.batches_per_epoch == 8 * 12 // 4


def test_an_epoch_shows_each_picture_once_at_places_of_its_own(tmp_path: Path, data: Path) -> None:
    task = PairTask(_recipe(tmp_path), data)
    assert task.batches_per_epoch == 2
    epochs = [torch.cat([task.batch(2 * e + k, part=0, parts=1)[1] for k in range(2)]) for e in range(2)]
    for clean in epochs:
        held = _sources(clean)
        assert sorted({i // 2 for found in held for i in found}) == sorted({p // 2 for p, _, _ in task.patches})
    assert not torch.equal(*epochs)


def test_rainy_and_clean_patches_lie_on_each_other(tmp_path: Path, data: Path) -> None:
    task = PairTask(_recipe(tmp_path), data)
    rainy, clean = (torch.cat(t) for t in zip(*(task.batch(s, part=0, parts=1) for s in range(5)), strict=True))
    difference = rainy - clean
    assert difference.min() >= 0  # rain only brightens; a patch off by a pixel would darken somewhere
    assert 0 < difference.max() <= 50 / 255 + 1e-6


def test_of_the_dry_share_half_is_dry_and_half_has_less_rain(tmp_path: Path, data: Path) -> None:
    recipe = _recipe(tmp_path)
    task = PairTask(replace(recipe, optimiser=replace(recipe.optimiser, dry_share=0.5)), data)
    all_rain = PairTask(recipe, data)
    left = []
    for step in range(40):
        thinner, clean = task.batch(step, part=0, parts=1)
        rainy, same = all_rain.batch(step, part=0, parts=1)
        assert torch.equal(clean, same)
        for t, r, c in zip(thinner, rainy, clean, strict=True):
            if not torch.equal(r, c):  # a place where no rain falls
                left.append(float((t - c).sum() / (r - c).sum()))
                assert torch.allclose(t, c + left[-1] * (r - c), atol=1e-6)
    dry, some = sum(share == 0 for share in left), sum(0 < share < 0.999 for share in left)
    assert 0.15 < dry / len(left) < 0.35
    assert 0.15 < some / len(left) < 0.35


def test_another_seed_begins_and_goes_on_otherwise(tmp_path: Path, data: Path) -> None:
    recipe = _recipe(tmp_path, patches="grid")
    tasks = [PairTask(replace(recipe, seed=seed), data) for seed in (0, 0, 1)]
    batches = [task.batch(0, part=0, parts=1)[0] for task in tasks]
    weights = [next(task.objective.parameters()) for task in tasks]
    for same, again, other in (batches, weights):
        assert torch.equal(same, again)
        assert not torch.equal(same, other)


def test_validation_is_in_the_middle_of_held_out_pictures_spread_over_all_as_files_will_have_them(
    tmp_path: Path, data: Path
) -> None:
    recipe = _recipe(tmp_path)
    settings = replace(recipe.data, held_out=0.6, validation_crop=32, validation_pictures=2)
    task = PairTask(replace(recipe, data=settings), data)
    network = task.objective.network.eval()
    network.tail.weight.data.zero_()  # type: ignore[union-attr,operator]
    network.tail.bias.data.fill_(1e-3)  # type: ignore[union-attr,operator]  # less than half a level of 255
    trained_on = {picture for picture, _, _ in task.patches}
    held = [i for i in range(10) if i not in trained_on]
    assert len(held) == 6
    figures = []
    for i in (held[0], held[3]):
        both = cv2.imread(str(data / "rain" / f"{i}.png"))[8:40]  # 48 rows, 64 columns each
        clean, rainy = (np.ascontiguousarray(half[:, 16:48]) for half in (both[:, :64], both[:, 64:]))
        tensors = [torch.from_numpy(t).permute(2, 0, 1)[None] / 255 for t in (rainy, clean)]
        _, full = structural_similarity_index_measure(
            *tensors, data_range=1.0, reduction="none", return_full_image=True
        )
        figures.append((cv2.PSNR(rainy, clean), float(full[..., 5:-5, 5:-5].mean())))
    score, structure = np.mean(figures, axis=0)
    with torch.no_grad():
        found = task.validate(network)
    assert found == {
        "score": found["psnr"],
        "psnr": pytest.approx(score, abs=1e-3),
        "ssim": pytest.approx(structure, abs=1e-4),
    }


def test_processes_share_the_batch_of_a_step(tmp_path: Path, data: Path) -> None:
    recipe = _recipe(tmp_path)
    task = PairTask(replace(recipe, optimiser=replace(recipe.optimiser, dry_share=0.5)), data)
    whole, _ = task.batch(3, part=0, parts=1)
    for part in range(2):
        assert torch.equal(task.batch(3, part=part, parts=2)[0], whole[part::2])


@pytest.mark.parametrize("epochs", [False, True], ids=["steps", "epochs"])
def test_steps_of_the_learning_rate_are_pytorchs(epochs: bool, tmp_path: Path) -> None:
    settings = _recipe(tmp_path).optimiser
    settings = replace(settings, milestones=(2, 5), factor=0.2, **({"steps": 0, "epochs": 9} if epochs else {}))
    unit = 3 if epochs else 1
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([parameter], settings.learning_rate)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2 * unit, 5 * unit], 0.2)
    for step in range(8 * unit):
        assert learning_rate(step, settings, 3) == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize(
    ("network", "loss"),
    [(_SMALL, "mse = 1.0"), (_ECNET, "ssim = 1.0\nattention = 0.1"), (_PRENET, "ssim = 1.0"), (_AUTOENCODER, "")],
    ids=["paper-a", "paper-b", "prenet", "autoencoder"],
)
def test_training_lowers_the_loss(network: str, loss: str, tmp_path: Path, data: Path) -> None:
    recipe = _recipe(tmp_path, network=network, loss=loss, length="steps = 30", more="ema = 0.0")
    recipe = replace(recipe, optimiser=replace(recipe.optimiser, milestones=(), learning_rate=5e-3))
    run = Run(recipe, PairTask(recipe, data), tmp_path / "run")
    batch = run.task.batch(0, part=0, parts=1)
    losses = [float(run.advance(*batch)["loss"]) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])


def test_the_teacher_learns_nothing(tmp_path: Path, data: Path) -> None:
    autoencoder = _recipe(tmp_path, network=_AUTOENCODER, length="steps = 2")
    Run(autoencoder, PairTask(autoencoder, data), tmp_path / "a").train()
    weights = tmp_path / "a" / "tiny.safetensors"
    loss = f'ssim = 1.0\nembedding = 0.02\nteacher = "{weights}"'
    recipe = _recipe(tmp_path, network=_ECNET, loss=loss, length="steps = 3")
    run = Run(recipe, PairTask(recipe, data), tmp_path / "b")
    run.train()
    assert isinstance(run.task.objective, RestorationObjective)
    teacher = run.task.objective.teacher
    assert isinstance(teacher, RainAutoencoder)
    assert not any(p.requires_grad for p in teacher.parameters())
    for name, tensor in load_file(weights).items():
        assert torch.equal(teacher.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="must be an autoencoder of rain, got 'ecnet'"):
        PairTask(recipe, data, teacher=tmp_path / "b" / "tiny.safetensors")


class _Interrupted(PairTask):
    """Sends this process a signal while the batch of step 3 is fetched.

    Through the interpreter and not the kernel: libraries that other tests have loaded may handle signals their own way.
    """

    def batch(self, step: int, *, part: int, parts: int) -> tuple[Tensor, ...]:
        if step == 3:
            _thread.interrupt_main(signal.SIGTERM)
        return super().batch(step, part=part, parts=parts)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_signal_saves_and_resuming_gives_the_weights_of_an_unbroken_run(
    ema: float, tmp_path: Path, data: Path
) -> None:
    recipe = _recipe(tmp_path, more=f"ema = {ema}")
    assert Run(recipe, PairTask(recipe, data), tmp_path / "whole").train() == 0
    assert Run(recipe, _Interrupted(recipe, data), tmp_path / "broken").train() == signal.SIGTERM
    resumed = Run(recipe, PairTask(recipe, data), tmp_path / "broken")
    assert 2 <= resumed.step <= 4
    assert resumed.train() == 0
    names = [p.name for p in sorted((tmp_path / "whole" / "state").glob("*.safetensors"))]
    assert names == [*(["average-6.safetensors"] if ema else []), "network-6.safetensors", "optimiser-6.safetensors"]
    for name in (*(f"state/{n}" for n in names), "tiny.safetensors", "tiny-best.safetensors"):
        a, b = (load_file(tmp_path / run / name) for run in ("whole", "broken"))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)


def test_the_weights_that_validate_best_are_kept(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(tmp_path)
    run = Run(recipe, PairTask(recipe, data), tmp_path / "run")
    scores = iter([20.0, 25.0, 22.0])
    monkeypatch.setattr(run.task, "validate", lambda network: {"score": next(scores)})
    run.train()
    best = read_provenance(tmp_path / "run" / "tiny-best.safetensors")
    assert (best.steps, best.scores) == (4, {"validation": {"score": 25.0}})
    resumed = Run(recipe, PairTask(recipe, data), tmp_path / "run")
    assert resumed.best == {"step": 4, "score": 25.0}


def test_a_run_that_diverges_stops_before_it_saves(tmp_path: Path, data: Path) -> None:
    recipe = _recipe(tmp_path, more="")
    run = Run(recipe, PairTask(recipe, data), tmp_path / "run")
    with torch.no_grad():
        next(run.network.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        run.train()
    assert not (tmp_path / "run" / "tiny.safetensors").exists()


def _last_loss(run: Path) -> float:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float([entry["loss"] for entry in entries if "loss" in entry][-1])


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path, data: Path) -> None:
    # No normalisation by batch, which would see half a batch in each process.
    recipe = _recipe(tmp_path, network=_PRENET, loss="ssim = 1.0", length="steps = 3")
    Run(recipe, PairTask(recipe, data), tmp_path / "one").train()
    launch = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "training",
        "--threads",
        "1",
    ]
    train = ["train", str(tmp_path / "tiny.toml"), "--data", str(data), "--run", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, *train], cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "tiny.safetensors") for run in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=1e-3)
    assert done.stdout.count("validation_score") == 2  # the first process alone speaks
    assert done.stdout.count("10 pairs") == 1
    losses = [_last_loss(tmp_path / run) for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_pictures_smaller_than_a_patch_are_counted(tmp_path: Path) -> None:
    for i in range(10):
        side = 16 if i < 7 else 15
        pictures.write(tmp_path / "rain" / "rain" / f"{i}.png", pictures.background(i, side, 32))
        pictures.write(tmp_path / "rain" / "clean" / f"{i}.png", pictures.background(i, side, 32))
    recipe = _recipe(tmp_path)
    recipe = replace(
        recipe, data=replace(recipe.data, held_out=0.0), optimiser=replace(recipe.optimiser, validate_every=0)
    )
    task = PairTask(recipe, tmp_path)
    assert task.found.endswith("layout folders; 3 of 10 pictures to train on are smaller than patch = 16 px")
    assert len(task.patches) == 7
    with pytest.raises(ValueError, match=r"10 of 10 pictures .* patch = 24 px: lower patch"):
        PairTask(replace(recipe, optimiser=replace(recipe.optimiser, patch=24)), tmp_path)
    with pytest.raises(ValueError, match=r"nothing is left to train on, settings\.held_out = 1\.0: lower it"):
        PairTask(replace(recipe, data=replace(recipe.data, held_out=1.0)), tmp_path)


def test_a_recipe_may_name_two_folders(tmp_path: Path) -> None:
    for i in range(6):
        pictures.write(tmp_path / "wet" / f"{i}.png", pictures.rain_over(pictures.background(i), i))
        pictures.write(tmp_path / "dry" / f"{i}gt.png", pictures.background(i))
    recipe = _recipe(tmp_path)
    recipe = replace(recipe, data=replace(recipe.data, folder="wet", clean_folder="dry"))
    assert PairTask(recipe, tmp_path).found == "6 pairs, layout numbers"
    assert {(p.rainy.parent.name, p.clean.parent.name) for p in held_out(recipe, tmp_path)} == {("wet", "dry")}
    with pytest.raises(ValueError, match="layout is of one folder, got 'rain100' and clean_folder"):
        replace(recipe.data, layout="rain100")


def test_train_command_runs_a_recipe_of_pairs(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _recipe(tmp_path, length="epochs = 1", patches="grid", more='precision = "bf16"')
    arguments = ["train", str(tmp_path / "tiny.toml"), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "give --data" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["training", *arguments, "--data", str(data)])
    command.main()
    out = capsys.readouterr().out
    assert out.startswith("10 pairs, layout side-by-side\n")
    assert "step 24  loss" in out
    assert read_provenance(tmp_path / "run" / "tiny.safetensors").steps == 24


def test_a_recipe_says_what_does_not_go_together(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="either steps or epochs"):
        _recipe(tmp_path, length="steps = 3\nepochs = 3")
    with pytest.raises(ValueError, match=r"precision must be one of .*'fp8'"):
        _recipe(tmp_path, more='precision = "fp8"')
    with pytest.raises(ValueError, match="embedding and teacher go together"):
        _recipe(tmp_path, loss="embedding = 0.02")
    recipe = _recipe(tmp_path, loss="attention = 0.1")
    with pytest.raises(ValueError, match="attention maps, which this network has not"):
        Run(recipe, PairTask(recipe, data), tmp_path / "run").train()


def test_the_journal_strikes_out_what_a_killed_run_wrote_after_it_saved(tmp_path: Path) -> None:
    for begin in (0, 2):
        with Journal(tmp_path, step=begin, total=4) as journal:
            for step in range(begin + 1, begin + 4):
                journal.note(step, {"loss": float(begin)})
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["step"], e["loss"]) for e in entries] == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_journal_that_a_power_cut_tore_is_gone_on_with(tmp_path: Path) -> None:
    whole = b'{"step": 1, "loss": 1.0}\n'
    (tmp_path / "log.jsonl").write_bytes(whole + b"7\n\xff\n" + b'{"step": 2, "lo')
    with Journal(tmp_path, step=1, total=4) as journal:
        journal.note(2, {"loss": 2.0})
    assert (tmp_path / "log.jsonl").read_bytes() == whole + b'{"step": 2, "loss": 2.0}\n'


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "write", written.append)
    with Journal(tmp_path, step=0, total=8) as journal:
        journal.tick(2)
    assert "[======" in written[0]
    assert "2/8" in written[0]
    assert written[-1] == "\r\x1b[K"


def test_the_time_that_is_left_goes_by_the_steps_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "write", written.append)
    clock = iter((1000.0, 1020.0, 1020.0))
    monkeypatch.setattr("training.journal.time.monotonic", lambda: next(clock, 1020.0))
    with Journal(tmp_path, step=100, total=3900) as journal:
        journal.tick(110)
    assert "110/3900  2.000 s/step  2:06:20 left" in written[0]


def test_tensorboard_gets_curves_if_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Journal(tmp_path, step=0, total=2, tensorboard=True) as journal:
        assert not (tmp_path / "tensorboard").exists(), "a run that fails before it has anything to say leaves nothing"
        journal.note(1, {"loss": 1.0})
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"loss" in events.read_bytes()
