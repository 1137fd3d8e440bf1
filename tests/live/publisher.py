"""Publishes stamped pictures in real time to whatever URL FFmpeg writes, in a process of its own.

``publisher.py URL FORMAT [--seconds N] [--options KEY=VALUE ...]`` prints "up" when the other side is there, and ends
when the other side goes away. URL ``-`` writes to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction

import av
import numpy as np

from tests.live.fake_camera import now_ms, stamp

_FPS = 25


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("format")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--options", nargs="*", default=[])
    options = parser.parse_args()
    url = "pipe:1" if options.url == "-" else options.url
    settings = dict(item.split("=", 1) for item in options.options)
    with av.open(url, "w", format=options.format, options=settings) as out:
        video = out.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast", "tune": "zerolatency", "g": "12"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90000)
        out.start_encoding()
        sys.stderr.write("up\n")
        began = time.monotonic()
        number = 0
        while time.monotonic() - began < options.seconds:
            number += 1
            time.sleep(max(0.0, began + number / _FPS - time.monotonic()))
            picture = np.full((48, 64, 3), number % 256, dtype=np.uint8)
            stamp(picture, now_ms())
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number * 90000 // _FPS, Fraction(1, 90000)
            out.mux(video.encode(frame))


if __name__ == "__main__":
    main()
