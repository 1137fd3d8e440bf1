"""Pictures for ``streamderain run``: each derained by itself, one that fails not stopping the others."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamderain.cli.chain import DEGRADED
from streamderain.cli.interrupt import Signals
from streamderain.cli.report import Reporter, counted
from streamderain.cli.run_options import RunOptions
from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError, StreamderainError
from streamderain.redaction import redact_target

if TYPE_CHECKING:
    from streamderain.frame import Frame
    from streamderain.pipeline import View
    from streamderain.session import DerainerLike, SessionLike

_NULL = "null:"
_A_VIDEO = 5  # pictures, at least
_VIDEOS = {".3gp", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg"}
_VIDEOS |= {".mpg", ".mts", ".mxf", ".nut", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}


def run_stills(stills: list[Path], target: str, options: RunOptions, reporter: Reporter, signals: Signals) -> int:
    """Derain each of ``stills`` into the file or folder ``target``; returns the exit code.

    Raises:
        InputError: if there are none.
        OutputExistsError: if one of the outputs is there and may not be overwritten; before any work.
        ModelError, DeviceError, EngineError: if the model cannot be had.
    """
    from streamderain.pipeline import side_by_side, wipe

    if not stills:
        raise InputError("there is no picture in the input", hint="png, jpg, tiff, webp and bmp are read")
    views: dict[str, View | None] = {"off": None, "side": side_by_side, "wipe": wipe}
    pairs = list(zip(stills, _targets(stills, target, overwrite=options.overwrite), strict=True))
    steps = _Stills(
        options.derainer("pictures"), views[options.compare], overwrite=options.overwrite, note=reporter.note
    )
    count = len(pairs)
    if steps.derainer.remembers and (pattern := _video_in(stills)) is not None:
        reporter.note(
            f"each picture is derained by itself; if these are a video's frames, run {shlex.quote(pattern)} OUTPUT"
            f" instead: {steps.derainer.model} then uses the frames before, too"
        )
    if steps.derainer.model == "classic":
        reporter.note("classic needs the frames before: single pictures come back as they are")
    reporter.say(
        "start",
        f"{steps.derainer.description} → {counted(count, 'picture')} → {target}",
        output=target,
        pictures=count,
    )
    reporter.start_progress(count)
    failed: list[StreamderainError] = []
    done = 0
    began = time.monotonic()
    with signals.orderly("stopping after this picture"):
        signals.running()
        for path, out in pairs:
            if signals.stop.is_set():
                break
            try:
                steps.derain(path, out)
            except StreamderainError as error:
                if count == 1 or error.exit_code == 5:  # the device is gone: for the others as well
                    raise
                failed.append(error)
                reporter.error(str(error), code=error.exit_code, input=str(path))
            else:
                done += 1
            reporter.advance(done + len(failed))
    reporter.end_progress()
    interrupted = signals.exit_code != 0 and done + len(failed) < count
    code = signals.exit_code if interrupted else _code(done, failed)
    seconds = time.monotonic() - began
    line = f"{done} of {counted(count, 'picture')} in {seconds:.1f} s → {target}"
    reporter.say(
        "done",
        f"interrupted: {line}" if interrupted else line,
        pictures=done,
        failed=len(failed),
        seconds=round(seconds, 3),
        interrupted=interrupted,
        output=target,
        exit_code=code,
    )
    return code


def _code(done: int, failed: list[StreamderainError]) -> int:
    if not failed:
        return 0
    return DEGRADED if done else failed[0].exit_code


def _video_in(stills: list[Path]) -> str | None:
    """The image sequence that ``stills`` look like: counted without a gap, and of one size as far as three tell."""
    from streamderain.video import read_still
    from streamderain.video.sequence import pattern_of

    if len(stills) < _A_VIDEO or (pattern := pattern_of(stills)) is None:
        return None
    try:
        sizes = {read_still(stills[at]).pixels.shape for at in (0, len(stills) // 2, -1)}
    except StreamderainError:
        return None  # it is told in its turn
    return pattern if len(sizes) == 1 else None


class _Stills:
    """The network, and one session as long as the size stays the same."""

    def __init__(
        self, derainer: DerainerLike, view: View | None, *, overwrite: bool, note: Callable[[str], object]
    ) -> None:
        self.derainer = derainer
        self._overwrite = overwrite
        self._note = note
        self._view = view
        self._session: SessionLike | None = None
        self._size = (0, 0)

    def derain(self, path: Path, out: Path | None) -> None:
        from streamderain.video import read_still, write_still

        rainy = read_still(path, note=self._note)
        clean = self._step(rainy)
        shown = clean if self._view is None else self._view(rainy, clean)
        if out is not None:
            write_still(out, shown, like=path, overwrite=self._overwrite, note=self._note)

    def _step(self, frame: Frame) -> Frame:
        size = (frame.height, frame.width)
        if self._session is None or size != self._size:
            self._session, self._size = self.derainer.session(*size), size
        self._session.reset()  # a picture has no past
        return self._session.step(frame)


def _targets(stills: list[Path], target: str, *, overwrite: bool) -> list[Path | None]:
    """Where each goes; checks and makes the folder."""
    from streamderain.video.ffmpeg import is_url, local_path
    from streamderain.video.stills import SUFFIXES

    if target == _NULL:
        return [None] * len(stills)
    target = local_path(target)
    if target == "-" or is_url(target) or target.startswith("display:"):
        raise click.UsageError(f"pictures are written to a file or a folder, not to {redact_target(target)!r}")
    path = Path(target)
    suffix = path.suffix.lower()
    folder_meant = os.path.isdir(target) or target.endswith(os.sep) or suffix == ""
    single = not folder_meant and len(stills) == 1
    if not folder_meant and suffix in _VIDEOS:
        raise click.UsageError(
            f"{target} is a video, and INPUT is pictures, each derained by itself; name a folder,"
            f" or make one video of a sequence: {stills[0].parent / 'f%05d'}{stills[0].suffix}"
        )
    if not folder_meant and not single and suffix in SUFFIXES:
        raise click.UsageError(f"{target} is one picture, and INPUT is {len(stills)}; name a folder")
    if single and suffix not in SUFFIXES:
        raise click.UsageError(
            f"{target} has no suffix of a picture ({', '.join(sorted(SUFFIXES))}); a folder ends in /"
        )
    outs = [path] if single else [path / still.name for still in stills]
    seen: dict[Path, Path] = {}
    for still, out in zip(stills, outs, strict=True):
        if out in seen:
            raise OutputError(f"{seen[out]} and {still} would both become {out}", hint="derain one folder at a time")
        seen[out] = still
        if os.path.exists(out) and out.samefile(still):
            raise OutputOptionError(f"{out} is the input itself", hint="name another folder")
        if os.path.exists(out) and not overwrite:
            raise OutputExistsError(f"{out} is there already", hint="name another, or use --overwrite")
    folder = path.parent if single else path
    try:
        folder.mkdir(parents=not single, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}", hint="name another folder") from error
    return list(outs)
