"""The demo and the rain that users can lay over their own clips, on real files."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from streamderain.frame import Frame
from training import command
from training.demo import demo
from training.synthesise import add_rain

_BASE = Fraction(1, 30)


def _clip(count: int, *, dtype: torch.dtype = torch.uint8) -> list[Frame]:
    pixels = torch.full((48, 64, 3), torch.iinfo(dtype).max // 4).to(dtype)
    return [Frame(pixels, pts=100 + 3 * i, time_base=_BASE, duration=3) for i in range(count)]


def test_demo_writes_three_videos_and_measures_them(tmp_path: Path) -> None:
    before, after = demo(tmp_path / "demo", model="identity", frames=4, size=(48, 64), seed=1)
    assert after == pytest.approx(before, abs=3.0)  # nothing was derained; encoding tiny pictures costs
    sizes = {}
    for name in ("rainy", "clean", "side-by-side"):
        with av.open(str(tmp_path / "demo" / f"{name}.mp4")) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == 4
        sizes[name] = (frames[0].width, frames[0].height)
    assert sizes == {"rainy": (64, 48), "clean": (64, 48), "side-by-side": (128, 48)}
    assert not list((tmp_path / "demo").glob("*.part"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_rain_over_a_clip_brightens_it_and_keeps_its_times(dtype: torch.dtype) -> None:
    clip = _clip(3, dtype=dtype)
    rainy = list(add_rain(clip, seed=2))
    assert [(f.pts, f.duration, f.time_base) for f in rainy] == [(f.pts, 3, _BASE) for f in clip]
    assert all(f.pixels.dtype == dtype for f in rainy)
    assert rainy[0].pixels.float().mean() > clip[0].pixels.float().mean()
    again = list(add_rain(_clip(3, dtype=dtype), seed=2))
    assert all(torch.equal(a.pixels.int(), b.pixels.int()) for a, b in zip(rainy, again, strict=True))


def test_synthesise_command_keeps_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo(tmp_path, model="identity", frames=3, size=(48, 64), seed=1)
    out = tmp_path / "rain.mp4"
    monkeypatch.setattr(sys, "argv", ["training", "synthesise", str(tmp_path / "rainy.mp4"), str(out), "--seed", "4"])
    command.main()
    with av.open(str(tmp_path / "rainy.mp4")) as one, av.open(str(out)) as other:
        pts = [[f.pts for f in c.decode(video=0)] for c in (one, other)]
    assert pts[0] == pts[1]


def test_synthesise_replaces_a_file_only_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo(tmp_path, model="identity", frames=3, size=(48, 64), seed=1)
    out = tmp_path / "rain.mp4"
    out.write_bytes(b"mine")
    arguments = ["training", "synthesise", str(tmp_path / "rainy.mp4"), str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        command.main()
    assert out.read_bytes() == b"mine"
    monkeypatch.setattr(sys, "argv", [*arguments, "--overwrite"])
    command.main()
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) == 3


def test_evaluate_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(10):
        noise = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(i))
        picture = torch.nn.functional.interpolate(noise[None], (90, 120), mode="bicubic")[0].clamp(0, 1)
        frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).mul(255).byte().numpy(), format="rgb24")
        with av.open(str(tmp_path / f"{i}.png"), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 120, 90, "rgb24"
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\n[network]\narchitecture = "identity"\n[data]\nstills = ["*.png"]\nclips = []\n'
        "held_out_stills = 0.2\n[optimiser]\nsteps = 1\nbatch = 1\nframes = 2\npatch = 32\n"
    )
    arguments = ["evaluate", str(recipe), "--weights", "identity", "--data", str(tmp_path), "--frames", "2"]
    arguments += ["--size", "80x64", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    command.main()
    scores = json.loads((tmp_path / "out.json").read_text())
    assert scores == json.loads(capsys.readouterr().out)
    assert (scores["network"], scores["sha256"], scores["part"]) == ("r", None, "validation")
    assert scores["stills"]["clips"] == 2
    assert scores["stills"]["psnr_out"] == scores["stills"]["psnr_in"] < 40


def test_demo_command_writes_a_sheet_of_two_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["demo", str(tmp_path / "d"), "--model", "identity", "--frames", "3", "--size", "64x48"]
    monkeypatch.setattr(sys, "argv", ["training", *arguments, "--sheet", str(tmp_path / "s.png")])
    command.main()
    with av.open(str(tmp_path / "s.png")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (2 * (240 + 6 + 320 + 6), 3 * (320 + 6), 3)  # a frame, and its crop below, twice
    assert abs(picture[:240, :320].astype(int) - picture[:240, 326:646]).mean() < 12, "identity: after is as before"
