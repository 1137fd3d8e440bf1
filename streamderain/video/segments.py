"""The files of an HLS playlist, written by us, because FFmpeg's muxer goes on where one of them cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from streamderain.video import ffmpeg
from streamderain.video.muxer import SEGMENT
from streamderain.video.writer_lock import NOT_LINKS


class SegmentFiles:
    """What FFmpeg opens its files by (``io_open`` of `av.open`). Used by one thread.

    FFmpeg 8.1 looks at no result of writing a segment, and PyAV prints an exception that it cannot raise at once. So
    errors are kept for `check`. What failed is removed, and nothing more is written: FFmpeg then finds no file to
    rename over a playlist that is whole.

    Attributes:
        first: number of the first segment. A live playlist goes on after an older one of its name: players that come
            from there stall where numbers go back.
    """

    def __init__(self, playlist: Path, *, live: bool) -> None:
        self.error: OSError | None = None
        self._playlist = playlist
        self._older = _listed(playlist)
        self.first = max(self._older.values(), default=-1) + 1 if live else 0
        self._begin: Fraction | None = None
        self._begun = 0

    def begins(self, at: Fraction) -> bool:
        """Whether the picture at ``at`` seconds is to begin a segment, for which it must be a key frame.

        By time, as FFmpeg counts: those that an encoder puts where scenes change would begin it late, and the next.
        """
        self._begin = at if self._begin is None else self._begin
        before, self._begun = self._begun, int((at - self._begin) // SEGMENT)
        return self._begun > before

    def open(self, url: str, flags: int, options: Mapping[str, str]) -> _Segment:
        """A file for writing. Never raises."""
        if self.first:  # in a file's playlist there are new segments of the older ones' names
            self.tidy()
        return _Segment(self, Path(ffmpeg.local_path(url)))

    def tidy(self) -> None:
        """Removes the segments that the older playlist listed, and the one that is there now does not. Never raises."""
        for name in self._older.keys() - _listed(self._playlist).keys():
            del self._older[name]
            with contextlib.suppress(OSError):
                self._playlist.with_name(name).unlink()

    def check(self) -> None:
        """Raises OSError: one of the files could not be written."""
        if self.error is not None:
            raise self.error


def _listed(playlist: Path) -> dict[str, int]:
    """Names and numbers of the segments in a playlist of ours; nothing if there is none, or it lists anything else."""
    try:
        lines = playlist.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    names = [line for line in lines if line and not line.startswith("#")]
    ours = [re.fullmatch(rf"{re.escape(playlist.stem)}_(\d{{5,}})\.m4s", name) for name in names]
    return {found[0]: int(found[1]) for found in ours if found} if all(ours) else {}


class _Segment:
    """One file. To FFmpeg it always seems written."""

    def __init__(self, files: SegmentFiles, path: Path) -> None:
        self._files, self._path = files, path
        self._file: BinaryIO | None = None
        if files.error is None:
            try:
                self._file = _made(path)
            except OSError as error:
                files.error = error

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        try:
            while left and self._file is not None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._fail(error)
        return len(data)

    def close(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:  # network file systems tell only now that there is no room
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._files.error = self._files.error or error
        self._path.unlink(missing_ok=True)
        self.close()


def _made(path: Path) -> BinaryIO:
    """``path``, empty; raises OSError: it cannot be, or is a link, which may lead to anything."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path} is in the way: it is a link")
    return open(path, "wb", buffering=0, opener=lambda *by: os.open(by[0], by[1] | NOT_LINKS, 0o666))
