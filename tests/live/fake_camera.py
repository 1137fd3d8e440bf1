"""A camera for the tests: RTSP over TCP and UDP by the standard library, H.264 by PyAV, bad manners on demand.

Run as a process of its own, it prints "port N" and then obeys lines on stdin:

    stall / go          stop sending, with the connections open / send again
    mute                accept connections and answer nothing
    drop                close every connection
    size 96x64          change the picture's size, in the stream
    clock SECONDS       let the time stamps jump there
    loss 0.05           lose so many of the RTP packets that go by UDP

Each picture carries the moment it was made (`stamp`), so that whoever sees it at the other end knows its age.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

_MTU = 1200
_RTP_CLOCK = 90000
_NTP_EPOCH = 2208988800
_CELL = 8  # px; each holds one bit of the stamp
_BITS = 32


def stamp(picture: np.ndarray[Any, Any], milliseconds: int) -> None:
    """Writes a number into the first cells of [H, W, 3]: black is 0, white is 1."""
    across = picture.shape[1] // _CELL
    for bit in range(_BITS):
        row, column = divmod(bit, across)
        value = 255 if milliseconds >> bit & 1 else 0
        picture[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL] = value


def read_stamp(picture: np.ndarray[Any, Any]) -> int:
    """What `stamp` wrote, from a picture of the same size."""
    across = picture.shape[1] // _CELL
    number = 0
    for bit in range(_BITS):
        row, column = divmod(bit, across)
        cell = picture[row * _CELL + 2 : row * _CELL + 6, column * _CELL + 2 : column * _CELL + 6]
        number |= int(cell.mean() > 127) << bit
    return number


def now_ms() -> int:
    """The clock of the stamps: one for all processes of a machine."""
    return time.monotonic_ns() // 1_000_000 & 0xFFFFFFFF


class Client:
    """One RTSP connection; `send` is called by the camera's thread, all else by the client's own."""

    def __init__(self, camera: Camera, link: socket.socket) -> None:
        self.camera, self.link = camera, link
        self.playing = False
        self.lock = threading.Lock()
        self.udp: socket.socket | None = None
        self.to: list[tuple[str, int]] = []

    def serve(self) -> None:
        try:
            with self.link, self.link.makefile("rb") as lines:
                while request := self._request(lines):
                    self._answer(*request)
        except OSError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        self.playing = False
        with self.camera.lock:
            self.camera.clients.discard(self)
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        self.link.close()
        if self.udp is not None:
            self.udp.close()

    def _request(self, lines: Any) -> tuple[str, str, dict[str, str]] | None:
        first = lines.read(1)
        while first == b"$":  # the client's own RTCP
            _, length = struct.unpack(">BH", lines.read(3))
            lines.read(length)
            first = lines.read(1)
        if not first:
            return None
        method, url, _ = (first + lines.readline()).decode().split(" ", 2)
        headers = {}
        while line := lines.readline().decode().strip():
            key, _, value = line.partition(":")
            headers[key.lower()] = value.strip()
        return method, url, headers

    def _answer(self, method: str, url: str, headers: dict[str, str]) -> None:
        camera, more, body, code = self.camera, {}, "", "200 OK"
        if camera.mute:
            time.sleep(3600)
        authorised = camera.password is None or headers.get("authorization") == camera.password
        if method != "OPTIONS" and not authorised:
            code, more = "401 Unauthorized", {"WWW-Authenticate": 'Basic realm="camera"'}
        elif method != "OPTIONS" and not re.search(rf"://[^/]+{camera.path}(/|$)", url):
            code = "404 Not Found"
        elif method == "OPTIONS":
            more = {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"}
        elif method == "DESCRIBE":
            more, body = {"Content-Type": "application/sdp", "Content-Base": f"{url}/"}, camera.sdp()
        elif method == "SETUP":
            code, more = self._setup(headers["transport"])
        elif method == "PLAY":
            more = {"Range": "npt=0.000-"}
        reply = [f"RTSP/1.0 {code}", f"CSeq: {headers.get('cseq', '0')}", "Session: 1;timeout=60"]
        reply += [f"{key}: {value}" for key, value in more.items()]
        if body:
            reply.append(f"Content-Length: {len(body)}")
        with self.lock:
            self.link.sendall(("\r\n".join(reply) + "\r\n\r\n" + body).encode())
        if method == "PLAY" and code.startswith("200"):
            camera.wants_key = True
            with camera.lock:
                camera.clients.add(self)
            self.playing = True
        if method == "TEARDOWN":
            raise OSError("goodbye")

    def _setup(self, transport: str) -> tuple[str, dict[str, str]]:
        ports = re.search(r"client_port=(\d+)-(\d+)", transport)
        if "TCP" in transport and self.camera.transport != "udp":
            return "200 OK", {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"}
        if ports is None or self.camera.transport == "tcp":
            return "461 Unsupported Transport", {}
        host = self.link.getpeername()[0]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.to = [(host, int(ports[1])), (host, int(ports[2]))]
        own = self.udp.getsockname()[1]
        return "200 OK", {"Transport": f"RTP/AVP;unicast;client_port={ports[1]}-{ports[2]};server_port={own}-{own}"}

    def send(self, packet: bytes, channel: int) -> None:
        try:
            if self.udp is not None:
                if channel or random.random() >= self.camera.loss:
                    self.udp.sendto(packet, self.to[channel])
                return
            with self.lock:
                self.link.sendall(struct.pack(">cBH", b"$", channel, len(packet)) + packet)
        except OSError:
            self.close()


class Camera:
    """Paints, encodes and sends, in real time. ``jump`` is added to the time stamps."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path, self.transport, self.loss = options.path, options.transport, options.loss
        self.fps, self.gop, self.size = options.fps, options.gop, _size(options.size)
        self.password = None
        if options.password:
            self.password = "Basic " + base64.b64encode(options.password.encode()).decode()
        self.clients: set[Client] = set()
        self.lock = threading.Lock()
        self.stalled = self.mute = self.wants_key = False
        self.began = time.monotonic()
        self.jump = 0.0
        self.sequence, self.ssrc = random.randrange(1 << 16), random.randrange(1 << 32)
        self.encoder = self._make_encoder()
        self.headers = self._headers()

    def _make_encoder(self) -> Any:
        encoder: Any = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height = self.size
        encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, _RTP_CLOCK)
        encoder.framerate = Fraction(self.fps)
        encoder.options = {
            "preset": "ultrafast", "tune": "zerolatency", "crf": "20", "forced-idr": "1",
            "x264-params": f"keyint={self.gop}:repeat-headers=1:threads=1",
        }  # fmt: skip
        return encoder

    def _headers(self) -> list[bytes]:
        """SPS and PPS, for the session's description."""
        found = [unit for unit in _units(self._encode(0)) if unit[0] & 31 in (7, 8)]
        self.encoder = self._make_encoder()
        return found

    def sdp(self) -> str:
        sets = ",".join(base64.b64encode(unit).decode() for unit in self.headers)
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
            f"a=framerate:{self.fps}\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n"
            "a=control:track1\r\n"
        )

    def _encode(self, ticks: int) -> bytes:
        width, height = self.size
        rows, columns = np.mgrid[0:height, 0:width]
        index = ticks * self.fps // _RTP_CLOCK
        picture = np.stack([(columns * 3 + index * 5) % 256, (rows * 4) % 256, (rows + columns) % 256], axis=2)
        picture = picture.astype(np.uint8)
        stamp(picture, now_ms())
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = ticks, Fraction(1, _RTP_CLOCK)
        if self.wants_key:
            frame.pict_type, self.wants_key = 1, False
        return b"".join(bytes(packet) for packet in self.encoder.encode(frame))

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            time.sleep(max(0.0, self.began + number / self.fps - time.monotonic()))
            if self.stalled:
                continue
            if (self.encoder.width, self.encoder.height) != self.size:
                self.encoder = self._make_encoder()
            ticks = number * _RTP_CLOCK // self.fps
            data = self._encode(ticks)
            with self.lock:
                clients = [client for client in self.clients if client.playing]
            shown = (ticks + round(self.jump * _RTP_CLOCK)) & 0xFFFFFFFF
            report = self._report(shown) if number % self.fps == 0 else None
            for packet in self._packets(data, shown):
                for client in clients:
                    client.send(packet, 0)
            for client in clients if report else ():
                client.send(report or b"", 1)

    def _report(self, shown: int) -> bytes:
        """RTCP: which wall time the time stamp ``shown`` was."""
        now = time.time() + _NTP_EPOCH
        whole = int(now)
        part = int((now - whole) * (1 << 32))
        return struct.pack(">BBHIIIIII", 0x80, 200, 6, self.ssrc, whole, part, shown, 0, 0)

    def _packets(self, data: bytes, shown: int) -> Iterator[bytes]:
        units = list(_units(data))
        for unit in units:
            last = unit is units[-1]
            if len(unit) <= _MTU:
                yield self._rtp(unit, shown, marker=last)
                continue
            kind, payload = unit[0], unit[1:]
            for at in range(0, len(payload), _MTU):
                piece, end = payload[at : at + _MTU], at + _MTU >= len(payload)
                fu = (0x80 if at == 0 else 0) | (0x40 if end else 0) | kind & 31
                yield self._rtp(bytes([kind & 0xE0 | 28, fu]) + piece, shown, marker=last and end)

    def _rtp(self, payload: bytes, shown: int, *, marker: bool) -> bytes:
        self.sequence = (self.sequence + 1) & 0xFFFF
        return struct.pack(">BBHII", 0x80, 96 | (0x80 if marker else 0), self.sequence, shown, self.ssrc) + payload


