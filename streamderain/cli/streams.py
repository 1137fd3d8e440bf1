"""``streamderain run --config cameras.toml``: several streams in one process, sharing models and engines."""

from __future__ import annotations

import os
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from streamderain.cli.chain import DEGRADED
from streamderain.cli.interrupt import Signals
from streamderain.cli.options import Option, was_given
from streamderain.cli.report import Reporter, rate
from streamderain.cli.run_options import Kind, RunOptions, load_derainer
from streamderain.cli.watching import watched
from streamderain.errors import StreamderainError
from streamderain.redaction import redact

if TYPE_CHECKING:
    from streamderain.observe import Observer
    from streamderain.session import DerainerLike

_LOOK_EVERY = 0.2  # seconds between two looks at who is still running
_OPENING = 2.0  # seconds that a stream which has not begun may take to see that it is over
_TELL_EVERY = {"text": 30.0, "json": 5.0}  # seconds between two lines of progress
_STREAM_ONLY = {"input", "output"}

#: What runs one stream: its context, input, output, options, reporter, signals and observer; returns the exit code.
Runner = Callable[[click.Context, str, str, RunOptions, Reporter, Signals, "Observer"], int]


@dataclass(frozen=True, slots=True)
class Stream:
    """One table of the configuration: a name, where from, where to, and the options of ``run``."""

    name: str
    source: str
    target: str
    context: click.Context
    options: RunOptions


def read_config(path: Path, ctx: click.Context) -> tuple[RunOptions, list[Stream]]:
    """The options for all, and the streams. What was given on the command line goes before what the file says.

    Raises:
        click.UsageError: the file cannot be read, or says what ``run`` does not know.
    """
    told = _read_toml(path, ctx)
    if not was_given(ctx, "log_format") and "json" in (told.get("log-format"), told.get("log_format")):
        ctx.params["log_format"] = "json"  # errors of usage are told in it from here on
    tables = told.pop("streams", None)
    if not isinstance(tables, dict) or not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise click.UsageError(f"{path} names no streams; write a table [streams.NAME] for each", ctx=ctx)
    given = {name: value for name, value in ctx.params.items() if was_given(ctx, name)}
    for_all = _options(told, ctx, where=str(path))
    same_for_all = {param.name for param in ctx.command.params if isinstance(param, Option) and param.for_all}
    common = {**ctx.params, **for_all, **given}
    streams: list[Stream] = []
    for name, table in tables.items():
        where = f"{path}: streams.{name}"
        own = _options({key: value for key, value in table.items() if key not in _STREAM_ONLY}, ctx, where=where)
        if missing := [key for key in ("input", "output") if not isinstance(table.get(key), str)]:
            raise click.UsageError(f"{where} has no {' and no '.join(missing)}", ctx=ctx)
        if shared := sorted(same_for_all & own.keys()):
            raise click.UsageError(f"{where}: {shared[0]} is for all streams; write it above the tables", ctx=ctx)
        context = click.Context(ctx.command, info_name=name)
        for key in {**for_all, **own, **given}.keys() - same_for_all:
            # Of what is for all, streams take what suits them; their own and the command line must suit.
            must = key in own or key in given
            context.set_parameter_source(key, ParameterSource.COMMANDLINE if must else ParameterSource.DEFAULT_MAP)
        options = _run_options({**common, **own, **given})
        one = Stream(name, table["input"], table["output"], context, options)
        _check_apart(one, streams, ctx, where=where)
        streams.append(one)
    return _run_options(common), streams


def _read_toml(path: Path, ctx: click.Context) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # editors of Windows begin a file with a mark
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}", ctx=ctx) from error
    except (ValueError, RecursionError) as error:  # numbers of a thousand digits, tables in a thousand tables
        raise click.UsageError(f"{path} is not TOML: {error}", ctx=ctx) from error


def _check_apart(one: Stream, others: Sequence[Stream], ctx: click.Context, *, where: str) -> None:
    """Raises click.UsageError: another stream has the same output, or reads stdin as well."""
    for other in others:
        if one.target != "null:" and _place(one.target) == _place(other.target):
            what = f"{where} has the output of streams.{other.name}; each stream needs its own"
            raise click.UsageError(what, ctx=ctx)
        if one.source == other.source == "-":
            what = f"{where} has the input of streams.{other.name}; only one stream can read stdin"
            raise click.UsageError(what, ctx=ctx)


