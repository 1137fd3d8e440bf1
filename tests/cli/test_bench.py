"""``streamderain bench``: figures that hang together, and a clip that other decoders read."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from streamderain import Derainer, Frame
from streamderain.bench import Clock, ratio, time_network, time_pipeline, write_clip
from streamderain.session import Session
from streamderain.video import open_sink, open_source

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
    assert result["ratio"] == pytest.approx(result["fps"] / result["vs"]["fps"], rel=0.01)
    assert result["peak_memory_mib"]["resident"] > 50
    assert result["stage_ms"]["encode"] > 0
    assert result["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network-only", "--encode"), "--encode and --network-only exclude"),
        (("--input", "a.mp4", "--size", "64x48"), "--size is of a clip that is made up"),
        (("--output", "a.mp4", "--encode"), "--output and --encode exclude"),
        (("--preset", "ultrafast"), "--preset is for an encoder"),
    ],
)
def test_options_that_say_nothing_together_are_refused(start: Start, words: tuple[str, ...], message: str) -> None:
    process = start("bench", *words)
    _, err = process.communicate()
    assert process.returncode == 2
    assert message in err.decode()
