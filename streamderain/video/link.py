"""Keeps one child process connected to a target, and starts the next when it ends; never holds its caller up."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import av.error

from streamderain.errors import OutputError
from streamderain.redaction import redact_said
from streamderain.video import relay
from streamderain.video.child import start_child
from streamderain.video.connection import refusal
from streamderain.video.reconnect import Backoff

_LOG = logging.getLogger("streamderain.publish")
_RELAY = Path(relay.__file__)
_LOOK_EVERY = 0.1  # seconds between two looks at ``stop``
_LASTED = 5.0  # seconds after which a connection was a good one
_FINISH = 5.0  # seconds that the last packets may take
_MOST_PACKETS = 30  # a second or so: more would only make the picture old
_MOST_BYTES = 16 << 20


class _Ended(NamedTuple):
    """Why a child ended, redacted, and what to do about it."""

    reason: str
    hint: str | None = None


class Link:
    """One target, reached through `relay` processes, one for each connection.

    Packets are queued here and written by a thread. While the target is slow or away, a link that keeps trying drops
    them up to the next key frame and counts them; one that does not (``keep_trying`` False: the input is a file, and
    no frame of it may be lost) makes `put` wait, and fails where the connection does.

    Attributes:
        dropped: packets that were not sent. reconnects: connections after the first.
        connected: the target is there, as far as that is known.
        needs_key: nothing but a key frame is of use: the connection is new, or packets were dropped.

    Args:
        ask: what `relay` is to open.
        clip: a clip of one picture, in a container that keeps everything about the codec.
        name: of the target, for people, without credentials.
    """

    def __init__(self, ask: Mapping[str, Any], clip: bytes, *, name: str, keep_trying: bool) -> None:
        self.dropped = 0
        self.reconnects = 0
        self.connected = False
        self.needs_key = True
        self._hello = _message(b"J", json.dumps(ask).encode()) + _message(b"C", clip)
        self._name = name
        self._keep_trying = keep_trying
        self._patience = ask["open_timeout"]
        self._url = ask["url"]
        self._changed = threading.Condition()
        self._packets: deque[bytes] = deque()
        self._ending = self._aborted = self._finished = False
        self._give_up = 0.0
        self._connected_at: float | None = None  # lately
        self._error: OutputError | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work,), name="streamderain-publish", daemon=True
        )

    def open(self, *, wait: float = 0.0, stop: threading.Event | None = None) -> None:
        """Connects for the first time, and waits until that has succeeded or failed.

        Args:
            wait: seconds that it is tried for; 0 fails at once, as a mistyped address should.
            stop: when it gets set, waiting ends.

        Raises:
            OutputError: the target cannot be reached, or refuses; or ``stop`` was set.
        """
        self._give_up = time.monotonic() + wait
        self._thread.start()
        try:
            with self._changed:
                while not self._changed.wait_for(lambda: self.connected or self._finished, _LOOK_EVERY):
                    if stop is not None and stop.is_set():
                        break
                reached, error = self.connected, self._error
        except BaseException:  # interrupted while waiting
            self.abort()
            raise
        if not reached:
            self.abort()
            raise error or OutputError(f"{self._name}: interrupted before it was reached")

    def put(self, pts: int, dts: int, duration: int, packet: bytes, *, key: bool) -> None:
        """Queues one packet, times in ticks of the time base that was asked for.

        Raises:
            OutputError: the connection is lost for good.
        """
        message = _message(b"P", relay.PACKET.pack(pts, dts, duration, key) + packet)
        with self._changed:
            if not self._keep_trying:
                self._changed.wait_for(lambda: self._error is not None or self._finished or not self._full())
            if self._error is not None:
                raise self._error
            if self._full():
                self._drop()
            if not self.connected or (self.needs_key and not key):
                self.dropped += 1
                return
            self.needs_key = False
            self._packets.append(message)
            self._changed.notify_all()

    def finish(self) -> None:
        """Sends what is queued and ends the stream; gives up on a target that does not take it.

        Raises:
            OutputError: the connection was lost, and ``keep_trying`` is False.
        """
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            done = self.connected and self._changed.wait_for(lambda: self._finished, _FINISH)
            if not done:
                self._aborted = True
        if not done:
            self._kill()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Ends at once. Never raises."""
        with self._changed:
            self._ending = self._aborted = True
            self._packets.clear()
            self._changed.notify_all()
        self._kill()
        self._thread.join()

    # ---- the thread

    def _work(self) -> None:
        backoff, told = Backoff(), False
        try:
            while True:
                ended = self._serve()
                with self._changed:
                    had, self.connected = self.connected, False
                    self._drop()
                    if ended is None:
                        return
                    reason, before = ended.reason, self._connected_at
                    waiting = before is None and time.monotonic() < self._give_up
                    if not waiting and (before is None or not self._keep_trying):
                        what = "cannot be reached" if before is None else "cannot be written"
                        self._error = OutputError(f"{self._name} {what}: {reason}", hint=ended.hint)
                        return
                    if self._ending:
                        return
                if had and before is not None:
                    if time.monotonic() - before > _LASTED:
                        backoff.reset()  # not for one that takes every connection and drops it
                    _LOG.warning("%s is lost: %s; trying again", self._name, reason, extra=self._about("lost", reason))
                elif waiting and not told:
                    _LOG.warning(
                        "%s cannot be reached: %s; waiting for it",
                        self._name,
                        reason,
                        extra=self._about("away", reason),
                    )
                    told = True
                else:
                    _LOG.info("%s: %s", self._name, reason)
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, backoff.next())
                    if self._ending:
                        return
        finally:
            with self._changed:
                self._finished = True
                self.connected = False
                self._changed.notify_all()

    def _serve(self) -> _Ended | None:
        """One child's life. Why it ended; None when it sent everything and was told to end."""
        try:
            child = start_child(_RELAY)
        except OSError as error:
            return _Ended(f"its process cannot be started: {error.strerror or error}")
        assert child.stdin is not None
        assert child.stdout is not None
        with self._changed:
            self._child = child
            if self._aborted:
                child.kill()  # whoever aborted did not see it yet
        try:
            child.stdin.write(self._hello)
            child.stdin.flush()
            told = child.stdout.readline()
            if _parsed(told).get("event") == "connected":
                self._connect()
                while (message := self._next()) is not None:
                    child.stdin.write(message)
                    child.stdin.flush()
                child.stdin.write(_message(b"E", b""))
                child.stdin.flush()
                told = child.stdout.readline()
        except OSError:
            told = b""  # it has ended; its last word says why
        finally:
            last = _last_words(child)
            with self._changed:
                self._child = None
        end = _parsed(told or last)
        if end.get("event") == "done":
            return None
        if "reason" not in end:
            if self.connected:
                return _Ended("it takes nothing any more")
            return _Ended(*refusal(TimeoutError(), self._url, within=self._patience))
        number, reason = end.get("errno") or 0, end["reason"]
        said = redact_said(end.get("log", ""), self._url).rstrip(".")
        kind: Any = av.error.classes.get(number, OSError)
        reason, hint = refusal(kind(number, reason), self._url)
        # With a hint there is no need for what FFmpeg says besides, of connections within the one asked for mostly.
        return _Ended(f"{reason} ({said})" if said and said not in reason and hint is None else reason, hint)

    def _connect(self) -> None:
        with self._changed:
            if self._connected_at is not None:
                self.reconnects += 1
                _LOG.warning("%s is back", self._name, extra=self._about("back"))
            self.connected, self._connected_at = True, time.monotonic()
            self._changed.notify_all()

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._packets or self._ending)
            if not self._packets:
                return None
            message = self._packets.popleft()
            self._changed.notify_all()
            return message

    def _about(self, event: str, reason: str | None = None) -> dict[str, Any]:
        """For the log: what happened as a word, and the rest of it by name."""
        return {"event": event, "about": {"output": self._name} | ({} if reason is None else {"reason": reason})}

    def _full(self) -> bool:
        return len(self._packets) >= _MOST_PACKETS or sum(map(len, self._packets)) >= _MOST_BYTES

    def _drop(self) -> None:
        """What waits is not sent, and what leans on it is of no use."""
        self.dropped += len(self._packets)
        self._packets.clear()
        self.needs_key = True

    def _kill(self) -> None:
        with self._changed:
            if self._child is not None:
                self._child.kill()


def _message(kind: bytes, body: bytes) -> bytes:
    return relay.HEAD.pack(kind, len(body)) + body


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(line or b"{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _last_words(child: subprocess.Popen[bytes]) -> bytes:
    """What the child said last, when it has ended; it is ended here if it does not by itself."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(_FINISH)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with child.stdout:
        lines = child.stdout.read().splitlines()
    return lines[-1] if lines else b""
