"""Recordings that a power cut leaves: what was written is on the disk a few seconds later, not in memory alone."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

_EVERY = 2.0  # seconds, as often as a fragment ends
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # what a disk says late; others say that they have no such call


class Settling:
    """Has ``path``, which something else writes, brought to the disk every two seconds by a thread of its own.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._error: OSError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._settle, name="streamderain-settle", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Once more, then never again; harmless when it has been done.

        Raises:
            OSError: the disk failed, or was full, with what had been taken for written.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        try:
            self._to_disk()
        finally:
            os.close(self._descriptor)
        if self._error is not None:
            raise self._error

    def _settle(self) -> None:
        while not self._ended.wait(_EVERY):
            self._to_disk()

    def _to_disk(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)  # macOS has but the latter
        except OSError as error:
            if error.errno in _LOST:
                self._error = error
