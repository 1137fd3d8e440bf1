"""Live video in: a source that stays newest-frame, comes back after every loss, and whose time only grows."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from streamderain.errors import InputError, StreamLostError
from streamderain.frame import Frame, VideoInfo
from streamderain.observe import Observer, StreamState
from streamderain.overlap import RunAhead
from streamderain.video.address import Address, Transport, address, listening_for
from streamderain.video.connect import connect
from streamderain.video.connection import Connection, LostError
from streamderain.video.live_frames import Captured, LiveFrames
from streamderain.video.reconnect import Backoff

_log = logging.getLogger(__name__)

_LOOK_EVERY = 0.1  # seconds between two looks at ``stop``
_QUEUE = 4  # pictures that may wait where none is skipped
_GRACE = 10.0  # seconds beyond every time limit after which a reader counts as stuck for ever
_STUCK_AT_MOST = 3  # readers that are left behind in calls that never return
_PATIENCE = 0.5  # seconds that closing waits for the reader
_LISTEN_AT_LEAST = 0.2  # seconds, for a publisher
_LASTED = 1.0  # seconds after which a connection was a good one; one attempt a second is no burden to anybody
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
        wait: seconds that the first connection is tried for; 0 fails at once, as a mistyped address should, and waits
            for ever where it is we who are connected to.
        transport: of RTSP: "auto", "tcp" or "udp".
        insecure: any certificate of https and rtmps will do; those of rtsps are never checked.
    """

    newest: bool = True
    read_timeout: float = 5.0
    open_timeout: float = 10.0
    reconnect: bool = True
    reconnect_limit: float | None = None
    wait: float = 0.0
    transport: Transport = "auto"
    insecure: bool = False

    def __post_init__(self) -> None:
        for what in ("read_timeout", "open_timeout"):
            if not 0 < getattr(self, what) < float("inf"):
                raise ValueError(f"{what} must be above 0 s, got {getattr(self, what)}")
        for what in ("reconnect_limit", "wait"):
            value = getattr(self, what)
            if value is not None and not value >= 0:
                raise ValueError(f"{what} must be a time in seconds, got {value}")


