"""An RTSP server that says what a test tells it to: odd answers, packets when it likes, and what was asked of it."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple


class Request(NamedTuple):
    """One request, ``url`` as it was sent; ``number``: how many of its method came before."""

    method: str
    url: str
    headers: dict[str, str]
    number: int


Answer = Callable[[Request], "bytes | None"]


def reply(request: Request, status: str = "200 OK", *headers: str, body: str = "") -> bytes:
    """A response to it."""
    lines = [f"RTSP/1.0 {status}", f"CSeq: {request.headers['cseq']}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def interleaved(packet: bytes, channel: int = 0) -> bytes:
    return struct.pack(">cBH", b"$", channel, len(packet)) + packet


class Scripted:
    """Serves every connection by the same script, each on a thread of its own.

    Args:
        sdp: its description.
        packets: RTP, sent one picture every ``every`` seconds when asked to play.
        answer: what to send to a request instead of the usual; None for the usual.
        secure: with TLS, by this context.

    Attributes:
        requests: all that came. port: where it listens.
    """

    def __init__(
        self,
        sdp: str = "",
        packets: Sequence[bytes] = (),
        *,
        answer: Answer = lambda request: None,
        every: float = 0.02,
        host: str = "127.0.0.1",
        secure: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self._sdp, self._packets, self._answer = sdp, packets, answer
        self._every, self._host, self._secure = every, host, secure
        self._links: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._door = socket.create_server((host, 0), family=family)
        self.port: int = self._door.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def url(self, user: str = "", path: str = "/cam") -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "rtsp" if self._secure is None else "rtsps"
        return f"{scheme}://{user + '@' if user else ''}{host}:{self.port}{path}"

    def asked(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def close(self) -> None:
        for link in (self._door, *self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for link in (self._door, *self._links):
            link.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._door.accept()
                if self._secure is not None:
                    link = self._secure.wrap_socket(link, server_side=True)
                link.settimeout(10)
                self._links.append(link)
                self._threads.append(threading.Thread(target=self._serve, args=(link,)))
                self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        playing: threading.Thread | None = None
        with suppress(OSError, ValueError), link.makefile("rb") as lines:
            while first := lines.readline().decode():
                method, url, _ = first.split(" ", 2)
                headers = {}
                while line := lines.readline().decode().strip():
                    key, _, value = line.partition(":")
                    headers[key.lower()] = value.strip()
                if method.startswith("RTSP/"):  # an answer to a request of ours
                    method = "ANSWER"
                request = Request(method, url, headers, len(self.asked(method)))
                self.requests.append(request)
                answer = self._answer(request)
                link.sendall(self._usual(request) if answer is None else answer)
                if method == "PLAY" and (answer is None or b" 200 " in answer) and playing is None:
                    if self._secure is not None:  # before Python 3.13 TLS bears no two threads, one for each way
                        self._play(link)
                        continue
                    playing = threading.Thread(target=self._play, args=(link,))
                    playing.start()
                if method == "TEARDOWN":
                    break
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        if playing is not None:
            playing.join(5)

    def _usual(self, request: Request) -> bytes:
        if request.method == "ANSWER":
            return b""
        if request.method == "DESCRIBE":
            return reply(request, "200 OK", "Content-Type: application/sdp", body=self._sdp)
        if request.method == "SETUP":
            return reply(request, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 7;timeout=60")
        return reply(request, "200 OK", "Session: 7")

    def _play(self, link: socket.socket) -> None:
        with suppress(OSError):
            for packet in self._packets:
                link.sendall(interleaved(packet))
                if packet[1] > 127:
                    time.sleep(self._every)
