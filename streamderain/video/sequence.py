"""Image sequences, named by a pattern such as ``f%05d.png``: which pictures there are, and writing them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import count, pairwise, takewhile
from pathlib import Path

from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import ffmpeg, stills
from streamderain.video.outlet import Finishing
from streamderain.video.remux import IN_WORDS, SideStream, SideStreams
from streamderain.video.writer_lock import WriterLock

_PATTERN = re.compile(r"%0?(\d*)d")


def is_pattern(uri: str) -> bool:
    """True for a local name with one ``%d``, ``%5d`` or ``%05d`` in its last part and a picture's suffix."""
    path = Path(uri)
    return "://" not in uri and len(_PATTERN.findall(path.name)) == 1 and path.suffix.lower() in stills.SUFFIXES


def named(pattern: str, number: int) -> Path:
    """The picture of this number, zeros before it as by FFmpeg; a percent sign that begins no number is just one."""
    path = Path(pattern)
    return path.parent / _PATTERN.sub(lambda field: str(number).zfill(int(field[1] or 0)), path.name)


def url_of(pattern: str) -> str:
    """What FFmpeg is to be given for ``pattern``."""
    path = Path(pattern)
    before, width, after = _PATTERN.split(path.name)
    folder, before, after = (part.replace("%", "%%") for part in (str(path.parent), before, after))
    return ffmpeg.local_url(os.path.join(folder, f"{before}%0{width}d{after}"))


def numbered(uri: str) -> list[int]:
    """The numbers of the pictures that match ``uri``, in order.

    Raises:
        InputError: the folder does not exist.
    """
    path = Path(uri)
    before, _, after = _PATTERN.split(path.name)
    matching = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError as error:
        raise InputError(f"{uri}: {path.parent} cannot be listed: {error.strerror}") from error
    found = (
        int(match[1])
        for name in names
        if (match := matching.fullmatch(name)) and named(uri, int(match[1])).name == name
    )
    return sorted(found)


def pictures(uri: str) -> list[Path]:
    """The files that ``uri`` means: those of a sequence, or the one it names."""
    path = Path(uri)
    if not is_pattern(uri) or not os.path.isdir(path.parent):
        return [path]
    return [named(uri, number) for number in numbered(uri)]


def pattern_of(paths: Sequence[Path]) -> str | None:
    """The pattern that means just these files, counted on from one to the next without a gap; None if there is none."""
    if not paths:
        return None
    first = paths[0]
    for digits in re.finditer(r"\d+", first.stem):
        for counted in ("%d", f"%0{len(digits[0])}d"):
            name = first.name[: digits.start()] + counted + first.name[digits.end() :]
            pattern = str(first.parent / name)
            if is_pattern(pattern) and all(path == named(pattern, n) for n, path in enumerate(paths, int(digits[0]))):
                return pattern if pictures(pattern) == list(paths) else None
    return None


def first_number(uri: str) -> int:
    """Where the sequence begins.

    Raises:
        InputError: nothing matches; a number is missing or its file empty, where FFmpeg would end without a word.
    """
    numbers = numbered(uri)
    if not numbers:
        raise InputError(f"no picture matches {uri}", hint="the pattern counts like f%05d.png for f00001.png")
    for here, there in pairwise(numbers):
        if there != here + 1:
            raise InputError(
                f"{named(uri, here + 1).name} is missing from the sequence {uri}",
                hint=f"it has {len(numbers)} pictures, from {numbers[0]} to {numbers[-1]}; renumber them or add it",
            )
    for path in (named(uri, number) for number in numbers):
        if os.path.isfile(path) and not os.path.getsize(path):
            raise InputError(
                f"{path.name} of the sequence {uri} is empty",
                hint="put a copy of the picture before it in its place, or remove it and renumber the others",
            )
    return numbers[0]


def folder_of(pattern: str) -> Path:
    """Where the pictures of an output go.

    Raises:
        OutputError: there is no such folder.
    """
    parent = Path(pattern).parent
    if not os.path.isdir(parent):
        raise OutputError(f"{parent} is not a folder", hint="make it first")
    return parent


