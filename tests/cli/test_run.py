"""``streamderain run`` on videos, in this process: what comes out, what is said, and every refusal with its code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import click.testing
import numpy as np
import pytest
from click.testing import CliRunner

from streamderain.cli import cli
from streamderain.cli.report import Reporter
from streamderain.errors import DeviceError

Clip = Callable[..., Path]

pytestmark = pytest.mark.timeout(120)


def run(*arguments: object, model: str = "identity") -> click.testing.Result:
    return CliRunner().invoke(cli, ["run", "-m", model, "--device", "cpu", *map(str, arguments)])


def pictures(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def frame_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def test_every_frame_at_its_time_and_one_line_at_each_end(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(), tmp_path / "out.mp4"
    result = run(rainy, out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert frame_times(out) == frame_times(rainy)
    assert np.abs(pictures(out) - pictures(rainy)).mean() < 3
    first, *_, last = result.stderr.splitlines()
    for word in ("identity", "cpu", "eager", "fp32", "libx264", "out.mp4"):
        assert word in first
    assert "12 frames in" in last
    assert "frames/s" in last
    assert str(out) in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "rainy.mp4"]


def test_sound_is_kept_unless_unwanted(clip: Clip, tmp_path: Path) -> None:
    rainy = clip(sound=True)
    for choice, kinds in (("copy", ["audio", "video"]), ("none", ["video"])):
        out = tmp_path / f"{choice}.mp4"
        assert run(rainy, out, "--audio", choice).exit_code == 0
        with av.open(str(out)) as container:
            assert sorted(stream.type for stream in container.streams) == kinds


def test_options_reach_the_encoder(clip: Clip, tmp_path: Path) -> None:
    rainy, fine, coarse = clip(), tmp_path / "fine.mkv", tmp_path / "coarse.mkv"
    hevc = ("--codec", "libx265", "--preset", "ultrafast", "-e", "x265-params=log-level=none:keyint=1")
    assert run(rainy, fine, "--crf", 5, *hevc).exit_code == 0
    assert run(rainy, coarse, "--crf", 45, *hevc).exit_code == 0
    assert fine.stat().st_size > coarse.stat().st_size
    with av.open(str(coarse)) as container:
        assert container.streams.video[0].codec_context.name == "hevc"
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_part_of_a_video(clip: Clip, tmp_path: Path) -> None:
    rainy = clip(frames=30)
    for arguments, count in (
        (("--frames", 7), 7),
        (("--start", "0.4"), 20),
        (("--start", "0:00.4", "--duration", 0.2), 5),
    ):
        out = tmp_path / "out.mp4"
        result = run(rainy, out, "--overwrite", *arguments)
        assert result.exit_code == 0, result.stderr
        assert len(frame_times(out)) == count
        assert frame_times(out)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), 30),
        (("--duration", "100"), 30),
        (("--duration", "0.4"), 10),
        (("--frames", "7", "--duration", "0.4"), 7),
        (("--start", "0.4"), 20),
        (("--start", "0.4", "--duration", "100"), 20),
        (("--start", "0.4", "--duration", "0.9"), 20),
        (("--start", "0.4", "--frames", "5"), 5),
    ],
)
def test_progress_expects_what_will_come(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: int
) -> None:
    told: list[int | None] = []
    monkeypatch.setattr(Reporter, "start_progress", lambda self, total: told.append(total))
    out = tmp_path / "out.mkv"
    assert run(clip(frames=30), out, *arguments).exit_code == 0
    assert told == [expected] == [len(frame_times(out))]


def test_one_frame_is_singular(clip: Clip, tmp_path: Path) -> None:
    result = run(clip(), tmp_path / "out.mp4", "--frames", "1")
    assert "1 frame in" in result.stderr


def test_compare_side_shows_rainy_left_and_clean_right(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(), tmp_path / "side.mp4"
    assert run(rainy, out, "--compare", "side", "--crf", 1).exit_code == 0
    shown, given = pictures(out), pictures(rainy)
    assert shown.shape == (12, 48, 128, 3)
    assert np.abs(shown[:, :, :60] - given[:, :, :60]).mean() < 3
    assert np.abs(shown[:, :, 68:] - given[:, :, 4:]).mean() < 3


def test_compare_wipe_has_a_white_line(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(), tmp_path / "wipe.mp4"
    assert run(rainy, out, "--compare", "wipe", "--crf", 1).exit_code == 0
    shown, given = pictures(out), pictures(rainy)
    assert shown.shape == given.shape
    assert shown[:, :, 31:33].mean() > 220
    assert np.abs(shown[:, :, :26] - given[:, :, :26]).mean() < 4


def test_null_writes_nothing(clip: Clip, tmp_path: Path) -> None:
    rainy = clip()
    result = run(rainy, "null:")
    assert result.exit_code == 0, result.stderr
    assert "12 frames" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rainy.mp4"]


def test_image_sequence_both_ways(clip: Clip, tmp_path: Path) -> None:
    rainy, folder = clip(), tmp_path / "frames"
    folder.mkdir()
    result = run(rainy, folder / "f%03d.png")
    assert result.exit_code == 0, result.stderr
    assert len(list(folder.glob("f*.png"))) == 12
    back = tmp_path / "back.mp4"
    result = run(folder / "f%03d.png", back, "--frame-rate", "30000/1001")
    assert result.exit_code == 0, result.stderr
    assert frame_times(back) == pytest.approx([index * 1001 / 30000 for index in range(12)], abs=1e-6)


def test_log_in_json(clip: Clip, tmp_path: Path) -> None:
    result = run(clip(), tmp_path / "out.mp4", "--log-format", "json")
    assert result.exit_code == 0
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["event"] for event in events] == ["start", "done"]
    start, done = events
    assert (start["device"], start["backend"], start["precision"]) == ("cpu", "eager", "fp32")
    assert (done["frames"], done["interrupted"], done["exit_code"]) == (12, False, 0)
    assert done["seconds"] > 0


def test_error_in_json(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing.mp4", tmp_path / "out.mp4", "--log-format", "json")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, json.loads(line)["exit_code"], json.loads(line)["event"]) == (4, 4, "error")


def test_shipped_models_run(clip: Clip, tmp_path: Path) -> None:
    from streamderain.networks import model_names

    for name in model_names():
        out = tmp_path / f"{name}.mp4"
        assert run(clip(), out, model=name).exit_code == 0
        assert len(frame_times(out)) == 12


# ------------------------------------------------------------------- refusals


def assert_refused(result: click.testing.Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stderr.splitlines()[-1].startswith("streamderain: ")


def test_input_that_is_not_there_is_4(tmp_path: Path) -> None:
    assert_refused(run(tmp_path / "nothing.mp4", tmp_path / "out.mp4"), 4, "nothing.mp4")


def test_input_that_is_no_video_is_4(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("shopping list\n" * 100)
    assert_refused(run(text, tmp_path / "out.mp4"), 4, "notes.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_existing_output_is_2_and_untouched(clip: Clip, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    assert_refused(run(clip(), out), 2, "out.mp4", "--overwrite")
    assert out.read_text() == "precious"
    assert run(clip(), out, "--overwrite").exit_code == 0
    assert len(frame_times(out)) == 12


def test_bad_output_name_is_told_before_the_network_is_prepared(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamderain.session import Derainer

    def prepare(self: Derainer, height: int, width: int) -> None:
        raise AssertionError("minutes of building, for nothing")

    monkeypatch.setattr(Derainer, "prepare", prepare)
    rainy = clip()
    assert_refused(run(rainy, tmp_path), 2, "is a folder")
    assert_refused(run(rainy, tmp_path / "nowhere" / "out.mp4"), 1, "nowhere")
    assert_refused(run(rainy, tmp_path / "out"), 2, "no container")
    assert_refused(run(rainy, tmp_path / "nowhere" / "o%03d.png"), 1, "nowhere")
    (tmp_path / "out.mp4").write_text("precious")
    assert_refused(run(rainy, tmp_path / "out.mp4"), 2, "--overwrite")


def test_unknown_model_device_and_precision(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(), tmp_path / "out.mp4"
    assert_refused(run(rainy, out, model="nonsense"), 5, "nonsense")
    assert_refused(run(rainy, out, "--device", "toaster"), 2, "toaster")
    assert_refused(run(rainy, out, "--device", "cuda:99"), 5, "cuda:99", "use --device cpu or --allow-fallback")
    assert_refused(run(rainy, out, "--precision", "fp16"), 5, "fp16", "use --precision fp32 or --allow-fallback")
    assert_refused(run(rainy, out, "--backend", "abacus"), 2, "abacus")
    assert [path.name for path in tmp_path.iterdir()] == ["rainy.mp4"]


def test_fallback_is_said_aloud(clip: Clip, tmp_path: Path) -> None:
    result = run(clip(), tmp_path / "out.mp4", "--precision", "fp16", "--allow-fallback")
    assert result.exit_code == 0
    assert "fp32" in result.stderr
    assert "fp16" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--codec", "nonsense"), "nonsense"),
        (("--crf", "-3"), "-3"),
        (("-e", "nonsense=1"), "nonsense"),
        (("--codec", "ffv1", "--crf", "30"), "--crf"),
        (("--duration", "0"), "above zero"),
        (("--preset", "nonsense"), "nonsense"),
        (("--frame-rate", "25"), "25"),
        (("--start", "100"), "100"),
    ],
)
def test_values_that_cannot_be_are_one_clear_refusal(
    clip: Clip, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    result = run(clip(), tmp_path / "out.mp4", *arguments)
    assert result.exit_code == (4 if "--start" in arguments else 2)
    assert_refused(result, result.exit_code, word)
    assert not (tmp_path / "out.mp4").exists()


def test_damaged_video_fails_or_is_concealed_and_3(clip: Clip, tmp_path: Path) -> None:
    rainy = clip(frames=40)
    data = bytearray(rainy.read_bytes())
    with av.open(str(rainy)) as container:
        packet = list(container.demux(video=0))[15]
    assert packet.pos is not None
    data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    damaged, out = tmp_path / "damaged.mp4", tmp_path / "out.mp4"
    damaged.write_bytes(data)
    failed = run(damaged, out, "-e", "g=5")
    assert_refused(failed, 4, "damaged.mp4", f"what was done until then is in {out}.part")
    assert not out.exists()
    concealed = run(damaged, out, "-e", "g=5", "--on-error", "conceal", "--resume")
    assert concealed.exit_code == 3, concealed.stderr
    assert "could not be decoded" in concealed.stderr
    assert "frames taken over, " in concealed.stderr
    assert len(frame_times(out)) == 40


def test_input_that_is_cut_off_is_derained_to_its_end_and_3(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip("rainy.mkv", frames=40), tmp_path / "out.mp4"
    rainy.write_bytes(rainy.read_bytes()[:-2000])
    result = run(rainy, out, "--log-format", "json")
    assert result.exit_code == 3, result.stderr
    assert "cut off: 2,000 bytes are missing at the end of the file" in result.stderr
    (done,) = [line for line in map(json.loads, result.stderr.splitlines()) if line["event"] == "done"]
    assert (done["missing_bytes"], done["exit_code"]) == (2000, 3)
    assert len(frame_times(out)) == done["frames"] > 10
    assert run(rainy, out, "--overwrite", "--frames", "5").exit_code == 0


def test_engine_that_fails_on_the_way_leaves_nothing_under_the_final_name(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamderain.session import Session

    steps = 0
    whole = Session.step

    def step(self: Session, frame: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise DeviceError("cuda:0 is out of memory", hint="use --device cpu")
        return whole(self, frame)

    monkeypatch.setattr(Session, "step", step)
    result = run(clip(), tmp_path / "out.mp4")
    assert_refused(result, 5, "out of memory", "--device cpu")
    assert not (tmp_path / "out.mp4").exists()


# ---------------------------------------------------------------------- probe


def test_probe_tells_size_times_colour_streams_and_plan(clip: Clip) -> None:
    rainy = clip(sound=True)
    result = CliRunner().invoke(cli, ["probe", str(rainy), "--json", "-m", "identity", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["width"], found["height"], found["frame_rate"], found["rotation"]) == (64, 48, "25", 0)
    assert (found["frames"], found["time_base"], found["bit_depth"], found["live"]) == (12, "1/12800", 8, False)
    assert any("audio" in stream and "aac" in stream for stream in found["streams"])
    assert found["plan"] == "identity on cpu, eager, fp32, at 64x48, 1 stream copied along"
    plain = CliRunner().invoke(cli, ["probe", str(rainy), "-m", "identity", "--device", "cpu"])
    assert plain.exit_code == 0
    told = [line.split(maxsplit=1) for line in plain.stdout.splitlines()]
    assert {("width", "64"), ("height", "48"), ("live", "no")} <= {(key, value) for key, value in told}


def test_what_a_file_says_of_itself_is_not_obeyed_by_a_terminal(tmp_path: Path) -> None:
    spoken = tmp_path / "\x1b[2J.mkv"
    with av.open(str(spoken), "w") as out:
        video, tone = out.add_stream("mpeg4", rate=25), out.add_stream("pcm_s16le", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tone.metadata["language"] = "\x1b]0;evil\x07\n streamderain: all is well"
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        out.mux([*video.encode(picture), *video.encode(None)])
    result = CliRunner().invoke(cli, ["probe", str(spoken), "-m", "identity", "--device", "cpu"])
    assert result.exit_code == 0
    assert "?[2J.mkv" in result.output
    assert "?]0;evil?" in result.output
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert "\n streamderain: all is well" not in result.output


def test_probe_of_nothing_is_4(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["probe", str(tmp_path / "nothing.mp4")])
    assert_refused(result, 4, "nothing.mp4")


def test_probe_of_what_cannot_run_says_why(clip: Clip) -> None:
    result = CliRunner().invoke(cli, ["probe", str(clip()), "--json", "--device", "cuda:99"])
    assert result.exit_code == 0
    assert "cannot run" in json.loads(result.stdout)["plan"]


def test_damaged_sound_is_the_inputs_fault_or_left_out_with_a_code_of_its_own(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip("rainy.ts", sound=True, frames=25), tmp_path / "out.mp4"
    data = bytearray(rainy.read_bytes())
    header = [match.start() for match in re.finditer(rb"\xff\xf1", data)][8]
    data[header] = 0
    rainy.write_bytes(data)
    refused = run(rainy, out)
    assert refused.exit_code == 4
    assert "rainy.ts: a packet of sound" in refused.stderr
    assert not out.exists()
    result = run(rainy, out, "--on-error", "conceal")
    assert result.exit_code == 3, result.stderr
    assert "1 damaged packet of sound left out" in result.stderr
    assert len(frame_times(out)) == 25
