"""An identity in place of the network: what ``run`` does with video, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamderain.video import VideoSink, VideoSource, open_sink, open_source


def copy(source: Path | str, target: Path | str, *, reading: Mapping[str, Any] | None = None, **writing: Any) -> int:
    """Copies ``source`` to ``target``; returns the number of frames."""
    return copy_open(source, target, reading=reading, **writing)[1].frames_written


def copy_open(
    source: Path | str, target: Path | str, *, reading: Mapping[str, Any] | None = None, **writing: Any
) -> tuple[VideoSource, VideoSink]:
    """The same, returning both ends for a look at what they say."""
    with (
        open_source(str(source), **(reading or {})) as frames,
        open_sink(str(target), frames.info, side=frames.side, **writing) as sink,
    ):
        for frame in frames:
            sink.write(frame)
    return frames, sink
