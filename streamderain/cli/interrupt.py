"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar has hidden it, and the second Ctrl-C leaves nobody to show it again


class Interruptible:
    """Within this block the first SIGINT or SIGTERM sets ``stop``; from then on both end the process at once.

    "At once" is the operating system's default action and no handler of ours: a Python handler would wait for the
    main thread to return from whatever it is in.

    Args:
        message: written to stderr at the first signal; None says nothing.
    """

    def __init__(self, message: str | None) -> None:
        self.stop = threading.Event()
        self._message = message
        self._signum = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 when there was none."""
        return 128 + self._signum if self._signum else 0

    def _first(self, signum: int, _: FrameType | None) -> None:
        for known in self._before:
            signal.signal(known, signal.SIG_DFL)
        self._signum = signum
        self.stop.set()
        # os.write, since a signal may arrive in the middle of anybody's print.
        if self._message is not None:
            terminal = sys.stderr.isatty()
            os.write(2, (_SHOW_CURSOR + b"\r\n" if terminal else b"") + self._message.encode() + b"\n")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for known in _SIGNALS:
                if signal.getsignal(known) != signal.SIG_IGN:  # nohup and the like stay in force
                    self._before[known] = signal.signal(known, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for known, handler in self._before.items():
            signal.signal(known, handler)
