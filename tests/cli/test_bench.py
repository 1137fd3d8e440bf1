"""``streamderain bench``: figures that hang together, and a clip that other decoders read."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner

from streamderain import Derainer, Frame
from streamderain.bench import Clock, ratio, time_network, time_pipeline, write_clip
from streamderain.cli.app import cli
from streamderain.errors import OutputError, OutputExistsError, OutputOptionError
from streamderain.session import Session
from streamderain.video import VideoSource, open_sink, open_source

Clip = Callable[..., Path]
Start = Callable[..., Any]


def test_the_clip_that_is_made_up_is_a_video_that_moves(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", width=64, height=48, frames=12)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 48)
    assert len(pictures) == 12
    assert all((a != b).mean() > 0.2 for a, b in pairwise(pictures))


def test_both_take_turns_and_every_frame_has_an_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", width=64, height=48, frames=12)
    first, other = Derainer("identity", device="cpu"), Derainer("fast", device="cpu", backend="eager")
    turns: list[Derainer] = []
    session = Derainer.session

    def counted(self: Derainer, height: int, width: int) -> Session:
        turns.append(self)
        return session(self, height, width)

    monkeypatch.setattr(Derainer, "session", counted)
    timings = time_pipeline((first, other), str(clip), "null:", rounds=2)
    assert turns == [first, other, first, other]
    assert ratio(*timings) > 1
    for timing in timings:
        assert len(timing.rounds) == 2
        assert 0 < timing.age_ms["p50"] <= timing.age_ms["p95"] <= timing.age_ms["p99"]
        assert set(timing.stage_ms) == {"decode", "prepare", "derain", "encode"}
    # What takes longest takes nearly all of the time.
    slow = timings[1]
    assert max(slow.stage_ms.values()) <= 1000 / min(slow.rounds) + 1


class NotYetError(Exception):
    """An engine was asked for."""


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotYetError

    monkeypatch.setattr(Derainer, "prepare", refuse)


@pytest.mark.usefixtures("no_engines")
def test_what_is_there_is_neither_replaced_nor_waited_for(tmp_path: Path, clip: Clip) -> None:
    rainy, older = clip(), tmp_path / "older.mp4"
    older.write_bytes(b"dear to somebody")
    (tmp_path / "linked.mp4").symlink_to(rainy)
    (tmp_path / "f0001.png").write_bytes(b"dear to somebody")
    content = rainy.read_bytes()
    derainers = [Derainer("identity", device="cpu")]
    for name in (older, tmp_path / "f%04d.png"):
        with pytest.raises(OutputExistsError, match="pass --overwrite"):
            time_pipeline(derainers, str(rainy), str(name))
        with pytest.raises(NotYetError):
            time_pipeline(derainers, str(rainy), str(name), overwrite=True)
    for name in (rainy, tmp_path / "linked.mp4"):
        for overwrite in (False, True):
            with pytest.raises(OutputOptionError, match="is the input itself"):
                time_pipeline(derainers, str(rainy), str(name), overwrite=overwrite)
    with pytest.raises(OutputError, match="does not exist"):
        time_pipeline(derainers, str(rainy), str(tmp_path / "nowhere" / "out.mp4"))
    assert rainy.read_bytes() == content
    assert older.read_bytes() == b"dear to somebody"


def test_an_output_that_cannot_be_opened_leaves_no_source_open(
    tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[VideoSource] = []

    def open_and_keep(*words: Any, **options: Any) -> VideoSource:
        opened.append(open_source(*words, **options))
        return opened[-1]

    monkeypatch.setattr("streamderain.bench.open_source", open_and_keep)
    with pytest.raises(OutputOptionError, match="preset"):
        time_pipeline([Derainer("identity", device="cpu")], str(clip()), str(tmp_path / "out.mp4"), preset="none such")
    assert len(opened) == 2
    for source in opened:
        with pytest.raises(ValueError, match="closed"):
            next(iter(source))


def test_each_round_replaces_what_the_one_before_wrote(tmp_path: Path, clip: Clip) -> None:
    out, both = tmp_path / "out.mp4", [Derainer("identity", device="cpu") for _ in range(2)]
    for overwrite in (False, True):
        time_pipeline(both, str(clip()), str(out), rounds=2, overwrite=overwrite)
        with av.open(str(out)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 12
    assert {path.name for path in tmp_path.iterdir()} == {"rainy.mp4", "out.mp4"}


def test_the_command_refuses_what_is_there_as_run_does(start: Start, clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(frames=3), tmp_path / "out.mp4"
    out.write_bytes(b"dear to somebody")
    for words, told in (
        (("--output", out), "out.mp4 exists already: choose another name, or pass --overwrite"),
        (("--output", rainy, "--overwrite"), "is the input itself"),
    ):
        process = start("bench", "identity", "--input", rainy, "--rounds", "1", *words)
        _, err = process.communicate()
        assert process.returncode == 2
        assert err.decode().count("\n") == 1
        assert told in err.decode()
    process = start("bench", "identity", "--input", rainy, "--output", out, "--overwrite")
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_hints_name_only_options_that_it_has(clip: Clip, tmp_path: Path) -> None:
    rainy, damaged = clip(), tmp_path / "damaged.mp4"
    content = bytearray(rainy.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    damaged.write_bytes(content)
    (tmp_path / "there.mp4").touch()
    for words, code, told in (
        (("--input", rainy, "--output", tmp_path / "out.mp3"), 2, "mp3 cannot hold libx264: write to an .mp4"),
        (("--input", rainy, "--output", tmp_path / "there.mp4"), 2, "choose another name, or pass --overwrite"),
        (("--input", rainy, "--output", tmp_path / "o.y4m", "--preset", "fast"), 2, "no presets: leave out --preset"),
        (("--input", damaged), 4, ": name another --input"),
    ):
        result = CliRunner().invoke(cli, ["bench", "identity", "--rounds", "1", *map(str, words)])
        assert result.exit_code == code
        (line,) = result.stderr.splitlines()
        assert line.endswith(told)


def test_age_is_from_decoded_to_handed_over(tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(float(n) for n in range(100))
    source = open_source(str(clip(frames=3)))
    clock = Clock(source, open_sink("null:", source.info))
    monkeypatch.setattr("streamderain.bench.time.perf_counter", lambda: next(now))
    with clock.source as frames, clock.sink as sink:
        held: list[Frame] = list(frames)  # decoded at 0, 1, 2
        for frame in held:  # handed over at 3, 4, 5
            sink.write(frame)
    assert clock.ages == [3.0, 3.0, 3.0]
    assert not clock.decoded


def test_the_network_alone_is_timed_without_alignment() -> None:
    (timing,) = time_network([Derainer("fast", device="cpu", backend="eager")], width=64, height=48, frames=3, rounds=1)
    assert list(timing.stage_ms) == ["network"]
    assert timing.stage_ms["network"] == pytest.approx(1000 / timing.fps, rel=0.01)


def test_nothing_to_time_is_wrong() -> None:
    with pytest.raises(ValueError, match="0 models"):
        time_network([], width=64, height=48)


def test_the_command_tells_in_json(start: Start, clip: Clip) -> None:
    words = ("bench", "identity", "--input", clip(), "--rounds", "1", "--encode", "--vs", "eager", "--json")
    process = start(*words)
    out, err = process.communicate()
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["size"] is None, "that of the clip"
    assert result["ratio"] == pytest.approx(result["fps"] / result["vs"]["fps"], rel=0.01)
    assert result["peak_memory_mib"]["resident"] > 50
    assert result["stage_ms"]["encode"] > 0
    assert result["machine"]["cores"] >= 1


def test_the_size_of_a_clip_that_is_made_up_is_told(start: Start) -> None:
    out, err = start("bench", "identity", "--frames", "2", "--rounds", "1", "--json").communicate()
    assert json.loads(out)["size"] == "1280x720", err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network-only", "--encode"), "--encode and --network-only exclude"),
        (("--input", "a.mp4", "--size", "64x48"), "--size is for the generated clip"),
        (("--output", "a.mp4", "--encode"), "--output and --encode exclude"),
        (("--preset", "ultrafast"), "--preset is for an encoder"),
        (("--encode", "--overwrite"), "--overwrite is for --output"),
        (("--output", "-"), "mix the video with the figures"),
    ],
)
def test_options_that_say_nothing_together_are_refused(start: Start, words: tuple[str, ...], message: str) -> None:
    process = start("bench", *words)
    _, err = process.communicate()
    assert process.returncode == 2
    assert message in err.decode()
