"""A process of its own that holds one connection: encoded packets come in on stdin, words about it go out on stdout.

Run by its path, never imported: it needs PyAV and the standard library only, and starts in a third of a second.
PyAV holds Python's lock while it connects, so a target that takes the connection and says nothing would freeze every
thread of the process that asked. It freezes this one, which an alarm ends.

Messages: one byte of kind, four of length (big-endian), then that many bytes. ``J``: JSON, what to open. ``C``: a clip
of one picture, which tells codec, size and colour. ``P``: pts, dts and duration (signed, 8 bytes each), a byte that is
1 for a key frame, and a packet. ``E``: the end. Answers are JSON, one a line: connected, failed with a reason, done.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import struct
import sys
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.error
import av.logging

HEAD = struct.Struct(">cI")
PACKET = struct.Struct(">qqq?")
_PR_SET_PDEATHSIG = 1


def main() -> int:
    parent = os.getppid()
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, signal.SIG_IGN)  # a terminal and systemd tell everybody; stdin says when it is over
    _die_with(parent)
    words, messages = sys.stdout, sys.stdin.buffer
    ask = json.loads(_expect(messages, b"J"))
    clip = _expect(messages, b"C")
    try:
        _alarm(ask["open_timeout"])
        with av.open(io.BytesIO(clip)) as template:
            out, stream = _open(ask, template.streams.video[0])
        _say(words, event="connected")
        _relay(messages, out, stream, ask)
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        number = getattr(error, "errno", None)
        _say(words, event="failed", reason=reason, errno=number, log="".join(getattr(error, "__notes__", ())))
        return 1
    _say(words, event="done")
    return 0


def _open(ask: dict[str, Any], pattern: Any) -> tuple[Any, Any]:
    """The connected container and its one stream. An error has FFmpeg's last word on it as a note."""
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as lines:
        try:
            out = av.open(ask["url"], "w", format=ask["muxer"], container_options=ask["options"])
            stream = out.add_stream_from_template(pattern)
            out.start_encoding()
        except (av.error.FFmpegError, OSError) as error:
            said = [text.strip() for _, _, text in lines if text.strip()]
            error.add_note(said[-1] if said else "")
            raise
        finally:
            av.logging.set_level(None)
    return out, stream


def _relay(messages: BinaryIO, out: Any, stream: Any, ask: dict[str, Any]) -> None:
    time_base = Fraction(*ask["time_base"])
    _alarm(0)
    while (message := _read(messages)) is not None:
        kind, body = message
        if kind == b"E":
            break
        packet = av.Packet(body[PACKET.size :])
        packet.pts, packet.dts, packet.duration, packet.is_keyframe = PACKET.unpack_from(body)
        packet.time_base = time_base
        packet.stream = stream
        _alarm(ask["write_timeout"])
        out.mux(packet)
        _alarm(0)
    _alarm(ask["write_timeout"])
    out.close()


def _alarm(seconds: float) -> None:
    """Without a handler SIGALRM ends the process, whoever holds Python's lock."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _die_with(parent: int) -> None:
    """Ends this process with the one that started it, which a hanging connection could not notice."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # no Linux: the alarm has to do
    if os.getppid() != parent:
        os._exit(1)


def _expect(messages: BinaryIO, kind: bytes) -> bytes:
    message = _read(messages)
    if message is None or message[0] != kind:
        raise SystemExit(1)
    return message[1]


def _read(messages: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next message; None when the other side is gone."""
    head = messages.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    kind, size = HEAD.unpack(head)
    body = messages.read(size)
    return (kind, body) if len(body) == size else None


def _say(words: Any, **fields: object) -> None:
    words.write(json.dumps(fields) + "\n")
    words.flush()


if __name__ == "__main__":
    sys.exit(main())
