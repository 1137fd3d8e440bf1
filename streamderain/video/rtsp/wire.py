"""RTSP on the wire (RFC 2326): requests out, responses, requests and interleaved packets in, with limits on it all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from typing import NamedTuple

_LINE = 8 << 10  # bytes of a line, headers of a message, bytes of its body: no camera comes near
_HEADERS = 100
_BODY = 256 << 10
_STRAY = 1 << 20  # bytes that mean nothing, in one go
_AT_ONCE = 1 << 16


class ExcessError(Exception):
    """The other side sends more than a camera would, or what is no RTSP at all."""


class Data(NamedTuple):
    """An interleaved packet."""

    channel: int
    payload: bytes


class Message(NamedTuple):
    """A response, or a request of the server's.

    Attributes:
        status: of a response; None: it is a request.
        method: of a request.
        headers: by their names in small letters; of one that came twice, both in one, after a comma.
        challenges: every WWW-Authenticate header by itself, for commas separate their insides too.
    """

    status: int | None
    method: str
    headers: dict[str, str]
    challenges: list[str]
    body: bytes


class Wire:
    """One TCP connection, perhaps with TLS. Used by one thread.

    A camera's certificate is its own, and checked by nobody; FFmpeg does the same unless told otherwise.

    Attributes:
        channels: of interleaved packets that are to be found again behind bytes that mean nothing.

    Args:
        deadline: ``time.monotonic()`` by which it must stand.

    Raises:
        OSError: it cannot be made; TimeoutError: in time.
    """

    def __init__(self, host: str, port: int, *, secure: bool, deadline: float) -> None:
        self.channels: tuple[int, ...] = (0, 1)
        self._socket = _connect(host, port, deadline)
        self._buffer = bytearray()
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                self._socket.settimeout(_left(deadline))
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, start: str, headers: Mapping[str, str], deadline: float) -> None:
        """A request or response without a body."""
        lines = (start, *(f"{name}: {value}" for name, value in headers.items()), "", "")
        self._socket.settimeout(_left(deadline))
        self._socket.sendall("\r\n".join(lines).encode())

    def receive(self, deadline: float) -> Data | Message:
        """What comes next.

        Raises:
            EOFError: the other side has hung up.
            TimeoutError: not by ``deadline`` (``time.monotonic()``).
            OSError: the connection broke.
            ExcessError: it is too long, or not RTSP.
        """
        self._need(4, deadline)
        while self._buffer.startswith((b"\r", b"\n")):  # some cameras put line ends between packets
            del self._buffer[:1]
            self._need(4, deadline)
        if self._buffer[:1] != b"$" and not self._buffer[:1].isupper():
            self._resynchronise(deadline)
        if self._buffer[:1] == b"$":
            length = int.from_bytes(self._buffer[2:4], "big")
            self._need(4 + length, deadline)
            channel, payload = self._buffer[1], bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            return Data(channel, payload)
        return self._message(deadline)

    def close(self) -> None:
        """Hangs up. Never raises."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _message(self, deadline: float) -> Message:
        first = self._line(deadline).split(" ", 2)
        status = None
        if first[0].startswith("RTSP/"):
            if len(first) < 2 or not (first[1].isascii() and first[1].isdigit() and len(first[1]) == 3):
                raise ExcessError("what answers there is no RTSP server")
            status = int(first[1])
        elif len(first) < 3 or not first[2].startswith("RTSP/"):
            raise ExcessError("what answers there is no RTSP server")
        headers: dict[str, str] = {}
        challenges = []
        for _ in range(_HEADERS):
            line = self._line(deadline)
            if not line:
                break
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "www-authenticate":
                challenges.append(value)
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        else:
            raise ExcessError("its answer has no end")
        size = headers.get("content-length", "0").split(",")[0]
        length = int(size) if size.isascii() and size.isdigit() and len(size) < 10 else 0
        if length > _BODY:
            raise ExcessError("its answer is far too long")
        self._need(length, deadline)
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return Message(status, first[0], headers, challenges, body)

    def _line(self, deadline: float) -> str:
        while (end := self._buffer.find(b"\n", 0, _LINE)) < 0:
            if len(self._buffer) >= _LINE:
                raise ExcessError("its answer has no end")
            self._need(len(self._buffer) + 1, deadline)
        line = self._buffer[:end].decode("utf-8", "replace").rstrip("\r")
        del self._buffer[: end + 1]
        return line

    def _resynchronise(self, deadline: float) -> None:
        """Drops what is neither, up to what looks like a packet or an answer."""
        beginnings = (b"RTSP/1.", *(b"$" + bytes([channel]) for channel in self.channels))
        dropped = 0
        while True:
            found = [at for at in map(self._buffer.find, beginnings) if at >= 0]
            stray = min(found) if found else max(0, len(self._buffer) - len(beginnings[0]) + 1)
            dropped += stray
            del self._buffer[:stray]
            if found:
                self._need(4, deadline)
                return
            if dropped > _STRAY:
                raise ExcessError("what it sends makes no sense")
            self._need(len(self._buffer) + 1, deadline)

    def _need(self, count: int, deadline: float) -> None:
        while len(self._buffer) < count:
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(_AT_ONCE)
            if not data:
                raise EOFError
            self._buffer += data


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """The first of the host's addresses that answers; each gets its part of the time."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = TimeoutError()
    for number, (family, kind, protocol, _, place) in enumerate(found):
        link = socket.socket(family, kind, protocol)
        try:
            link.settimeout(_left(deadline) / (len(found) - number))
            link.connect(place)
        except OSError as failure:
            link.close()
            error = failure
        else:
            return link
    raise error


def _left(deadline: float) -> float:
    """Seconds until then.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