def _run_options(params: Mapping[str, Any]) -> RunOptions:
    return RunOptions(**{key: value for key, value in params.items() if key in RunOptions.__slots__})


def _place(target: str) -> str:
    """The same for all spellings of one output."""
    from streamderain.video.ffmpeg import is_url, local_path

    path = local_path(target)
    return path if is_url(path) else os.path.realpath(path)


def _options(table: Mapping[str, Any], ctx: click.Context, *, where: str) -> dict[str, Any]:
    """Values of a table as ``run`` would have them, by the names of its parameters."""
    known, off = dict[str, click.Option](), dict[str, str]()
    for param in ctx.command.params:
        if isinstance(param, click.Option) and param.name not in ("config", None):
            for flag in param.opts:
                known[flag.lstrip("-").replace("-", "_")] = param
            known[str(param.name)] = param
            off |= {flag.lstrip("-").replace("-", "_"): param.opts[0].lstrip("-") for flag in param.secondary_opts}
    found, spelled = dict[str, Any](), dict[str, str]()
    for key, value in table.items():
        flat = key.replace("-", "_")
        option = known.get(flat)
        if option is None:
            instead = f"; say {off[flat]} = false" if flat in off else ""
            raise click.UsageError(f"{where}: `run` has no option {key!r}{instead}", ctx=ctx)
        if option.name in spelled:
            raise click.UsageError(f"{where}: {spelled[option.name]} and {key} are the same option", ctx=ctx)
        spelled[str(option.name)] = key
        try:
            found[str(option.name)] = _converted(option, value, ctx)
        except click.BadParameter as error:
            raise click.UsageError(f"{where}: {key}: {error.message}", ctx=ctx) from error
    return found


