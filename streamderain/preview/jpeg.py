"""Frames as JPEG by PyAV's own encoder, made when somebody looks and once for all who do."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from streamderain.frame import Frame
from streamderain.observe import Observer
from streamderain.video.outlet import eight_bits

Kind = Literal["pair", "rainy", "clean"]

KINDS: tuple[Kind, ...] = ("pair", "rainy", "clean")


class JpegEncoder:
    """Turns [H, W, 3] pixels into JPEG files. Holds a codec context; not thread-safe.

    Args:
        width: pictures that are wider, in px, are made as wide, in proportion; phones have no more pixels.
        quantiser: 2 (best) to 31.
    """

    def __init__(self, *, width: int = 1280, quantiser: int = 4) -> None:
        if width < 16:
            raise ValueError(f"width must be at least 16, got {width}")
        if not 2 <= quantiser <= 31:
            raise ValueError(f"quantiser must be 2 to 31, got {quantiser}")
        self._width = width
        self._quantiser = quantiser
        self._scaler = VideoReformatter()
        self._context: Any = None
        self._serial = 0

    def encode(self, *frames: Frame) -> bytes:
        """One JPEG of ``frames``, all of one size, below each other."""
        first = frames[0]
        width = min(first.width, self._width)
        height = max(1, round(first.height * width / first.width))
        planes = [np.ascontiguousarray(eight_bits(frame).cpu().numpy()) for frame in frames]
        whole = np.concatenate(planes) if len(planes) > 1 else planes[0]
        picture = self._scaler.reformat(
            av.VideoFrame.from_ndarray(whole, format="rgb24"),
            width=width,
            height=height * len(frames),
            format="yuvj420p",
            # JFIF: BT.601, full range.
            interpolation=int(Interpolation.AREA if width < first.width else Interpolation.BICUBIC),
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
        )
        if self._context is None or (self._context.width, self._context.height) != (picture.width, picture.height):
            self._context = self._open(picture)
            self._serial = 0
        picture.pts, picture.pict_type = self._serial, 0
        self._serial += 1
        return b"".join(bytes(packet) for packet in self._context.encode(picture))

    def _open(self, picture: av.VideoFrame) -> Any:
        context: Any = av.CodecContext.create("mjpeg", "w")
        context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuvj420p"
        context.time_base = Fraction(1, 1000)
        context.color_range = int(ColorRange.JPEG)
        context.thread_count = 1  # threads of frames would hold each picture back
        context.qmin = context.qmax = self._quantiser
        return context


class Pictures:
    """The newest picture of a stream as JPEG, for any number of threads; encoded once, and only when asked for."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.encoded = 0
        self._lock = threading.Lock()
        self._encoders = {kind: JpegEncoder() for kind in KINDS}
        self._made: dict[Kind, tuple[int, bytes]] = {}

    def newer(self, kind: Kind, serial: int, *, within: float) -> tuple[int, bytes] | None:
        """Serial and JPEG of the newest picture, if it is later than ``serial``; waits for one up to ``within`` s.

        A "pair" is rainy above clean.
        """
        pair = self.observer.newer(serial, within=within)
        if pair is None:
            return None
        with self._lock:
            made = self._made.get(kind)
            if made is None or made[0] < pair.serial:
                frames = {"pair": (pair.rainy, pair.clean), "rainy": (pair.rainy,), "clean": (pair.clean,)}[kind]
                made = pair.serial, self._encoders[kind].encode(*frames)
                self._made[kind] = made
                self.encoded += 1
            return made
