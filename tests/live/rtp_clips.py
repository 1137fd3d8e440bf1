"""RTP as FFmpeg's own muxer makes it, of clips that PyAV wrote, and what PyAV decodes of them directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.video.clips import write_clip

#: What to tell the encoders: pictures in order or not, in one piece or several.
WAYS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    "h264 in slices": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "slices=3"}),
    "h264 out of order": ("libx264", {"preset": "medium", "bf": "3", "x264-params": "b-adapt=0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "bframes=0:log-level=error"}),
    "hevc out of order": ("libx265", {"preset": "ultrafast", "x265-params": "bframes=3:b-adapt=0:log-level=error"}),
}


class _Packets:
    """A file for PyAV that keeps each write, which is a packet."""

    def __init__(self) -> None:
        self.found: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.found.append(bytes(data))
        return len(data)


def rtp_clip(path: Path, way: str, *, size: tuple[int, int] = (64, 48), count: int = 12) -> list[bytes]:
    """Writes a transport stream, parameter sets in it, and returns it as RTP of payload type 96, 90000 ticks/s."""
    codec, options = WAYS[way]
    write_clip(path, codec=codec, options=options, size=size, count=count, format="mpegts")
    sink: Any = _Packets()
    with av.open(str(path)) as clip, av.open(sink, "w", format="rtp", options={"packetsize": "400"}) as out:
        stream = out.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(clip.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return [packet for packet in sink.found if packet[1] & 127 == 96]  # the others are RTCP


def decoded(path: Path) -> list[NDArray[Any]]:
    """Every picture of a file, as [H * 3 / 2, W] of YUV."""
    with av.open(str(path)) as clip:
        return [picture.to_ndarray() for picture in clip.decode(video=0)]


def same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> bool:
    """Bit for bit."""
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def sdp(codec: str, *more: str) -> str:
    """The description of one video of payload type 96."""
    name = {"h264": "H264", "hevc": "H265"}[codec]
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=camera", "t=0 0", "a=control:*", "m=video 0 RTP/AVP 96"]
    return "\r\n".join([*lines, f"a=rtpmap:96 {name}/90000", "a=control:track1", *more, ""])
