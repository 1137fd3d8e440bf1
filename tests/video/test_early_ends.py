"""What ends before its input does, asked for or interrupted: with the sound beside the pictures, wherever that lies."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import av
import pytest

from streamderain.pipeline import run
from streamderain.session import Derainer
from streamderain.video import open_sink, open_source

from .clips import times, write_clip


@pytest.mark.parametrize("behind", [-0.5, 0.0, 0.8, 3.0], ids=lambda seconds: f"{seconds} s behind")
@pytest.mark.parametrize("asked_for", [True, False])
def test_the_sound_ends_where_the_picture_does(tmp_path: Path, behind: float, asked_for: bool) -> None:
    write_clip(tmp_path / "even.mkv", count=200, audio=8)
    with (
        av.open(str(tmp_path / "even.mkv")) as even,
        # FFmpeg's muxers sort packets by time, unless they are to wait for none.
        av.open(str(tmp_path / "in.mkv"), "w", options={"max_interleave_delta": "1"}) as out,
    ):
        copies = {stream.index: out.add_stream_from_template(stream) for stream in even.streams}
        packets: list[Any] = [packet for packet in even.demux() if packet.dts is not None]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base + (behind if p.stream.type == "audio" else 0)):
            packet.stream = copies[packet.stream.index]
            out.mux(packet)
    stop, shown = threading.Event(), 0

    def count(_: object) -> None:
        nonlocal shown
        shown += 1
        if shown == 50:
            stop.set()

    with open_source(tmp_path / "in.mkv", frames=50 if asked_for else None) as source:
        sink = open_sink(tmp_path / "out.mkv", source.info, side=source.side)
        on_frame = None if asked_for else count
        stats = run(source, sink, Derainer("identity", device="cpu"), stop=stop, on_frame=on_frame)
        assert stats.interrupted != asked_for
    picture, sound = (times(tmp_path / "out.mkv", kind) for kind in ("video", "audio"))
    assert len(picture) == 50
    # Where the end comes as a surprise, what was read ahead is written, too.
    assert -0.03 < sound[-1] - picture[-1] < (0.05 if asked_for else 0.8)
    assert all(later - earlier < 0.03 for earlier, later in itertools.pairwise(sound))