def _units(data: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B stream."""
    yield from (unit.rstrip(b"\0") for unit in re.split(rb"\x00\x00\x01", data) if unit.strip(b"\0"))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _obey(camera: Camera) -> None:
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command in ("stall", "go"):
            camera.stalled = command == "stall"
        elif command == "mute":
            camera.mute = True
        elif command == "drop":
            with camera.lock:
                clients = list(camera.clients)
            for client in clients:
                client.close()
        elif command == "size":
            camera.size = _size(value)
        elif command == "clock":
            camera.jump = float(value)
        elif command == "loss":
            camera.loss = float(value)
    os._exit(0)  # whoever started this is gone


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--path", default="/cam")
    parser.add_argument("--password", help="user:password")
    parser.add_argument("--size", default="64x48")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--gop", type=int, default=25)
    parser.add_argument("--transport", choices=["any", "tcp", "udp"], default="any")
    parser.add_argument("--loss", type=float, default=0.0)
    options = parser.parse_args()
    camera = Camera(options)
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", options.port))
    server.listen(16)
    sys.stdout.write(f"port {server.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=camera.run, daemon=True).start()
    threading.Thread(target=_obey, args=(camera,), daemon=True).start()
    while True:
        link, _ = server.accept()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Client(camera, link).serve, daemon=True).start()


if __name__ == "__main__":
    main()
