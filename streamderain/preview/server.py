"""The preview's page and pictures over HTTP. Whoever watches slowly sees fewer pictures, and slows nobody."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import cast
from urllib.parse import parse_qs

from streamderain.observe import Observer
from streamderain.preview.jpeg import KINDS, Kind, Pictures
from streamderain.web import Handler, WebServer

_WAIT = 5.0  # seconds that a request waits for a picture; then it is asked again
_BOUNDARY = "streamderain-picture"
_NUMBER = re.compile(r"[0-9]{1,18}")
# The page is one file: it may load from here alone, and its own script and style stand in it.
_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; connect-src 'self';"
    " style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def serve_preview(observers: Sequence[Observer], address: tuple[str, int]) -> WebServer:
    """Serves the page until it is closed.

    ``/`` is the page; ``/picture?kind=pair&stream=0&after=41`` the first picture later than number 41 as JPEG, its
    number in the header ``X-Serial``, or 204 when none came for 5 s; ``/clean.mjpg``, ``/rainy.mjpg`` and
    ``/pair.mjpg`` are endless MJPEG for players; ``/status`` says in JSON how each stream is.

    Raises:
        StreamderainError: the port is taken.
    """
    streams = [Pictures(observer) for observer in observers]
    html = files("streamderain.preview").joinpath("page.html").read_bytes()

    class Preview(Handler):
        def page(self, path: str) -> None:
            asked = parse_qs(self.path.partition("?")[2])
            numbers = [asked.get(name, ["0"])[0] for name in ("stream", "after")]
            if not all(map(_NUMBER.fullmatch, numbers)):
                self.answer(b"stream and after are numbers\n", kind="text/plain", status=400)
                return
            stream, after = map(int, numbers)
            if path == "/":
                self.answer(html, kind="text/html; charset=utf-8", Content_Security_Policy=_POLICY)
            elif path == "/status":
                self.answer(json.dumps(_status(streams)).encode(), kind="application/json")
            elif path == "/picture":
                self._picture(asked.get("kind", ["pair"])[0], stream, after)
            elif path.endswith(".mjpg") and path[1:-5] in KINDS:
                self._stream(cast(Kind, path[1:-5]), stream)
            else:
                self.answer(b"nothing is here\n", kind="text/plain", status=404)

        def _picture(self, kind: str, stream: int, after: int) -> None:
            if kind not in KINDS or stream >= len(streams):
                self.answer(b"no such picture\n", kind="text/plain", status=404)
                return
            made = streams[stream].newer(kind, after, within=_WAIT)
            if made is None:
                self.answer(b"", kind="image/jpeg", status=204)
            else:
                self.answer(made[1], kind="image/jpeg", X_Serial=str(made[0]))

        def _stream(self, kind: Kind, stream: int) -> None:
            if stream >= len(streams) or self.command == "HEAD":
                self.answer(b"no such stream\n", kind="text/plain", status=404)
                return
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            serial = 0
            while True:
                made = streams[stream].newer(kind, serial, within=_WAIT)
                if made is not None:
                    serial, body = made
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                    self.wfile.write(head.encode() + body + b"\r\n")
                elif streams[stream].observer.ended:
                    return
                else:
                    time.sleep(0.05)

    return WebServer(address, Preview, what="--preview")


def _status(streams: Sequence[Pictures]) -> list[dict[str, object]]:
    return [asdict(pictures.observer.snapshot()) for pictures in streams]
