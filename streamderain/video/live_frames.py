"""The pictures of one connection after another as one stream of frames: of one size, and of one time that grows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from streamderain.frame import Frame, VideoInfo
from streamderain.observe import Observer
from streamderain.video import colour, ffmpeg, probe
from streamderain.video.clock import TICK, CaptureClock, OutputClock
from streamderain.video.connection import Connection
from streamderain.video.letterbox import Letterbox
from streamderain.video.pace import Pace

_FASTEST = 240  # frames/s; what says more counts ticks, not pictures
_SEGMENTS_GONE = 1.0  # seconds between two pictures of a playlist: its server did not wait for us
_SMOOTH = 0.1  # weight of the newest interval in the running mean
_AT_MOST = 2.0  # times that mean, of one interval: a hiccup is no rate, and a camera that slows down is followed


class Captured(NamedTuple):
    """One frame of a live source.

    Attributes:
        frame: of the source's ``info``; its pts grows over everything that may happen to the camera.
        at: ``time.monotonic()`` when it was taken, as well as that is known: by the camera's own clock if it tells.
        due: when it would have come with the least delay of its connection; see `CaptureClock`. What comes later has
            waited.
        connection: a number that grows with each reconnect: between two of them the past is no past.
    """

    frame: Frame
    at: float
    due: float
    connection: int


class LiveFrames:
    """The first picture decides what all frames are like; see `LiveSource` for what the attributes mean.

    Written to by one thread at a time, the reader's; read by any.

    Args:
        name: of the source, for people.
        newest: frames that are not taken in time make room for newer ones; else they wait, and so does the camera.
        closing: ends the waiting for the moment of a picture that was read before it.
    """

    def __init__(self, name: str, *, newest: bool, closing: threading.Event, observer: Observer) -> None:
        self.info: VideoInfo
        self.description = ""
        self.camera_frames = 0
        self.interval = float(1 / ffmpeg.ASSUMED_RATE)
        self.notes: list[str] = []
        self._name, self._newest, self._closing, self._observer = name, newest, closing, observer
        self._clock: OutputClock | None = None
        self._box: Letterbox | None = None
        self._arrived = 0.0

    @property
    def begun(self) -> bool:
        """A first picture has come, and with it ``info``."""
        return self._clock is not None

    def elapsed(self) -> int:
        """Now, in ticks of `TICK` since the first picture; 0 before it."""
        return 0 if self._clock is None else self._clock.elapsed(time.monotonic())

    def frames(self, connection: Connection, up: Callable[[], int]) -> Iterator[Captured]:
        """The frames of one connection.

        Args:
            up: called when the first picture is there; returns the connection's number.

        Raises:
            LostError: the connection is lost.
            UnsupportedInputError: HDR, or a colour matrix that cannot be converted.
        """
        capture, pace = CaptureClock(), None
        if connection.kind == "recording":
            pace = Pace(self._closing, late=math.inf)
        elif connection.kind == "segments":
            pace = Pace(self._closing, gap=_SEGMENTS_GONE)
        base = connection.time_base
        reader: colour.RgbReader | None = None
        like: object = None
        number = 0
        for arrival in connection.pictures():
            picture = arrival.picture
            if pace is not None and arrival.pts is not None:
                pace.await_moment(float(arrival.pts * base))
                arrival = arrival._replace(at=time.monotonic())
            kind = (picture.width, picture.height, picture.format.name, picture.colorspace, picture.color_range)
            if reader is None or kind != like:
                reader, like = self._reader_for(connection, picture), kind
            assert self._clock is not None
            assert self._box is not None
            if number == 0:
                self._clock.restart()
                number = up()
            self._count(arrival.at)
            frame = reader.read(picture, 0, TICK, None)
            frame = Frame(self._box.fit(frame.pixels), self._clock.stamp(arrival.pts, base, arrival.at), TICK)
            taken = capture.captured(arrival.pts, base, arrival.at, arrival.sent)
            yield Captured(frame, taken, capture.due, number)
            del frame, picture, arrival

    def _count(self, at: float) -> None:
        self.camera_frames += 1
        since, self._arrived = at - self._arrived, at
        if self.camera_frames > 1:
            self.interval += _SMOOTH * (min(since, _AT_MOST * self.interval) - self.interval)
        self._observer.camera_frame()

    def _reader_for(self, connection: Connection, picture: Any) -> colour.RgbReader:
        tags = colour.colour_of(picture)
        colour.check_supported(tags, name=self._name)
        # Not `probe.orientation`: a picture whose side data was looked at is freed by the collector of cycles alone,
        # which has no idea how big it is. Reconnecting every few seconds grew by 1 MiB a minute.
        turned = probe.turn_of(picture)
        notes = list(connection.notes)
        if self._clock is None:
            info = connection.info(picture, turned)
            rate = info.frame_rate if info.frame_rate and info.frame_rate <= _FASTEST else None
            self.info = replace(info, time_base=TICK, frame_count=None, frame_rate=rate, live=True)
            self.description = connection.describe(picture, self.info)
            self.interval = float(1 / (rate or ffmpeg.ASSUMED_RATE))
            self._box = Letterbox(info.width, info.height)
            self._clock = OutputClock(round(1 / rate / TICK) if rate else 0, waits=not self._newest)
        else:
            shown = (picture.width, picture.height)[:: -1 if turned.turn in (90, 270) else 1]
            if shown != (size := (self.info.width, self.info.height)):
                notes.append(f"the picture is {shown[0]}x{shown[1]} now, fitted into {size[0]}x{size[1]}")
        if picture.interlaced_frame:
            notes.append("interlaced: shown as it comes, not deinterlaced")
        self.notes += [note for note in notes if note not in self.notes]
        return colour.RgbReader(
            replace(tags, bit_depth=self.info.colour.bit_depth), rotation=turned.turn, mirrored=turned.mirrored
        )
