"""What the user is told while work goes on: lines or JSON on stderr, and a progress bar where there is a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from traceback import format_exception
from typing import IO, TYPE_CHECKING, Any, Literal, Self, cast

import click

from streamderain.cli.interrupt import Signals
from streamderain.redaction import in_line, redact, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_KEY = "streamderain.reporter"
_LINE_EVERY = 30.0  # seconds between two lines of progress where there is no terminal
_JSON_EVERY = 5.0
_BAR_EVERY = 0.1
_LONGEST = 2000  # characters of a value that is shown; what files say of themselves may be of any length
_speaker: ContextVar[Reporter] = ContextVar("speaker")  # of this thread, and of those that work for it


class _Stderr:
    """stderr without its errors: on a full disk, or where nobody reads any longer, lines are lost, and no video."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


_STDERR = cast("IO[str]", _Stderr())


class Reporter:
    """Says things on stderr; stdout may be carrying video. A line that cannot be written is lost, and is no error.

    Text lines start with "streamderain: "; in JSON every line is an object with "time", "event" and "message".
    """

    def __init__(
        self,
        *,
        style: Literal["text", "json"] = "text",
        progress: bool = True,
        verbose: bool = False,
        debug: bool = False,
    ) -> None:
        self.style = style
        self.verbose = verbose or debug
        self.debug = debug
        self._progress_wanted = progress
        self._bar: tuple[Progress, TaskID] | None = None
        self._said: set[str] = set()
        self._total: int | None = None
        self._frames = 0
        self._began = self._last = 0.0

    # ---- where a command and the error handling above it find the same one

    @classmethod
    def of(cls, ctx: click.Context) -> Reporter:
        """The reporter of this invocation; a plain one where no command has set one."""
        reporter = ctx.meta.get(_KEY)
        return reporter if isinstance(reporter, Reporter) else cls()

    def attach(self, ctx: click.Context) -> None:
        """Be the reporter of this invocation, and take what the package logs."""
        ctx.meta[_KEY] = self
        if isinstance(ctx.obj, Signals):
            ctx.obj.line = lambda event, message, code: f"{self.line(event, message, exit_code=code)}\n".encode()
        level = logging.DEBUG if self.debug else logging.INFO if self.verbose else logging.WARNING
        logger = logging.getLogger("streamderain")
        handler, before = _Forward(self), (logger.level, logger.propagate)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False

        def detach() -> None:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before

        ctx.call_on_close(detach)

    def speak_here(self) -> None:
        """Say from now on what this thread logs, and what those log that it starts to work for it."""
        _speaker.set(self)

    # ---- lines

    def say(self, event: str, message: str, **fields: Any) -> None:
        """One line; ``fields`` are seen in JSON only."""
        line = self.line(event, message, **fields)
        if self._bar is not None:
            self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, file=_STDERR)

    def line(self, event: str, message: str, **fields: Any) -> str:
        """What `say` writes, without its end, the secrets of any address, and what a terminal would obey."""
        if self.style == "text":
            whole = message if event == "debug" else " ".join(message.splitlines())  # names may hold ends of lines
            return visible(redact(f"streamderain: {whole}"))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return redact(json.dumps({"time": now, "event": event, "message": message, **fields}, default=str))

    def note(self, message: str) -> None:
        """Something worth knowing that is no error; each is said once."""
        if message not in self._said:
            self._said.add(message)
            self.say("note", message)

    def error(self, message: str, *, code: int, **fields: Any) -> None:
        self.say("error", " ".join(message.split()), exit_code=code, **fields)

    def traceback(self, error: BaseException) -> None:
        """Where ``error`` came from, with --debug only. What it says goes through here, never to the interpreter: an
        error of FFmpeg's among its causes holds the address as it was typed.
        """
        if self.debug:
            self.say("debug", "".join(format_exception(error)).rstrip())

    # ---- progress

    def start_progress(self, total: int | None) -> None:
        """``total`` frames are expected; only ever a hint."""
        self._total = total
        self._began = self._last = time.monotonic()
        if self._progress_wanted and self.style == "text" and sys.stderr.isatty():
            self._bar = _make_bar(total)

    def advance(self, frames: int) -> None:
        """``frames`` are done in all."""
        self._frames = frames
        now = time.monotonic()
        every = _BAR_EVERY if self._bar is not None else _JSON_EVERY if self.style == "json" else _LINE_EVERY
        if now - self._last < every or not self._progress_wanted:
            return
        self._last = now
        if self._total is not None and frames > self._total:
            self._total = None  # the hint was wrong
        fps = frames / max(now - self._began, 1e-9)
        eta = None if self._total is None else (self._total - frames) / max(fps, 1e-9)
        if self._bar is not None:
            self._update_bar(_detail(frames, self._total, fps, eta))
            return
        self.say("progress", _detail(frames, self._total, fps, eta), frames=frames, total=self._total, fps=fps, eta=eta)

    def end_progress(self) -> None:
        if self._bar is not None:
            fps = self._frames / max(time.monotonic() - self._began, 1e-9)
            self._update_bar(_detail(self._frames, self._total, fps, None))
            self._bar[0].stop()
            self._bar = None

    def _update_bar(self, detail: str) -> None:
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=self._frames, total=self._total, detail=detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_progress()


class _Forward(logging.Handler):
    """The package's log, into the reporter. A record may name its event, and have fields for JSON in ``about``."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", record.levelname.lower())
        _speaker.get(self._reporter).say(event, record.getMessage(), **getattr(record, "about", {}))


def _detail(frames: int, total: int | None, fps: float, eta: float | None) -> str:
    count = counted(frames, "frame") if total is None else f"{frames}/{counted(total, 'frame')}"
    left = "" if eta is None else f", {_clock(eta)} left"
    return f"{count}, {rate(fps)}{left}"


def counted(count: int, thing: str) -> str:
    """As "1 frame" or "12 frames"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def rate(fps: float) -> str:
    """As "23.4 frames/s", with a digit more for those who wait longest."""
    return f"{fps:.1f} frames/s" if fps >= 1 else f"{fps:.2f} frames/s"


def size_in_words(size: int) -> str:
    """Bytes as "812 kB" or "4.0 GB"; units of a thousand."""
    amount, units = float(size), ["GB", "MB", "kB", "B"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop()
    digits = 1 if amount < 9.95 and units[-1] != "B" else 0
    return f"{amount:.{digits}f} {units[-1]}"


def in_columns(rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """The rows as lines, each column as wide as its widest cell; ``sides`` has a "<" or a ">" for each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        yield "  ".join(cells).rstrip()


def print_facts(facts: Iterable[tuple[str, str]], *, width: int) -> None:
    """One line each on stdout: a name, in ``width`` letters, and a value, which may be a stranger's words."""
    for name, value in facts:
        click.echo(f"{name:>{width}}  {in_line(value, most=_LONGEST)}".rstrip())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _make_bar(total: int | None) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.fields[detail]}"),
        console=Console(file=_STDERR),
        refresh_per_second=5,
        expand=True,
        # Else rich takes stdout over as well, which may be carrying video.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = progress.add_task("", total=total, detail="starting")
    progress.start()
    return progress, task
