"""An RTSP session over one TCP connection (RFC 2326): described, set up, playing, kept alive, torn down."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections import deque
from urllib.parse import unquote, urlsplit, urlunsplit

from streamderain.video.rtsp import description
from streamderain.video.rtsp.description import Track, UnknownToUsError
from streamderain.video.rtsp.login import Login
from streamderain.video.rtsp.wire import Data, ExcessError, Message, Wire

_PORTS = {"rtsp": 554, "rtsps": 322}
_REDIRECTS = 5
_TIMEOUT = 60  # seconds that a session lasts without a word, unless the camera says otherwise
_TIMEOUTS = 5, 3600
_EARLY = 4096, 16 << 20  # packets, and bytes of them, that may come before the answer that they are sent
_GOODBYE = 0.2  # seconds that the last request may take to leave
_ATTEMPTS = 3  # of one request: without the password, with it, with another nonce


class RefusedError(Exception):
    """The server's answer is an error; ``status`` says which."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class NoVideoError(Exception):
    """There is no video among what the server has; ``kinds`` is what there is."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__(", ".join(kinds))
        self.kinds = kinds


class Client:
    """A camera that sends one video track down the connection. Used by one thread.

    Args:
        url: ``rtsp[s]://[USER:PASSWORD@]HOST[:PORT]/PATH``, credentials percent-encoded.
        deadline: ``time.monotonic()`` by which it must be playing.

    Attributes:
        track: what it sends. kinds: of media that it has.

    Raises:
        OSError, EOFError, TimeoutError: of the connection.
        RefusedError: the server says no.
        NoVideoError: it has none.
        UnknownToUsError: the video, or the way it comes, is none that is known here.
        ExcessError: it sends what no camera would.
    """

    def __init__(self, url: str, *, deadline: float) -> None:
        self.track: Track
        self.kinds: list[str]
        self._wire: Wire | None = None
        self._early: deque[Data] = deque()
        self._channels = (0, 1)
        self._number = 0
        self._session = ""
        self._login: Login | None = None
        self._redirected = False
        self._timeout: float = _TIMEOUT
        self._alive = "OPTIONS"  # which every server answers; what it offers of better ones is in the answer
        self._may_get = True
        self._asked: int | None = None  # number of the last request that keeps it alive
        self._asked_at = time.monotonic()
        try:
            self._describe(url, deadline)
            self._set_up(deadline)
            self._request("PLAY", self.track.session, deadline, {"Range": "npt=0.000-"})
        except BaseException as error:
            self.close()
            if isinstance(error, UnknownToUsError):
                error.redirected = self._redirected
            raise
        self._asked_at = time.monotonic()

    def next(self, deadline: float) -> tuple[bool, bytes]:
        """The next packet of the track: whether it is RTCP, and the packet.

        Raises:
            OSError, EOFError, TimeoutError, ExcessError: the connection is lost.
        """
        while True:
            data = self._early.popleft() if self._early else self._receive(deadline)
            if isinstance(data, Data) and data.channel in self._channels:
                return data.channel == self._channels[1], data.payload

    def close(self) -> None:
        """Hangs up, with a last request whose answer is not waited for. Never raises."""
        if self._wire is not None:
            with contextlib.suppress(OSError, ValueError):
                if self._session:
                    self._send("TEARDOWN", self.track.session, time.monotonic() + _GOODBYE)
            self._wire.close()
        self._wire = None

    def _describe(self, url: str, deadline: float) -> None:
        asked = url
        for _ in range(_REDIRECTS + 1):
            scheme, host, port, self._login, plain = _parts(asked, url)
            try:
                self._wire = Wire(host, port, secure=scheme == "rtsps", deadline=deadline)
            except ssl.SSLError as error:
                raise UnknownToUsError("it speaks another TLS") from error
            answer = self._request("DESCRIBE", plain, deadline, {"Accept": "application/sdp"}, redirects=True)
            if answer.status is None or not 300 <= answer.status < 400:
                base = answer.headers.get("content-base") or answer.headers.get("content-location") or ""
                base = base if re.match(r"rtsps?://", base, re.IGNORECASE) else plain
                track, self.kinds = description.parse(answer.body, base)
                if track is None:
                    raise NoVideoError(self.kinds)
                self.track = track
                return
            self._wire.close()
            self._redirected = True
            asked = answer.headers.get("location", "")
            if not re.match(r"rtsps?://", asked, re.IGNORECASE):
                raise UnknownToUsError("it sends us to something else")
        raise ExcessError("it sends us on and on")

    def _set_up(self, deadline: float) -> None:
        wanted = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"}
        try:
            answer = self._request("SETUP", self.track.control, deadline, wanted)
        except RefusedError as error:
            if error.status == 461:
                raise UnknownToUsError("it does not send by TCP") from error
            raise
        transport = answer.headers.get("transport", "").lower()
        channels = re.search(r"interleaved=(\d{1,3})(?:-(\d{1,3}))?", transport)
        if channels is None and "rtp/avp/tcp" not in transport:
            raise UnknownToUsError("it does not send by TCP")
        if channels is not None:
            first = int(channels[1])
            self._channels = first & 255, (int(channels[2]) if channels[2] else first + 1) & 255
            assert self._wire is not None
            self._wire.channels = self._channels
        if not self._session:
            raise UnknownToUsError("it gives its session no name")

    def _request(
        self, method: str, uri: str, deadline: float, more: dict[str, str], *, redirects: bool = False
    ) -> Message:
        """Sends it and waits for the answer; what else comes meanwhile is dealt with."""
        early = 0
        for _ in range(_ATTEMPTS):
            number = self._send(method, uri, deadline, more)
            answer = self._receive(deadline)
            while not (isinstance(answer, Message) and answer.status is not None and _is(answer, number)):
                if isinstance(answer, Data):
                    self._early.append(answer)
                    early += len(answer.payload)
                    if len(self._early) > _EARLY[0] or early > _EARLY[1]:
                        raise ExcessError("it sends packets and does not answer")
                answer = self._receive(deadline)
            assert answer.status is not None
            if method == "SETUP":  # some name one before there is any
                self._note_session(answer)
            if answer.status == 401 and self._login is not None and self._login.challenge(answer.challenges):
                continue
            if 200 <= answer.status < 300 or (redirects and 300 <= answer.status < 400):
                if self._login is not None:
                    self._login.accepted = True
                return answer
            raise RefusedError(answer.status)
        raise RefusedError(401)

    def _send(self, method: str, uri: str, deadline: float, more: dict[str, str] | None = None) -> int:
        assert self._wire is not None
        self._number += 1
        headers = {"CSeq": str(self._number), "User-Agent": "streamderain"}
        if self._session:
            headers["Session"] = self._session
        authorization = self._login.header(method, uri) if self._login is not None else None
        if authorization is not None:
            headers["Authorization"] = authorization
        self._wire.send(f"{method} {uri} RTSP/1.0", headers | (more or {}), deadline)
        return self._number

    def _receive(self, deadline: float) -> Data | Message:
        """What comes next; keeps the session alive, and answers what the server asks."""
        assert self._wire is not None
        if self._session and time.monotonic() - self._asked_at > self._timeout / 2:
            self._keep_alive(deadline)
        got = self._wire.receive(deadline)
        if isinstance(got, Message):
            if got.status is None:
                good = got.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER")
                start = "RTSP/1.0 200 OK" if good else "RTSP/1.0 501 Not Implemented"
                self._wire.send(start, {"CSeq": got.headers.get("cseq", "0")[:20]}, deadline)
            elif self._asked is not None and _is(got, self._asked):
                self._asked = None
                if got.status == 401 and self._login is not None and self._login.challenge(got.challenges):
                    self._keep_alive(deadline)
                elif got.status >= 400:
                    self._alive, self._may_get = "OPTIONS", False
                elif self._may_get and "get_parameter" in got.headers.get("public", "").lower():
                    self._alive = "GET_PARAMETER"  # some count no other as a sign of life
        return got

    def _keep_alive(self, deadline: float) -> None:
        self._asked_at = time.monotonic()
        self._asked = self._send(self._alive, self.track.session, deadline)

    def _note_session(self, answer: Message) -> None:
        name, *more = answer.headers.get("session", "").split(";")
        if name.strip():
            self._session = name.strip()
        for part in more:
            key, _, value = part.partition("=")
            if key.strip().lower() == "timeout" and value.strip().isdecimal():
                least, most = _TIMEOUTS
                self._timeout = min(max(int(value.strip()[:9]), least), most)


def _is(answer: Message, number: int) -> bool:
    """Whether it answers that request. A server that does not number its answers is believed."""
    return answer.headers.get("cseq", str(number)) == str(number)


def _parts(url: str, first: str) -> tuple[str, str, int, Login | None, str]:
    """Scheme, host, port, login, and ``url`` without credentials. They go to nobody but the host of ``first``.

    Raises:
        UnknownToUsError: it is no URL.
    """
    try:
        parts, known = urlsplit(url), urlsplit(first)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UnknownToUsError("its address makes no sense") from error
    scheme = parts.scheme.lower()
    if not host or scheme not in _PORTS:
        raise UnknownToUsError("its address makes no sense")
    less_safe = known.scheme.lower() == "rtsps" and scheme == "rtsp"
    of = known if parts.username is None and known.hostname == host and not less_safe else parts
    login = Login(unquote(of.username), unquote(of.password or "")) if of.username is not None else None
    plain = urlunsplit((scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return scheme, host, port or _PORTS[scheme], login, plain
