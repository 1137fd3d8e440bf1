"""SIGINT, SIGTERM, SIGHUP: the first ends the work in order if there is a file to finish, else the process at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if _HANGUP is None else (_HANGUP,)))
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar has hidden it, and a second signal leaves nobody to show it again
_OPENING = 2.0  # seconds that an output may take to open after a signal; a FIFO without a reader takes for ever


class Signals:
    """Within its block a signal ends the process at once with 129, 130 or 143, unless the work is `orderly`.

    A thread of its own does that, woken by the interpreter's C handler: Python's handlers wait for the main thread to
    return from whatever it is in, and opening a silent pipe never returns.

    SIGHUP is never the second signal, nor the first of two: a terminal that closes may send several, and the end of a
    login session sends one beside SIGTERM.

    Attributes:
        stop: set by the first signal that comes while the work is orderly.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        #: Makes the bytes of a message's line, from its event, its words and the exit code; see `Reporter.line`.
        self.line: Callable[[str, str, int], bytes] = _plain
        self._lock = threading.Lock()
        self._message: str | None = None  # said at the first signal; None while the work is not orderly
        self._running = threading.Event()
        self._signum = 0
        self._caught = self._hung_up = 0
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = (-1, -1)  # what was the interpreter's before, and ours
        self._reader = -1

    @property
    def exit_code(self) -> int:
        """129 after SIGHUP, 130 after SIGINT, 143 after SIGTERM, 0 when there was none."""
        return 128 + self._signum if self._signum else 0

    @contextmanager
    def orderly(self, message: str) -> Iterator[None]:
        """Within, the first signal says ``message`` and sets ``stop``; only the second ends the process at once.

        Call `running` as soon as somebody looks at ``stop``: until then the first signal is given little time.
        """
        with self._lock:
            self._message = message
        try:
            yield
        finally:
            with self._lock:
                self._message = None

    def seen(self) -> bool:
        """Whether a signal has come, and with it perhaps the error at hand: an interrupted open has failed.

        Where the work is not orderly this does not return: the watcher is ending the process.
        """
        return self._caught + self._hung_up > 0 and self.stop.wait(_OPENING)

    def running(self) -> None:
        """From here on ``stop`` is looked at."""
        self._running.set()

    def __enter__(self) -> Self:
        for known in _SIGNALS:
            if signal.getsignal(known) != signal.SIG_IGN:  # nohup and the like stay in force
                self._before[known] = signal.signal(known, self._again)
        self._reader, writer = os.pipe()
        if hasattr(os, "set_blocking"):  # Windows has it since Python 3.12, and does without
            os.set_blocking(writer, False)
        self._wakeup = (signal.set_wakeup_fd(writer, warn_on_full_buffer=False), writer)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        before, writer = self._wakeup
        signal.set_wakeup_fd(before)
        for known, handler in self._before.items():
            signal.signal(known, handler)
        os.close(writer)  # the watcher reads the end, and goes

    def _again(self, signum: int, _: FrameType | None) -> None:
        """The Python handler: a second way to the end, should the watcher hang in writing to a stuck stderr."""
        if signum == _HANGUP:
            self._hung_up += 1
            return
        self._caught += 1
        if self._caught > 1:
            os._exit(128 + signum)

    def _watch(self) -> None:
        try:
            while data := os.read(self._reader, 1):
                if data[0] in self._before:
                    self._seen(data[0])
        finally:
            os.close(self._reader)

    def _seen(self, signum: int) -> None:
        code = 128 + signum
        with self._lock:
            message = self._message
            if self._signum and signum == _HANGUP:
                return
            if message is None and not self._signum:
                self._write("error", "interrupted", code)
            if message is None or self._signum not in (0, _HANGUP):
                os._exit(code)
            self._signum = signum
            self.stop.set()
        self._write("interrupt", message, code)
        if not self._running.is_set():
            threading.Thread(target=self._end_unless_running, args=(code,), name="signals-opening", daemon=True).start()

    def _end_unless_running(self, code: int) -> None:
        if not self._running.wait(_OPENING):
            os._exit(code)

    def _write(self, event: str, message: str, code: int) -> None:
        try:
            cursor = _SHOW_CURSOR + b"\r\n" if os.isatty(2) else b""
            os.write(2, cursor + self.line(event, message, code))
        except OSError:
            pass  # nobody is left to be told


def _plain(event: str, message: str, code: int) -> bytes:
    return f"streamderain: {message}\n".encode()


def leave(code: int) -> None:
    """End the process with ``code``, when what was registered with `atexit` is done; no thread is waited for."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass
    os._exit(code)
