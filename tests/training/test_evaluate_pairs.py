"""The evaluation on pairs: its figures against cv2 and torchmetrics, its table, its contact sheet, its refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from streamderain.errors import ModelError
from streamderain.networks import NetworkSpec, Provenance, read_provenance, save_checkpoint
from streamderain.networks.prenet import PReNet, published_name
from streamderain.session import Derainer
from tests.training import pictures
from training import command
from training.evaluate_pairs import evaluate_pairs, find_spec, open_network, pick
from training.pairs import find_pairs
from training.published import guess_set, table
from training.recipe import PairRecipe, load_recipe
from training.sheet import Sheet, heaviest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures.write_side_by_side(tmp_path / "rain800", 3)
    return tmp_path / "rain800"


def test_figures_are_those_of_cv2_and_torchmetrics(folder: Path) -> None:
    result = evaluate_pairs(Derainer("identity", device="cpu"), find_pairs(folder))
    psnr, ssim = [], []
    for i in range(3):
        both = cv2.imread(str(folder / f"{i}.png"))
        clean, rainy = both[:, :64], both[:, 64:]
        psnr.append(cv2.PSNR(rainy, clean))
        tensors = [torch.from_numpy(np.ascontiguousarray(t)).permute(2, 0, 1)[None] / 255 for t in (rainy, clean)]
        _, full = structural_similarity_index_measure(
            *tensors, data_range=1.0, reduction="none", return_full_image=True
        )
        ssim.append(float(full[..., 5:-5, 5:-5].mean()))
    assert result["psnr"] == result["psnr_in"] == pytest.approx(np.mean(psnr), abs=1e-3)
    assert result["ssim"] == result["ssim_in"] == pytest.approx(np.mean(ssim), abs=1e-3)
    assert result["psnr_y"] > result["psnr"]  # grey rain: luma has 219 levels of 255
    assert (result["images"], result["parameters"]) == (3, 0)
    assert result["seconds"] > 0
    assert list(result["each"]) == ["0", "1", "2"]


def test_the_two_largest_of_rain800s_hundred_are_left_out(tmp_path: Path) -> None:
    for i in range(100):
        side = 12 if i in (30, 70) else 8
        pictures.write(tmp_path / f"{i}.png", pictures.background(i, side, 16))
    pairs = find_pairs(tmp_path, layout="side-by-side")
    assert [p.name for p in pick(pairs)] == [str(i) for i in range(100) if i not in (30, 70)]
    assert len(pick(pairs[:99])) == 99  # not that set
    assert len(pick(pairs, limit=2)) == 2


def test_weights_of_prenets_authors_are_read_by_their_names(folder: Path, tmp_path: Path) -> None:
    network = PReNet()
    theirs = {}
    names = [f"conv{n}.0" for n in (0, "_i", "_f", "_g", "_o", "")]
    names += [f"res_conv{b}.{c}" for b in range(1, 6) for c in (0, 2)]
    for name in (f"{layer}.{kind}" for layer in names for kind in ("weight", "bias")):
        theirs[name] = network.state_dict()[published_name(name)]
    torch.save(theirs, tmp_path / "net.pth")
    save_checkpoint(tmp_path / "p.safetensors", network, NetworkSpec("prenet"), Provenance(), half=False)
    scores = []
    for weights in ("net.pth", "p.safetensors"):
        with open_network(NetworkSpec("prenet"), str(tmp_path / weights), device="cpu") as derainer:
            scores.append(evaluate_pairs(derainer, find_pairs(folder)[:1])["psnr"])
    assert scores[0] == scores[1]
    with (
        pytest.raises(ModelError, match="only PReNet's own"),
        open_network(NetworkSpec("ecnet"), str(tmp_path / "net.pth")),
    ):
        pass


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    spec = NetworkSpec("detail-resnet", {"channels": 4, "blocks": 1})
    save_checkpoint(path, spec.build(), spec, Provenance(), half=False)
    with (
        pytest.raises(ModelError, match=r"not of .*16.*says .*4"),
        open_network(find_spec("paper-a"), str(path), device="cpu"),
    ):
        pass
    with pytest.raises(ModelError, match=r"no network 'paper-c': known: .*paper-b-no-cab"):
        find_spec("paper-c")
    assert find_spec("paper-b-no-cab").options == {"skips": "mspam"}


def test_the_table_stands_beside_the_published_figures(folder: Path) -> None:
    result = {"network": "identity", **evaluate_pairs(Derainer("identity", device="cpu"), find_pairs(folder))}
    text = table([result], dataset="rain800")
    assert "| paper B | published | 27.78 | 0.897 |" in text
    assert f"| identity | ours | {result['psnr']:.2f} |" in text
    assert "Pix2Pix" not in text
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert "published" not in table([result], dataset=None)
    assert [guess_set(p) for p in ("data/Rain100H/test", "a/rain_800", "b")] == ["rain100h", "rain800", None]


def test_the_sheet_shows_the_three_and_where_it_rains_most(tmp_path: Path) -> None:
    clean = torch.full((3, 48, 64), 0.25)
    rainy = clean.clone()
    rainy[:, 30:38, 10:18] = 0.75
    assert heaviest(rainy, clean, 8) == (30, 10)
    sheet = Sheet(rows=1, width=64, crop=8)
    for _ in range(2):
        sheet.add("a", rainy, clean, clean)
    sheet.write(tmp_path / "sheet.png")
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape == (48 + 64 + 12, 3 * 70, 3)
    assert picture[60:110, 5:60].mean() == pytest.approx(191, abs=1)  # the crop of the rainy picture
    assert picture[60:110, 75:130].mean() == pytest.approx(64, abs=1)


def test_evaluate_command_takes_a_network_or_a_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {key: str(tmp_path / name) for key, name in (("json", "a.json"), ("table", "a.md"), ("sheet", "a.png"))}
    arguments = ["evaluate", "--weights", "identity", "--data", str(folder), "--device", "cpu"]
    options = [word for key, path in files.items() for word in (f"--{key}", path)]
    monkeypatch.setattr(sys, "argv", ["training", *arguments, "--network", "identity", "--limit", "2", *options])
    command.main()
    shown, kept = json.loads(capsys.readouterr().out), json.loads(Path(files["json"]).read_text())
    keys = {"psnr", "ssim", "psnr_y", "ssim_y", "psnr_in", "ssim_in", "seconds", "parameters", "images", "network"}
    assert keys <= shown.keys()
    assert shown["layout"] == "side-by-side"
    assert {k: v for k, v in kept.items() if k != "each"} == shown
    assert "published" in Path(files["table"]).read_text()
    assert cv2.imread(files["sheet"]) is not None
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "either a recipe" in capsys.readouterr().err


def test_evaluate_command_measures_what_a_recipe_holds_out_and_publish_takes_scores_of_the_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\ntask = "pairs"\n[network]\narchitecture = "detail-resnet"\n'
        '[data]\nfolder = "rain800"\nheld_out = 0.4\n[optimiser]\nsteps = 1\nbatch = 1\npatch = 16\n[loss]\n'
    )
    loaded = load_recipe(recipe)
    assert isinstance(loaded, PairRecipe)
    weights = tmp_path / "mine.safetensors"
    save_checkpoint(weights, loaded.network.build(), loaded.network, Provenance(), half=False)
    arguments = ["evaluate", str(recipe), "--weights", str(weights), "--data", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["training", *arguments, "--json", str(tmp_path / "a.json")])
    command.main()
    assert json.loads(capsys.readouterr().out)["part"] == "validation"
    kept = json.loads((tmp_path / "a.json").read_text())
    assert set(kept["each"]) in ({"0", "1"}, {"2", "0", "1"})  # pictures 0 and 1 share a background

    out = tmp_path / "out.safetensors"
    publish = ["publish", str(recipe), "--weights", str(weights), "--scores", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", ["training", *publish, "--out", str(out)])
    command.main()
    scores = read_provenance(out).scores
    assert (scores["part"], scores["psnr"]) == ("validation", kept["psnr"])
    assert not {"each", "data", "device"} & set(scores)  # where the pictures lie is nobody's business
    save_checkpoint(weights, loaded.network.build(), loaded.network, Provenance(), half=False)
    before = out.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "a.json holds scores of other weights" in capsys.readouterr().err
    assert out.read_bytes() == before
