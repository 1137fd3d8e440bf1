"""Models side by side on held-out clips: the figures are right, one protocol stands in one file, tables hold all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from streamderain.errors import ModelError
from streamderain.networks import Provenance, save_checkpoint
from streamderain.networks.named import NAMED
from tests.training import pictures
from training import command
from training.chart import chart
from training.data import Split, split
from training.errors import UsageError
from training.evaluate_video import Ledger, Material, Protocol, _middle, _untouched, gather, measure, open_model
from training.noreference import neighbours
from training.recipe import ClipData, ClipRecipe, load_recipe

_SMALL = Protocol(stills=1, repeats=1, frames=4, size=(48, 64), real=4)


def _material(frames: int = 5) -> Material:
    """Two standing scenes with streaks that come and go."""
    clips = []
    for seed in (3, 9):
        clean = pictures.background(seed)
        rainy = [pictures.rain_over(clean, seed * 100 + t) for t in range(frames)]
        clips.append((f"scene {seed}", _tensor(rainy), _tensor([clean] * frames)))
    return Material(tuple(clips), (("dry", clips[0][2]),), (("real", clips[0][1], neighbours(clips[0][1])),))


def _tensor(clip: list[pictures.Image]) -> Tensor:
    return torch.from_numpy(np.stack(clip)).permute(0, 3, 1, 2).float() / 255


def test_doing_nothing_scores_what_torchmetrics_says_of_the_rain() -> None:
    material = _material()
    result = measure("none", material, _SMALL)
    for kind, rainy, target in material.rainy:
        each = [float(peak_signal_noise_ratio(r, t, data_range=1.0)) for r, t in zip(rainy, target, strict=True)]
        figures = result["kinds"][kind]
        assert figures["psnr"] == pytest.approx(np.mean(each), abs=1e-3)
        assert figures["first"] == pytest.approx(each[0], abs=1e-3)
        assert figures["settled"] == pytest.approx(np.mean(each[2:]), abs=1e-3)
        error = (rainy.diff(dim=0) - target.diff(dim=0)).abs().mean() * 255
        assert figures["temporal"] == pytest.approx(float(error), abs=1e-3)
    assert (result["model"], result["parameters"], result["cut"]) == ("no processing", 0, {})
    assert result["dry"][0] == {"kind": "dry", "first": 100.0, "rest": 100.0, "worst": 100.0}


def test_the_past_helps_only_who_is_allowed_one() -> None:
    material = _material()
    nothing, whole, single = (measure(m, material, _SMALL) for m in ("none", "classic", "single:classic"))
    assert whole["all"]["psnr"] > nothing["all"]["psnr"] + 5
    assert whole["all"]["temporal"] < 0.7 * nothing["all"]["temporal"]
    assert single["all"] == nothing["all"], "without its past the filter has nothing to compare with"
    assert single["model"] == "classic, every frame alone"
    assert whole["real"]["real"]["streaks"] < 0.5 * nothing["real"]["real"]["streaks"]


def test_a_network_that_smears_over_a_cut_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    material = _material()
    assert measure("classic", material, _SMALL)["cut"]["worst"] == 0.0
    monkeypatch.setattr("streamderain.preprocess.past.same_scene", lambda x, _: torch.ones(x.shape[0]))
    smeared = measure("classic", material, _SMALL)["cut"]
    assert smeared["worst"] < -3
    assert smeared["after"] < smeared["fresh"] - 3


def test_the_chart_is_full_of_bright_thin_things() -> None:
    picture = chart((96, 128))
    assert picture.shape == (3, 96, 128)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    grey = picture.mean(0).numpy()
    thin = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((1, 7), np.uint8))
    for band in np.split(thin, 4):  # words, railing, lines, lights
        assert (band > 0.2).mean() > 0.005
    with pytest.raises(ValueError, match="at least 64"):
        chart((40, 128))


def test_labels_read_the_weights_of_others(tmp_path: Path) -> None:
    spec = NAMED["paper-a"].spec
    save_checkpoint(tmp_path / "w.safetensors", spec.build(), spec, Provenance(), half=False)
    with open_model(f"ours={tmp_path / 'w.safetensors'}") as (label, _, derainer):
        assert (label, derainer.spec.architecture) == ("ours", "detail-resnet")
    with pytest.raises(ModelError, match="no model 'nobody'"), open_model("nobody"):
        pass


def test_results_of_one_protocol_stand_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    ledger = Ledger.open(path, _SMALL)
    others: dict[str, object] = {name: {} for name in ("kinds", "all", "dry", "cut", "real")}
    for model, score in (("a", 1), ("b", 2), ("a", 3)):
        ledger.add({"model": model, "score": score, "protocol": _SMALL.as_json(), **others})
    again = Ledger.open(path, _SMALL)
    assert [(r["model"], r["score"]) for r in again.results] == [("a", 3), ("b", 2)]
    with pytest.raises(UsageError, match=r"frames \(4 there, 10 here\).* seed \(1 there, 2 here\).*another --json"):
        Ledger.open(path, Protocol(seed=2))
    assert set(tmp_path.iterdir()) == {path}


def test_results_on_other_clips_are_not_put_beside_these(tmp_path: Path) -> None:
    material = _material()
    path = tmp_path / "r.json"
    ledger = Ledger.open(path, _SMALL)
    ledger.add(measure("none", material, _SMALL))
    ledger.fit(material)
    with pytest.raises(UsageError, match=f"on other clips: {material.rainy[0][0]}"):
        ledger.fit(replace(material, rainy=tuple(("film", *clips) for _, *clips in material.rainy)))


def _data(folder: Path) -> Path:
    """Stills and a recipe that holds half of them out."""
    for seed in range(4):
        pictures.write(folder / f"{seed}.png", pictures.background(seed, 100, 130))
    recipe = folder / "r.toml"
    recipe.write_text(
        'name = "r"\n[network]\narchitecture = "identity"\n[data]\nstills = ["*.png"]\nclips = []\n'
        "held_out_stills = 0.25\n[optimiser]\nsteps = 1\nbatch = 1\nframes = 2\npatch = 32\n"
    )
    return recipe


def test_evaluate_video_command_adds_to_what_it_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _data(tmp_path)
    for index in range(3):
        pictures.write(tmp_path / "real" / f"{index}.png", pictures.rain_over(pictures.background(7), index))
    out, table = tmp_path / "r.json", tmp_path / "r.md"
    for model in ("none", "classic"):
        arguments = ["evaluate-video", str(recipe), "--data", str(tmp_path), "--models", model, "--frames", "4"]
        arguments += ["--size", "64x48", "--json", str(out), "--table", str(table), "--real", str(tmp_path / "real")]
        monkeypatch.setattr(sys, "argv", ["training", *arguments])
        command.main()
    assert [r["model"] for r in json.loads(out.read_text())] == ["no processing", "classic"]
    text = table.read_text()
    for title in ("stills, 1 clips", "all, 1 clips", "dry clips", "real rain, real"):
        assert f"**{title}" in text
    rows = [line for line in text.splitlines() if line.startswith("| classic |")]
    assert len(rows) == 4
    assert '"model": "classic"' in capsys.readouterr().out


def test_real_clips_that_show_no_rain_between_frames_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    recipe = load_recipe(_data(tmp_path))
    assert isinstance(recipe, ClipRecipe)
    files = split(recipe.data, tmp_path)["validation"]
    for name, scenes, told in (
        ("short", (7, 7), r"short: .* only 2 were taken"),
        ("cuts", (1, 2, 3), r"cuts is cut between all of its frames"),
    ):
        for index, seed in enumerate(scenes):
            pictures.write(tmp_path / name / f"{index}.png", pictures.background(seed))
        with pytest.raises(UsageError, match=told):
            gather(recipe.data, files, _SMALL, real=[tmp_path / name])
    pictures.write(tmp_path / "short" / "2.png", pictures.background(7, 100, 130))
    with pytest.raises(UsageError, match="short holds pictures of several sizes"):
        gather(recipe.data, files, _SMALL, real=[tmp_path / "short"])


def test_real_rain_is_cut_about_its_middle(tmp_path: Path) -> None:
    wide = pictures.background(7, 100, 130)
    for index in range(4):
        pictures.write(tmp_path / f"{index}.png", pictures.rain_over(wide, index))
    clip, _ = _middle(tmp_path, replace(_SMALL, real=3))
    assert clip.shape == (3, 3, 48, 64)
    torch.testing.assert_close(clip[2], _tensor([pictures.rain_over(wide, 2)])[0, :, 26:74, 33:97])


def test_another_seed_is_other_rain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures.write(tmp_path / "a.png", pictures.background(7, 100, 130))
    data = load_recipe(_data(tmp_path / "recipe")).data
    assert isinstance(data, ClipData)
    monkeypatch.setattr("training.evaluate_video._dry", lambda *_: iter(()))
    path = (tmp_path / "a.png",)
    for files in (Split(path, ()), Split((), path)):
        one, again, other = (gather(data, files, replace(_SMALL, seed=seed)).rainy[0][1] for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_a_dry_clip_is_judged_by_its_first_frame_the_mean_of_the_rest_and_the_worst_of_them() -> None:
    clip = torch.full((4, 3, 8, 8), 0.5)
    out = clip + torch.tensor([0.1, 0.001, 0.01, 0.01]).view(4, 1, 1, 1)
    assert _untouched(out, clip) == pytest.approx({"first": 20, "rest": (60 + 40 + 40) / 3, "worst": 40}, abs=1e-2)


def test_it_rains_otherwise_on_every_video(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):  # the same scene twice
        pictures.write(tmp_path / name, pictures.background(7))
    data = load_recipe(_data(tmp_path / "recipe")).data
    assert isinstance(data, ClipData)
    (kind_a, one, clean), (kind_b, other, again) = gather(
        data, Split((), (tmp_path / "a.png", tmp_path / "b.png")), _SMALL
    ).rainy
    assert (kind_a, kind_b) == ("a", "b")
    assert float((one - clean - (other - again)).abs().max()) > 0.02


@pytest.mark.parametrize("name", ["sheet.png", "loop.mp4"])
def test_preview_command_shows_rain_over_training_scenes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = _data(tmp_path / "data"), tmp_path / name
    arguments = ["preview", str(recipe), str(out), "--data", str(recipe.parent), "--clips", "3", "--columns", "2"]
    arguments += ["--frames", "4", "--size", "64x48", "--seconds", "0.4", "--family", "rain100h", "--overwrite"]
    out.write_text("older")
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    command.main()
    assert len(capsys.readouterr().out.splitlines()) == 3
    if name == "sheet.png":  # two rows of clips, each over its enlarged crop; the fourth place is white
        picture = cv2.imread(str(out))
        assert picture.shape == (2 * (48 + 6 + 48) + 6, 2 * 64 + 6, 3)
        assert picture[-40:, -40:].min() == 255
        assert picture[:48, :64].mean() < 250
        return
    capture = cv2.VideoCapture(str(out))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1].astype(int))
    assert len(frames) == 10
    assert frames[0].shape == (2 * 48 + 6, 2 * 64 + 6, 3)
    assert np.abs(frames[8] - frames[0]).mean() < np.abs(frames[8] - frames[2]).mean(), "it begins anew after four"
