"""One connection to a live source: what its readers see of it, why it is lost, and what to do about that."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import av
import av.error

from streamderain.frame import VideoInfo
from streamderain.video import certificates, ffmpeg
from streamderain.video.address import ESCAPES, splits_password, unanswered, where
from streamderain.video.probe import Orientation

#: What to do where a server answers with one of these.
STATUS_HINTS = {
    401: "put the right user and password before the host: USER:PASSWORD@HOST",
    403: "this user may not see it",
    404: "check the path behind the host's name",
}
_HINTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (av.error.HTTPUnauthorizedError, STATUS_HINTS[401]),
    (av.error.HTTPForbiddenError, STATUS_HINTS[403]),
    (av.error.HTTPNotFoundError, STATUS_HINTS[404]),
    (av.error.ProtocolNotFoundError, "this FFmpeg does not speak it; it knows rtsp, rtmp, http, udp and tcp"),
    (ConnectionRefusedError, "nothing listens at {where}: is it switched on, and is the port right?"),
)
_THREADS = 4
_NO_PICTURE = 3.0  # read time-outs that data may come without a picture
_NO_PICTURE_AT_LEAST = 10.0  # seconds
#: A note.
SOUND_LEFT_OUT = "sound left out: live inputs are taken without it"


class LostError(Exception):
    """The connection cannot be made, or is gone.

    Attributes:
        hint: the next step.
        final: trying again is no use.
        late: opening was given up because nothing came in time.
    """

    def __init__(self, reason: str, *, hint: str | None = None, final: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.final = final
        self.late = late


Kind = Literal["stream", "segments", "recording"]


class Arrival(NamedTuple):
    """A decoded picture as it came.

    Attributes:
        picture: of PyAV.
        pts: ticks of the stream's time base; None where the source does not say (RTSP: the first picture;
            MJPEG and bare H.264: every one).
        at: ``time.monotonic()`` when its last packet was here.
        sent: Unix time when the camera took it, by its own clock (RTCP); None where it does not say.
    """

    picture: av.VideoFrame
    pts: int | None
    at: float
    sent: float | None


class Connection(Protocol):
    """An open live source. Opened, iterated and closed on one thread.

    Attributes:
        damaged: packets that could not be decoded, and pictures that the decoder patched up.
        notes: what is to be said aloud of it.
        kind: a "stream", whose pictures come as they are taken; the "segments" of a playlist, many pictures at once;
            or a "recording", which says how long it is and can be read as fast as one likes.
    """

    damaged: int
    notes: list[str]
    kind: Kind

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of ``Arrival.pts``."""

    def pictures(self) -> Iterator[Arrival]:
        """Every picture as it comes; ends by raising.

        Raises:
            LostError: the stream ended, failed or fell silent.
        """

    def info(self, picture: av.VideoFrame, turned: Orientation) -> VideoInfo:
        """What is known of the video, from what the source says and one of its pictures."""

    def describe(self, picture: av.VideoFrame, info: VideoInfo) -> str:
        """One phrase for people."""

    def close(self) -> None:
        """Never raises."""


def without_delay(decoder: Any) -> None:
    """Sets a codec context up to give each picture away at once.

    Threads within a picture delay nothing; threads for several would hold each back for all the others.
    """
    decoder.thread_type = "SLICE"
    decoder.thread_count = _THREADS
    decoder.flags |= av.codec.context.Flags.low_delay


def silent(read_timeout: float) -> LostError:
    """The error of a connection over which nothing has come for ``read_timeout`` seconds."""
    return LostError(f"nothing came for {read_timeout:g} s")


def check_pictures(since: float, read_timeout: float) -> None:
    """Packets may come without a picture, but not for long.

    Args:
        since: seconds since the last picture.

    Raises:
        LostError: too long.
    """
    if since > max(_NO_PICTURE * read_timeout, _NO_PICTURE_AT_LEAST):
        raise LostError(f"data comes, but no picture for {since:.0f} s")


def refusal(
    error: BaseException, url: str, *, within: float | None = None, options: Mapping[str, str] = {}
) -> tuple[str, str | None]:
    """Why ``url`` cannot be opened, and what to do about it.

    Args:
        within: seconds after which it was given up, if that is why.
        options: with which FFmpeg opened it.
    """
    if within is not None:
        return f"no answer within {within:g} s", unanswered(url)
    if splits_password(url):
        return "its password ends the address", ESCAPES
    if not _has_port(url):
        return "its port is none", "ports are numbers from 1 to 65535"
    reason, place = ffmpeg.explain(error, []), where(url)  # FFmpeg's own line says the same in more words
    hint = next((text.format(where=place) for kind, text in _HINTS if isinstance(error, kind)), None)
    unknown = isinstance(error, (socket.gaierror, UnicodeError))
    failed = getattr(error, "errno", None) == errno.EIO
    if unknown or (failed and not _resolves(url)):
        reason, hint = "no host of this name is known", f"check the name: {place}"
    elif failed and options.get("tls_verify") == "1":
        why = certificates.distrust(url)
        if why is not None:
            reason, hint = f"its certificate is not accepted: {why}", certificates.HINT
        elif hint is None:
            hint = "if it leads on to a server whose certificate is not accepted, --insecure accepts any"
    return reason, hint


def _has_port(url: str) -> bool:
    """False where what stands for the port of ``url`` cannot be one."""
    try:
        return urlsplit(url).port != 0
    except ValueError as error:
        return "Port" not in str(error)


def _resolves(url: str) -> bool:
    """Whether the name of the host means an address: FFmpeg calls a wrong one an input/output error."""
    try:
        host = urlsplit(url).hostname
        return not host or bool(socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False