class SequenceSink(Finishing):
    """A FrameSink that writes the pictures of number 1, 2 and so on, each whole or not at all.

    Meanwhile a file like ``f%d.png.part`` keeps other runs from the same sequence. ``copied``: streams of ``side`` that
    cannot be, which the notes say.
    """

    def __init__(
        self, pattern: str, info: VideoInfo, side: SideStreams, copied: Iterable[SideStream], *, overwrite: bool
    ) -> None:
        self.description = f"{Path(pattern).suffix[1:].lower()} {info.width}x{info.height} → {pattern}"
        parent = folder_of(pattern)
        # %d and %03d mean the same pictures from 100 on.
        self._lock = WriterLock(parent / f"{_PATTERN.sub('%d', Path(pattern).name)}.part", name=pattern)
        try:
            taken = existing(pattern, side, overwrite=overwrite)
        except BaseException:
            self._lock.remove()
            raise
        self.notes = tuple(f"{stream} is left out: pictures hold none" for stream in copied if stream.kind in IN_WORDS)
        if info.colour.bit_depth > 8 and (rounded := stills.depth_lost(pattern)) is not None:
            self.notes += (rounded,)
        self.replaces = bool(taken)
        self._pattern = self._name = pattern
        self._overwrite = overwrite
        self._side, self._rate = side, info.frame_rate
        self._first = first_number(side.uri) if is_pattern(side.uri) else None

    def write(self, frame: Frame) -> None:
        """Writes one picture, which appears when it is complete; from a sequence, with what `write_still` carries over.

        Raises:
            OutputError: it cannot be written.
            OutputExistsError: it has been made by something else meanwhile, and may not be overwritten.
            ValueError: the sequence is closed.
        """
        self._check_open()
        path = named(self._pattern, self.frames_written + 1)

        def note(lost: str) -> None:
            if (what := lost.removeprefix(f"{path.name}: ")) not in self.notes:
                self.notes += (what,)

        stills.write_still(path, frame, like=self._origin(frame), overwrite=self._overwrite, note=note)
        self.frames_written += 1

    def _origin(self, frame: Frame) -> Path | None:
        """The picture that ``frame`` was made of, where it was one."""
        if self._first is None or self._rate is None:
            return None
        seconds = frame.pts * frame.time_base + (self._side.begin or 0)
        return named(self._side.uri, self._first + round(seconds * self._rate))

    def close(self) -> None:
        """Ends the sequence; what is left of the one that was overwritten is removed, and noted.

        Raises:
            OutputError: nothing was written.
        """
        if not self._ends():
            return
        old = self._left_over() if self.replaces else []
        for number in old:
            named(self._pattern, number).unlink(missing_ok=True)
        if old:
            spans = ([number for number in old if not number], [number for number in old if number])
            gone = (dict.fromkeys(named(self._pattern, span[end]).name for end in (0, -1)) for span in spans if span)
            self.notes += (f"removed {' and '.join(map(' to '.join, gone))}, of the sequence that was overwritten",)
        self._lock.remove()

    def _left_over(self) -> list[int]:
        """What is left of an older sequence: picture 0, and what goes on without a gap. The rest is another's."""
        there = set(numbered(self._pattern))
        beyond = takewhile(there.__contains__, count(self.frames_written + 1))
        return [*({0} & there), *beyond]

    def close_as_part(self) -> None:
        """Ends the sequence before its end: what an older one has beyond it stays.

        Raises:
            OutputError: nothing was written.
        """
        if self._ends():
            self._lock.remove()

    def abort(self) -> None:
        """Keeps the pictures written so far; each is whole."""
        self._open = False
        self._lock.remove()

    def _ends(self) -> bool:
        """Whether it is ended only now. Raises OutputError where nothing was written."""
        was_open, self._open = self._open, False
        if was_open and not self.frames_written:
            self._lock.remove()
            raise OutputError(f"no frame came, nothing was written as {self._pattern}")
        return was_open


def existing(pattern: str, side: SideStreams, *, overwrite: bool) -> list[Path]:
    """The pictures that ``pattern`` means already, and that are to be replaced.

    Raises:
        OutputOptionError: one of them is the input's.
        OutputExistsError: they may not be overwritten.
    """
    taken = pictures(pattern)
    read = {path.resolve() for path in pictures(side.uri)}
    for path in taken:
        if path.resolve() in read:
            raise OutputOptionError(f"{path.name} is one of the input's pictures", hint="write to another folder")
    if taken and not overwrite:
        raise OutputExistsError(f"{taken[0].name} exists already", hint="choose another name, or pass --overwrite")
    return taken