def _converted(param: click.Option, value: Any, ctx: click.Context) -> Any:
    if param.is_flag:
        if not isinstance(value, bool):
            raise click.BadParameter(f"{value!r} is neither true nor false")
        return value
    if param.multiple:
        parts = [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else value
        if not isinstance(parts, list):
            raise click.BadParameter(f"{value!r} is neither a list nor a table")
        return param.type_cast_value(ctx, [str(part) for part in parts])
    if isinstance(value, bool | list | dict):
        raise click.BadParameter(f"{value!r} is no value for it")
    return param.type_cast_value(ctx, str(value))


def run_streams(ctx: click.Context, path: Path, run_one: Runner, signals: Signals) -> int:
    """Runs all streams until each has ended, and returns the exit code; see `_code_of`.

    Raises:
        click.UsageError: of the configuration.
        StreamderainError: a model cannot be had, or a port is taken.
    """
    from streamderain.observe import Observer

    common, streams = read_config(path, ctx)
    reporter = Reporter(style=common.log_format, progress=False, verbose=common.verbose, debug=common.debug)
    reporter.attach(ctx)
    models = _Models(streams, common.batch_deadline)
    observers = [Observer(stream.name, about={"input": redact(stream.source)}) for stream in streams]
    with reporter, watched(observers, common, reporter):
        running = [
            _Running(stream, replace(stream.options, load=models.load), run_one, reporter, signals, observer)
            for stream, observer in zip(streams, observers, strict=True)
        ]
        with signals.orderly("finishing the outputs; interrupt again to stop at once"):
            for one in running:
                one.thread.start()
            signals.running()
            told = time.monotonic()
            while any(one.busy() for one in running):
                for one in running:
                    one.thread.join(_LOOK_EVERY / len(running))
                if not common.no_progress and time.monotonic() - told > _TELL_EVERY[reporter.style]:
                    told = time.monotonic()
                    _tell(reporter, observers)
    return signals.exit_code or _code_of({one.code for one in running})


def _code_of(codes: Set[int]) -> int:
    """The exit code of streams that ended with ``codes``: theirs if all have the same; else 3 if any is done, or 1."""
    if len(codes) == 1:
        return next(iter(codes))
    return DEGRADED if codes & {0, DEGRADED} else StreamderainError.exit_code


def _tell(reporter: Reporter, observers: list[Observer]) -> None:
    snapshots = [observer.snapshot() for observer in observers]
    words = ", ".join(f"{one.name} {one.state} {rate(one.process_fps)}" for one in snapshots)
    reporter.say(
        "progress",
        words,
        streams={
            one.name: {
                "state": one.state,
                "frames": one.processed_frames,
                "fps": one.process_fps,
                "skipped": one.skipped,
            }
            for one in snapshots
        },
    )


class _Models:
    """Every model that is asked for, loaded once and shared by all streams that ask for the same.

    Args:
        deadline: of batches; see `SharedDerainer`.
    """

    def __init__(self, streams: Sequence[Stream], deadline: float | None) -> None:
        from streamderain.turns import FifoLock

        self._turns = FifoLock()
        self._streams, self._deadline = streams, deadline
        self._loaded: dict[tuple[object, ...], DerainerLike] = {}
        self._guard = threading.Lock()

    def load(self, options: RunOptions, of: Kind) -> DerainerLike:
        """As `load_derainer`, but shared."""
        from streamderain.turns import SharedDerainer

        wanted = options.of_model()
        key = (*wanted.values(), of)
        # Streams that may ask for it: the adaptive ones come down to cheaper models than their own.
        count = 0
        for other in (stream.options for stream in self._streams):
            alike = other.of_model() | {"model": options.model} == wanted
            count += alike and (other.model == options.model or other.adaptive)
        if of == "pictures":
            count = 1  # each is of a size of its own
        with self._guard:
            if key not in self._loaded:
                derainer = load_derainer(options, of)
                self._loaded[key] = SharedDerainer(derainer, self._turns, streams=count, deadline=self._deadline)
            return self._loaded[key]


class _Running:
    """One stream on its thread. ``code`` is its exit code, when the thread has ended."""

    def __init__(
        self,
        stream: Stream,
        options: RunOptions,
        run_one: Runner,
        reporter: Reporter,
        signals: Signals,
        observer: Observer,
    ) -> None:
        self.code = 1
        self._stream, self._options, self._run_one, self._observer = stream, options, run_one, observer
        self._reporter = _Named(stream.name, reporter)
        self._signals = _Borrowed(signals)
        self.thread = threading.Thread(target=self._work, name=f"streamderain-{stream.name}", daemon=True)

    def busy(self) -> bool:
        """Whether it is worth waiting for: told to stop, one that has not begun yet is given little time."""
        late = self._signals.since is not None and time.monotonic() - self._signals.since > _OPENING
        return self.thread.is_alive() and (self._signals.begun or not late)

    def _work(self) -> None:
        one = self._stream
        self._reporter.speak_here()
        try:
            self.code = self._run_one(
                one.context, one.source, one.target, self._options, self._reporter, self._signals, self._observer
            )
        except StreamderainError as error:
            self._failed(str(error), error.exit_code, error)
        except click.ClickException as error:
            self._failed(error.format_message(), error.exit_code, error)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._failed(f"internal error: {type(error).__name__}: {error} (please report it)", 1, error)
        finally:
            if self.code not in (0, DEGRADED, self._signals.exit_code):
                self._observer.set_state("lost")
            self._observer.end()

    def _failed(self, message: str, code: int, error: Exception) -> None:
        self.code = code
        self._reporter.traceback(error)
        self._reporter.error(message, code=code)


class _Named(Reporter):
    """Says everything with a stream's name, through the one reporter; has no progress of its own."""

    def __init__(self, name: str, through: Reporter) -> None:
        super().__init__(style=through.style, progress=False, verbose=through.verbose, debug=through.debug)
        self._name = name
        self._through = through

    def say(self, event: str, message: str, **fields: Any) -> None:
        self._through.say(event, f"{self._name}: {message}", stream=self._name, **fields)


class _Borrowed(Signals):
    """The process's signals as one of several streams sees them: it may look, and leaves the handling to the whole.

    Attributes:
        begun: the stream looks at ``stop`` by itself.
    """

    def __init__(self, whole: Signals) -> None:
        super().__init__()
        self.stop = whole.stop
        self.begun = False
        self._whole = whole
        self._since: float | None = None

    @property
    def exit_code(self) -> int:
        return self._whole.exit_code

    @contextmanager
    def orderly(self, message: str) -> Iterator[None]:
        yield

    def seen(self) -> bool:
        return self.stop.is_set()

    def running(self) -> None:
        self.begun = True

    @property
    def since(self) -> float | None:
        """When it was first seen that all were told to stop; None before."""
        if self._since is None and self.stop.is_set():
            self._since = time.monotonic()
        return self._since
