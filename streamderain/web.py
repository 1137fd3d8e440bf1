"""A small HTTP server on threads of its own, for metrics and the preview: standard library only, never in the way."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self, cast
from urllib.parse import urlsplit

from streamderain.errors import StreamderainError

_LOG = logging.getLogger("streamderain.web")
_TIMEOUT = 20.0  # seconds that a client may take nothing, and within which it must have asked for something
_MOST_CLIENTS = 32
_NOT_MEANT = b"this is for this machine: ask for localhost, or have it bound to another address\n"


def parse_address(text: str) -> tuple[str, int]:
    """ "8080", ":8080", "0.0.0.0:8080" or "[::1]:8080" as host and port; this machine alone where no host is named.

    Raises:
        ValueError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else ""
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise ValueError(f"{text!r} is not an address: write PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080")
    return host or "127.0.0.1", int(port)


class Handler(BaseHTTPRequestHandler):
    """What every page of ours has in common; a subclass answers `page`.

    Bound to this machine alone, only who asked for this machine is answered, so that no web page elsewhere can look at
    what is served by giving its own name this address.
    """

    server_version = "streamderain"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT

    def handle_one_request(self) -> None:
        cast(_Threads, self.server).expect(self.connection, time.monotonic() + self.timeout)
        super().handle_one_request()

    def do_GET(self) -> None:
        server = cast(_Threads, self.server)
        server.expect(self.connection, math.inf)
        if server.is_meant(self.headers.get("Host")):
            self.page(self.path.partition("?")[0])
        else:
            self.answer(
                _NOT_MEANT,
                kind="text/plain; charset=utf-8",
                status=403,
            )

    do_HEAD = do_GET  # noqa: N815

    def page(self, path: str) -> None:
        """Answers a request for ``path``."""
        raise NotImplementedError

    def answer(self, body: bytes, *, kind: str, status: int = 200, **headers: str) -> None:
        """Sends ``body``, with ``headers`` whose underscores stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: stderr belongs to the run."""


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    # Not SO_REUSEPORT and the like: a port that somebody else listens on is an error.
    allow_reuse_address = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._clients = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._sockets: dict[Any, float] = {}  # until when a request must have come, by time.monotonic
        self._guard = threading.Lock()
        self._name = host.lower()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks the network for this machine's name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def expect(self, request: Any, until: float) -> None:
        """Hangs up on a client if it has not asked by then: by a byte now and then it could stay for ever."""
        with self._guard:
            self._sockets[request] = until

    def service_actions(self) -> None:
        self.hang_up(time.monotonic())

    def is_meant(self, asked: str | None) -> bool:
        """Whether a request's header ``Host`` is this machine's alone, or need not be. No browser leaves it out."""
        if asked is None or not _is_loopback(self.server_name):
            return True
        try:
            name = urlsplit(f"//{asked}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", self._name) or _is_loopback(name)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._clients.acquire(blocking=False):
            self.shutdown_request(request)  # too many already: a run is not for serving crowds
            return
        self.expect(request, math.inf)
        try:
            super().process_request(request, client_address)
        except Exception:  # there is no thread to be had
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        with self._guard:
            self._sockets.pop(request, None)
        self._clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's error; ours is told where it can be found."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _LOG.warning("a request could not be answered: %r", error, exc_info=_LOG.isEnabledFor(logging.DEBUG))

    def hang_up(self, now: float = math.inf) -> None:
        """On those who should have asked by ``now``, or on everybody."""
        with self._guard:
            for one, until in self._sockets.items():
                if until <= now:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)


class WebServer:
    """Listens from the moment it is made until it is closed. A context manager.

    Attributes:
        url: where a browser on this machine finds it.

    Args:
        address: host and port; port 0 takes any that is free.
        handler: a class made by the caller, with what it serves bound to it.
        what: for people, such as "the preview".

    Raises:
        StreamderainError: the port is taken, or there is no such host.
    """

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], *, what: str) -> None:
        host, port = address
        try:
            self._server = _Threads(host, port, handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StreamderainError(
                f"{what} cannot listen on {host}:{port}: {reason}", hint="choose another"
            ) from error
        self.port = int(self._server.server_address[1])
        shown = "127.0.0.1" if _is_any(host) else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="streamderain-web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops listening and hangs up on everybody."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