class LiveSource:
    """A FrameSource over a camera or stream that may go away and come back. Made by `open_live`.

    One thread of its own connects, reads and decodes; the consumer takes. Iterating yields every frame that `take`
    gives and ends by raising `StreamLostError`, or ValueError when it is closed.

    Attributes:
        info: what a sink must know, from the first picture; ``live`` is True. Pictures of another size that come
            later are fitted into it.
        description: one phrase for people.
        state: "connecting", "up" or "lost" (for good).
        camera_frames, reconnects, concealed: counted since the beginning; concealed are damaged pictures and packets.
        side: None; sound and subtitles are not taken from live inputs.
    """

    side = None

    def __init__(self, where: Address, options: LiveOptions, observer: Observer) -> None:
        self.state: StreamState = "connecting"
        self.reconnects = self.concealed = 0
        self._address, self._options, self._observer = where, options, observer
        self._closing = threading.Event()
        self._frames = LiveFrames(where.name, newest=options.newest, closing=self._closing, observer=observer)
        self._lost_at: float | None = None
        self._why: LostError | InputError | None = None
        self._streams = False
        self._busy_since: float | None = None
        self._reader = 0  # number of the one that reads; those before it were stuck
        self._skipped_before = 0
        self._ahead = self._start_reader()

    # ---- the consumer's side

    @property
    def info(self) -> VideoInfo:
        return self._frames.info

    @property
    def description(self) -> str:
        return self._frames.description

    @property
    def camera_frames(self) -> int:
        return self._frames.camera_frames

    @property
    def notes(self) -> tuple[str, ...]:
        """Things to say aloud once; more may come while iterating."""
        return tuple(self._frames.notes)

    @property
    def name(self) -> str:
        """The address, without credentials."""
        return self._address.name

    @property
    def skipped(self) -> int:
        """Frames that came and made room for newer ones."""
        return self._skipped_before + self._ahead.skipped

    @property
    def interval(self) -> float:
        """Seconds between two frames of the camera, lately; by what it says of itself at the beginning."""
        return self._frames.interval

    def lost_for(self) -> float:
        """Seconds that the present outage has lasted; 0 while pictures come."""
        since = self._lost_at
        return 0.0 if since is None else time.monotonic() - since

    def elapsed(self) -> int:
        """Now, in ticks of ``info.time_base``: the pts that a picture taken now would have."""
        return self._frames.elapsed()

    def take(self, within: float) -> Captured | None:
        """The next frame, or the newest; None if there is none within so many seconds.

        Raises:
            StreamLostError: it is lost beyond its limit.
            InputError: it turned into something that cannot be derained.
            ValueError: it is closed.
        """
        if not self._ahead.ready(within):
            self._watch()
            return None
        captured = next(self._ahead, None)
        if captured is None and self._closing.is_set():
            raise ValueError(f"{self.name} is closed")
        return captured

    def wait_first(self, within: float) -> bool:
        """Whether there is a first picture, and with it ``info``; waits up to ``within`` seconds.

        Raises:
            InputError: there will be none.
        """
        if not self._ahead.ready(within):
            self._watch()
            return False
        if not self._frames.begun:
            next(self._ahead, None)  # raises what went wrong
            raise InputError(f"{self.name} was closed before its first picture")
        return True

    def __iter__(self) -> Iterator[Frame]:
        while True:
            captured = self.take(_LOOK_EVERY)
            if captured is not None:
                yield captured.frame

    def close(self) -> None:
        """Ends the reader; one that is stuck in a call is not waited for."""
        self._closing.set()
        self._ahead.close(within=_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_reader(self) -> RunAhead[Captured]:
        self._reader += 1
        newest = self._options.newest
        return RunAhead(
            self._read(self._reader), 1 if newest else _QUEUE, newest=newest, name="streamderain-decode",
            patience=_PATIENCE,
        )  # fmt: skip

    def _watch(self) -> None:
        """The watchdog: leaves a reader behind that no time limit has freed, and starts another, or gives up.

        Raises:
            StreamLostError: the outage has lasted too long, or too many readers were left behind.
            InputError: that many, before there was a first picture.
        """
        limit = self._limit
        if limit and self._why is not None and self.lost_for() >= limit:
            self._closing.set()  # for the reader, which would tell it by itself at the end of the call that it is in
            raise self._given_up(self._why)
        since = self._busy_since
        patience = max(self._address.open_timeout, self._options.read_timeout) + _GRACE
        if since is None or time.monotonic() - since < patience:
            return
        why = LostError(f"its reader has been stuck for {patience:g} s", hint="start it again, in a new process")
        self._lose(why)
        if self._reader > _STUCK_AT_MOST or (self._frames.begun and limit is not None and self.lost_for() >= limit):
            self._closing.set()
            if not self._frames.begun:
                raise InputError(f"{self.name} cannot be opened: {why}", hint=why.hint)
            raise self._given_up(why)
        _log.warning(
            "%s: the reader is stuck; it is left behind, and another one connects",
            self.name,
            extra=self._about("stuck", reason=str(why)),
        )
        self._skipped_before += self._ahead.skipped
        self._busy_since = None
        self._ahead.close(within=0)
        self._ahead = self._start_reader()

    def _given_up(self, error: LostError | InputError) -> StreamLostError:
        """What to raise where the outage has lasted long enough; from here on the state is "lost"."""
        self.state = "lost"
        self._observer.set_state("lost")
        after = f" after {self.lost_for():.0f} s without it" if self._limit else ""
        comes_back = "leave out --no-reconnect and --on-loss stop to have it come back by itself"
        hint = error.hint if self._options.reconnect else comes_back
        return StreamLostError(f"{self.name} is lost{after}: {error}", hint=hint)

    @property
    def _limit(self) -> float | None:
        """Seconds that an outage may last; None is for ever."""
        return self._options.reconnect_limit if self._options.reconnect else 0.0

    # ---- the reader's side, on its own thread

    def _read(self, reader: int) -> Iterator[Captured]:
        backoff = Backoff()
        began, told, barred = time.monotonic(), 0.0, False
        while not self._left(reader):
            if self._address.listens and not barred:
                backoff.reset()  # the next publisher may come at once
            if self._closing.wait(backoff.next()) or self._left(reader):
                return
            try:
                connection = self._connect(reader, began)
            except (LostError, InputError) as error:
                if self._left(reader):
                    return
                if not self._frames.begun and isinstance(error, InputError):
                    raise
                self._failed(error, began)
                barred = _barred(error)
                if self._frames.begun and time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    about = self._about("away", reason=str(error), seconds=round(self.lost_for(), 1))
                    _log.warning("%s cannot be reached: %s; trying on", self.name, error, extra=about)
                continue
            before, barred, connected = connection.damaged, False, time.monotonic()
            try:
                if self._left(reader):
                    return
                for captured in self._frames.frames(connection, self._is_up):
                    if self._left(reader):
                        return
                    if time.monotonic() - connected > _LASTED:
                        backoff.reset()  # not for one that gives a picture and hangs up
                    yield captured
                    self.concealed += connection.damaged - before
                    before = connection.damaged
            except LostError as error:
                if self._left(reader):
                    return
                self._failed(error, began)
                told = time.monotonic()
            finally:
                connection.close()

    def _connect(self, reader: int, began: float) -> Connection:
        """Raises: as `connect`; LostError also where a recording is all that is left of a stream."""
        connection = connect(
            self._asked(began), read_timeout=self._options.read_timeout, busy=lambda on: self._busy(reader, on)
        )
        if not self._frames.begun:
            self._streams = connection.kind != "recording"
        elif self._streams and connection.kind == "recording":
            connection.close()
            raise LostError("it has come to its end, and what it serves now is a recording")
        return connection

    def _asked(self, began: float) -> Address:
        """The address, with what is left of ``wait`` as the time limit where a publisher is waited for."""
        if not self._address.listens or not self._options.wait or self._frames.begun:
            return self._address
        left = began + self._options.wait - time.monotonic()
        return listening_for(self._address, max(_LISTEN_AT_LEAST, left))

    def _left(self, reader: int) -> bool:
        return self._closing.is_set() or reader != self._reader

    def _busy(self, reader: int, on: bool) -> None:
        if reader == self._reader:
            self._busy_since = time.monotonic() if on else None

    def _is_up(self) -> int:
        """A first picture has come; returns the connection's number."""
        self.state = "up"
        if self._lost_at is not None:
            self.reconnects += 1
            gone = self.lost_for()
            about = self._about("back", seconds=round(gone, 1))
            _log.log(self._level, "%s is back after %.1f s", self.name, gone, extra=about)
            self._observer.reconnected()
        self._lost_at = None
        return self.reconnects + 1

    def _lose(self, why: LostError | InputError) -> None:
        self._why = why
        if self._frames.begun and self._lost_at is None:
            self._lost_at = time.monotonic()
        self.state = "connecting"
        self._observer.set_state("connecting")

    def _failed(self, error: LostError | InputError, began: float) -> None:
        """Returns to try again; raises where that is not wanted any more."""
        if not self._frames.begun and isinstance(error, LostError):
            for_ever = self._address.listens and not self._options.wait and not _barred(error)
            if not error.final and (for_ever or time.monotonic() - began < self._options.wait):
                return
            if self._address.listens and error.late:
                raise InputError(
                    f"{self.name}: nobody connected and sent a picture within {self._options.wait:g} s",
                    hint="does the publisher send to this address? Without --wait it is waited for as long as it takes",
                ) from error
            told = error.final or error.late  # which says after how long
            after = f" within {self._options.wait:g} s" if self._options.wait and not told else ""
            hint = "does another program listen there? Choose another port" if _barred(error) else error.hint
            raise InputError(f"{self.name} cannot be opened{after}: {error}", hint=hint) from error
        first = self._lost_at is None
        self._lose(error)
        limit = self._limit
        if limit is not None and self.lost_for() >= limit:
            raise self._given_up(error) from error
        if first:
            about = self._about("lost", reason=str(error))
            _log.log(self._level, "%s is lost: %s; reconnecting", self.name, error, extra=about)

    @property
    def _level(self) -> int:
        """How loudly a loss and a return are told: a file that plays the camera only begins again."""
        return logging.INFO if self._address.paced else logging.WARNING

    def _about(self, event: str, **more: Any) -> dict[str, Any]:
        """For the log: what happened as a word, and the rest of it by name."""
        return {"event": event, "about": {"input": self.name, **more}}


def _barred(error: BaseException) -> bool:
    """Whether we may not listen there at all, as where another program does."""
    return getattr(error.__cause__, "errno", None) in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def open_live(
    uri: str | os.PathLike[str],
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
    where = address(uri, transport=chosen.transport, open_timeout=chosen.open_timeout, insecure=chosen.insecure)
    source = LiveSource(where, chosen, observer if observer is not None else Observer())
    try:
        while not source.wait_first(_LOOK_EVERY):
            if stop is not None and stop.is_set():
                source.close()
    except BaseException:
        source.close()
        raise
    return source
