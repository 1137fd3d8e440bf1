"""Live video in: a source that stays newest-frame, comes back after every loss, and whose time only grows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple, Self

from streamderain.errors import InputError, StreamLostError
from streamderain.frame import Frame, VideoInfo
from streamderain.observe import Observer, StreamState
from streamderain.overlap import RunAhead
from streamderain.video import colour, probe
from streamderain.video.address import Address, Transport, address
from streamderain.video.clock import TICK, CaptureClock, OutputClock, Pace
from streamderain.video.connection import Connection, LostError
from streamderain.video.letterbox import Letterbox
from streamderain.video.reconnect import Backoff

_log = logging.getLogger(__name__)

_LOOK_EVERY = 0.1  # seconds between two looks at ``stop``
_QUEUE = 4  # pictures that may wait where none is skipped
_GRACE = 10.0  # seconds beyond every time limit after which a reader counts as stuck for ever
_STUCK_AT_MOST = 3  # readers that are left behind in calls that never return
_FASTEST = 240  # frames/s; what says more counts ticks, not pictures
_ASSUMED_RATE = Fraction(25)
_SMOOTH = 0.1  # weight of the newest interval in the running mean
_AT_MOST = 2.0  # times that mean, of one interval: a hiccup is no rate, and a camera that slows down is followed
_PATIENCE = 0.5  # seconds that closing waits for the reader
_TELL_EVERY = 60.0  # seconds between two lines about an outage that goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """How to deal with a live source.

    Attributes:
        newest: keep only the newest picture for a slow consumer, and count what it misses; else nothing is skipped,
            and a slow consumer falls behind.
        read_timeout: seconds of silence after which the connection is lost.
        open_timeout: seconds that connecting may take.
        reconnect: come back after a loss; else the first loss is the end.
        reconnect_limit: seconds that one outage may last; None is for ever.
        wait: seconds that the first connection is tried for; 0 fails at once, as a mistyped address should.
        transport: of RTSP: "auto", "tcp" or "udp".
    """

    newest: bool = True
    read_timeout: float = 5.0
    open_timeout: float = 10.0
    reconnect: bool = True
    reconnect_limit: float | None = None
    wait: float = 0.0
    transport: Transport = "auto"

    def __post_init__(self) -> None:
        for what in ("read_timeout", "open_timeout"):
            if not 0 < getattr(self, what) < float("inf"):
                raise ValueError(f"{what} must be above 0 s, got {getattr(self, what)}")
        for what in ("reconnect_limit", "wait"):
            value = getattr(self, what)
            if value is not None and not value >= 0:
                raise ValueError(f"{what} must be a time in seconds, got {value}")


class Captured(NamedTuple):
    """One frame of a live source.

    Attributes:
        frame: of the source's ``info``; its pts grows over everything that may happen to the camera.
        at: ``time.monotonic()`` when it was taken, as well as that is known.
        connection: a number that grows with each reconnect: between two of them the past is no past.
    """

    frame: Frame
    at: float
    connection: int


class LiveSource:
    """A FrameSource over a camera or stream that may go away and come back. Made by `open_live`.

    One thread of its own connects, reads and decodes; the consumer takes. Iterating yields every frame that `take`
    gives and ends by raising `StreamLostError`.

    Attributes:
        info: what a sink must know, from the first picture; ``live`` is True. Pictures of another size that come
            later are fitted into it.
        description: one phrase for people.
        state: "connecting", "up" or "lost" (for good).
        camera_frames, reconnects, concealed: counted since the beginning; concealed are damaged pictures and packets.
        side: None; sound and subtitles are not taken from live inputs.
    """

    side = None

    def __init__(self, where: Address, options: LiveOptions, observer: Observer | None) -> None:
        self.info: VideoInfo
        self.description = ""
        self.state: StreamState = "connecting"
        self.camera_frames = self.reconnects = 0
        self._concealed = 0
        self._address, self._options, self._observer = where, options, observer
        self._notes: list[str] = []
        self._closing = threading.Event()
        self._clock: OutputClock | None = None
        self._connections = 0
        self._box: Letterbox | None = None
        self._lost_at: float | None = None
        self._busy_since: float | None = None
        self._reader, self._stuck = 0, 0
        self._skipped_before = 0
        self._interval, self._arrived = float(1 / _ASSUMED_RATE), 0.0
        self._ahead = self._start_reader()

    # ---- the consumer's side

    @property
    def notes(self) -> tuple[str, ...]:
        """Things to say aloud once; more may come while iterating."""
        return tuple(self._notes)

    @property
    def name(self) -> str:
        """The address, without credentials."""
        return self._address.name

    @property
    def concealed(self) -> int:
        """Damaged pictures and packets so far."""
        return self._concealed

    @property
    def skipped(self) -> int:
        """Frames that came and made room for newer ones."""
        return self._skipped_before + self._ahead.skipped

    @property
    def interval(self) -> float:
        """Seconds between two frames of the camera, lately; by what it says of itself at the beginning."""
        return self._interval

    def lost_for(self) -> float:
        """Seconds that the present outage has lasted; 0 while pictures come."""
        since = self._lost_at
        return 0.0 if since is None else time.monotonic() - since

    def elapsed(self) -> int:
        """Now, in ticks of ``info.time_base``: the pts that a picture taken now would have."""
        return 0 if self._clock is None else self._clock.elapsed(time.monotonic())

    def take(self, within: float) -> Captured | None:
        """The next frame, or the newest; None if there is none within so many seconds.

        Raises:
            StreamLostError: it is lost beyond its limit.
            InputError: it turned into something that cannot be derained.
        """
        if self._ahead.ready(within):
            return next(self._ahead, None)
        self._watch()
        return None

    def wait_first(self, within: float) -> bool:
        """Whether there is a first picture, and with it ``info``; waits up to ``within`` seconds.

        Raises:
            InputError: there will be none.
        """
        if not self._ahead.ready(within):
            self._watch()
            return False
        if self._clock is None:
            next(self._ahead, None)  # raises what went wrong
            raise InputError(f"{self.name} was closed before its first picture")
        return True

    def __iter__(self) -> Iterator[Frame]:
        while not self._closing.is_set():
            captured = self.take(_LOOK_EVERY)
            if captured is not None:
                yield captured.frame

    def close(self) -> None:
        """Ends the reader; one that is inside a call which does not return is not waited for."""
        self._closing.set()
        self._ahead.close(within=_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _start_reader(self) -> RunAhead[Captured]:
        self._reader += 1
        newest = self._options.newest
        return RunAhead(
            self._read(self._reader), 1 if newest else _QUEUE, newest=newest, name="streamderain-decode",
            patience=_PATIENCE,
        )  # fmt: skip

    def _watch(self) -> None:
        """The watchdog: leaves a reader behind that no time limit has freed, and starts another."""
        since = self._busy_since
        limit = max(self._address.open_timeout, self._options.read_timeout) + _GRACE
        if since is None or time.monotonic() - since < limit or self._stuck >= _STUCK_AT_MOST:
            return
        _log.warning("%s: the reader is stuck; it is left behind, and another one connects", self.name)
        self._stuck += 1
        self._skipped_before += self._ahead.skipped
        self._busy_since = None
        self._lose()
        self._ahead.close(within=0)
        self._ahead = self._start_reader()

    # ---- the reader's side, on its own thread

    def _read(self, reader: int) -> Iterator[Captured]:
        backoff = Backoff()
        began, told = time.monotonic(), 0.0
        while not self._left(reader):
            if self._address.listens:
                backoff.reset()
            if self._closing.wait(backoff.next()) or self._left(reader):
                return
            try:
                connection = Connection(
                    self._address, read_timeout=self._options.read_timeout, busy=lambda on: self._busy(reader, on)
                )
            except (LostError, InputError) as error:
                if self._left(reader):
                    return
                if self._clock is None and isinstance(error, InputError):
                    raise
                self._failed(error, began)
                if self._clock is not None and time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    _log.warning("%s cannot be reached: %s; trying on", self.name, error)
                continue
            before = connection.damaged
            try:
                if self._left(reader):
                    return
                for captured in self._captures(connection):
                    if self._left(reader):
                        return
                    backoff.reset()
                    yield captured
                    self._concealed += connection.damaged - before
                    before = connection.damaged
            except LostError as error:
                if self._left(reader):
                    return
                self._failed(error, began)
                told = time.monotonic()
            finally:
                connection.close()

    def _left(self, reader: int) -> bool:
        return self._closing.is_set() or reader != self._reader

    def _busy(self, reader: int, on: bool) -> None:
        if reader == self._reader:
            self._busy_since = time.monotonic() if on else None

    def _captures(self, connection: Connection) -> Iterator[Captured]:
        """The frames of one connection."""
        capture, pace = CaptureClock(), Pace() if self._address.paced else None
        base = connection.video.time_base
        reader: colour.RgbReader | None = None
        like: object = None
        number = 0
        for arrival in connection.pictures():
            picture = arrival.picture
            if pace is not None and arrival.pts is not None:
                self._closing.wait(pace.wait(arrival.pts, base))
                arrival = arrival._replace(at=time.monotonic())
            kind = (picture.width, picture.height, picture.format.name, picture.colorspace, picture.color_range)
            if reader is None or kind != like:
                reader, like = self._reader_for(connection, picture), kind
            if number == 0:
                number = self._is_up(connection)
            assert self._clock is not None
            assert self._box is not None
            self.camera_frames += 1
            since, self._arrived = arrival.at - self._arrived, arrival.at
            if self.camera_frames > 1:
                self._interval += _SMOOTH * (min(since, _AT_MOST * self._interval) - self._interval)
            if self._observer is not None:
                self._observer.camera_frame()
            frame = reader.read(picture, 0, TICK, None)
            frame = Frame(self._box.fit(frame.pixels), self._clock.stamp(arrival.pts, base, arrival.at), TICK)
            yield Captured(frame, capture.captured(arrival.pts, base, arrival.at, arrival.sent), number)
            del frame, picture, arrival

    def _reader_for(self, connection: Connection, picture: Any) -> colour.RgbReader:
        tags = colour.colour_of(picture)
        colour.check_supported(tags, name=self.name)
        # Not `probe.orientation`: a picture whose side data was looked at is freed by the collector of cycles alone,
        # which has no idea how big it is. Reconnecting every few seconds grew by 1 MiB a minute.
        angle = picture.rotation
        turned = probe.Orientation(angle % 360 if angle % 90 == 0 else 0, mirrored=False)
        notes = list(connection.notes)
        if self._clock is None:
            info = probe.video_info(picture, connection.video, connection.container, turned=turned)
            rate = info.frame_rate if info.frame_rate and info.frame_rate <= _FASTEST else None
            self.info = replace(info, time_base=TICK, frame_count=None, frame_rate=rate, live=True)
            self.description = probe.describe(connection.container, connection.video, picture, self.info)
            self._clock = OutputClock(round(1 / (rate or _ASSUMED_RATE) / TICK))
            self._interval = float(1 / (rate or _ASSUMED_RATE))
            self._box = Letterbox(info.width, info.height)
        elif (picture.width, picture.height) not in (size := (self.info.width, self.info.height), size[::-1]):
            notes.append(f"the picture is {picture.width}x{picture.height} now, fitted into {size[0]}x{size[1]}")
        if picture.interlaced_frame:
            notes.append("interlaced: shown as it comes, not deinterlaced")
        self._notes += [note for note in notes if note not in self._notes]
        return colour.RgbReader(
            replace(tags, bit_depth=self.info.colour.bit_depth), rotation=turned.turn, mirrored=turned.mirrored
        )

    def _is_up(self, connection: Connection) -> int:
        """A first picture has come; returns the connection's number."""
        assert self._clock is not None
        self._clock.restart()
        self._connections += 1
        self.state = "up"
        if self._lost_at is not None:
            self.reconnects += 1
            _log.warning("%s is back after %.1f s", self.name, self.lost_for())
            if self._observer is not None:
                self._observer.reconnected()
        self._lost_at = None
        return self._connections

    def _lose(self) -> None:
        if self._clock is not None:
            self._lost_at = time.monotonic() if self._lost_at is None else self._lost_at
        self.state = "connecting"
        if self._observer is not None:
            self._observer.set_state("connecting")

    def _failed(self, error: LostError | InputError, began: float) -> None:
        """Returns to try again; raises where that is not wanted any more."""
        if self._clock is None and isinstance(error, LostError):
            waited = time.monotonic() - began
            if not error.final and (waited < self._options.wait or self._address.listens):
                return
            after = f" within {self._options.wait:g} s" if self._options.wait and not error.final else ""
            raise InputError(f"{self.name} cannot be opened{after}: {error}", hint=error.hint) from error
        first = self._lost_at is None
        self._lose()
        limit = self._options.reconnect_limit if self._options.reconnect else 0.0
        if limit is not None and self.lost_for() >= limit:
            self.state = "lost"
            if self._observer is not None:
                self._observer.set_state("lost")
            after = f" after {self.lost_for():.0f} s without it" if limit else ""
            hint = error.hint if self._options.reconnect else "leave out --no-reconnect to have it come back by itself"
            raise StreamLostError(f"{self.name} is lost{after}: {error}", hint=hint) from error
        if first:
            _log.warning("%s is lost: %s; reconnecting", self.name, error)


def open_live(
    uri: str,
    options: LiveOptions | None = None,
    *,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> LiveSource:
    """Connects to ``uri`` and waits for its first picture.

    Args:
        uri: a camera or stream; see `streamderain.video.address.address`.
        observer: is told of every frame, reconnect and change of state.
        stop: when it gets set, waiting ends.

    Raises:
        InputError: it cannot be opened, or holds no video; in one line why, without the password.
        UnsupportedInputError: HDR, or a colour matrix that cannot be converted.
    """
    chosen = options if options is not None else LiveOptions()
    source = LiveSource(address(uri, transport=chosen.transport, open_timeout=chosen.open_timeout), chosen, observer)
    try:
        while not source.wait_first(_LOOK_EVERY):
            if stop is not None and stop.is_set():
                source.close()
    except BaseException:
        source.close()
        raise
    return source
