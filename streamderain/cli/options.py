"""Kinds of values and the options that several commands share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)(m?s)?")
_MINUTE = 60
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)B?")


class Seconds(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """12.5, 0.2s, 200ms, 1:30 or 01:02:03.5, in seconds.

    Args:
        above_zero: 0 is refused.
    """

    name = "time"

    def __init__(self, *, above_zero: bool = False) -> None:
        self._above_zero = above_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):  # converted already
            return float(value)
        match = _CLOCK.fullmatch(str(value).strip().lower())
        if match is None:
            self.fail(
                f"{value!r} is not a time; write seconds (12.5, 0.2s, 200ms) or a clock (1:30, 01:02:03.5)", param, ctx
            )
        hours, minutes, seconds, unit = match.groups()
        if minutes is not None and unit is not None:
            self.fail(f"{value!r} is a clock with a unit; write one of them", param, ctx)
        # 90:00 may well mean an hour and a half; only what a unit above it counts must be less than one of that.
        if (minutes is not None and float(seconds) >= _MINUTE) or (hours is not None and int(minutes) >= _MINUTE):
            self.fail(f"{value!r} is no clock time: its minutes and seconds must be below 60", param, ctx)
        time = 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + float(seconds)
        time = time / 1000 if unit == "ms" else time
        if self._above_zero and time == 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        return time


class Rate(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """25, 29.97 or 30000/1001 frames per second; exact."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        rate = None
        if "e" not in str(value).lower():  # 10 to the power of a billion would be worked out, digit by digit
            with contextlib.suppress(ValueError, ZeroDivisionError):
                rate = Fraction(value)
        if rate is None:
            self.fail(f"{value!r} is not a frame rate; write 25 or 30000/1001", param, ctx)
        if rate <= 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        return rate


class Size(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """1280x720, as (width, height) in px."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):  # converted already
            return value
        from streamderain.runtime.recipe import parse_size

        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """500MB or 2.5GB, in bytes; units of a thousand."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # converted already
            return value
        match = _BYTES.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write 500MB or 2.5GB", param, ctx)
        return round(float(match[1]) * 1000.0 ** " kmgt".index(match[2].lower() or " "))


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """key=value, for the encoder."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form key=value", param, ctx)
        return key, text


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell, which knows its files."""
    return [CompletionItem(incomplete, type="file")]


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the weights that ship, without PyTorch, which takes its time; and files."""
    weights = Path(__file__).parents[1].glob("networks/weights/*.safetensors")
    names = sorted(path.stem for path in weights if path.stem.startswith(incomplete))
    # Bash drops the names that come before the word for files.
    return [*complete_files(ctx, param, incomplete), *map(CompletionItem, names)]


class Option(click.Option):
    """An option that shows its default, and knows where it stands in the help and what it is for.

    Args:
        section: its heading in the help of a `Sectioned` command.
        only_for: the inputs that it is for: "recordings", "live", or "videos", which are both. None: pictures as well.
        for_all: several streams cannot have different values of it.
    """

    def __init__(
        self,
        *args: Any,
        section: str,
        only_for: Literal["recordings", "live", "videos"] | None = None,
        for_all: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{"show_default": True, **kwargs})
        self.section, self.only_for, self.for_all = section, only_for, for_all


def option(*flags: str, **settings: Any) -> partial[Any]:
    """As `click.option`, for a `section`."""
    return partial(click.option, *flags, cls=Option, **settings)


def section(heading: str, *options: partial[Any], **settings: Any) -> Callable[[Decorated], Decorated]:
    """The decorator that gives a command ``options`` under ``heading``, with ``settings`` that are not their own."""

    def decorate(command: Decorated) -> Decorated:
        for made in reversed(options):
            command = made(section=heading, **{**settings, **made.keywords})(command)
        return command

    return decorate


_DEVICE = option(
    "--device", default="auto", help="Where the network runs: auto (on a GPU if there is one), cpu, cuda or cuda:N."
)
_PRECISION = option(
    "--precision", default="auto", help="Number format of the network: auto (the fastest), fp32, fp16 or int8."
)
#: --device and --precision.
device_options = section("Processing", _DEVICE, _PRECISION)
#: -m, --device, --precision, --backend, --build, --allow-fallback.
model_options = section(
    "Processing",
    option(
        "-m",
        "--model",
        default="balanced",
        shell_complete=complete_models,
        help="Model to use: a name from `streamderain models list`, or a file of weights.",
    ),
    _DEVICE,
    _PRECISION,
    option(
        "--backend",
        default="auto",
        help="What runs the network: auto (the fastest), eager, inductor, openvino, tensorrt or tensorrt-rtx.",
    ),
    option(
        "--build",
        type=click.Choice(["auto", "ready", "never"]),
        help="If the cache has no engine for this model and size: auto builds one, ready uses the fastest backend that"
        " needs no build, never stops with an error.  [default: auto; ready for live inputs]",
    ),
    option(
        "--allow-fallback",
        is_flag=True,
        help="If the chosen device, backend, precision or GPU codec is unavailable, use another and say so.",
    ),
)
#: --json.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
#: -v and --debug.
talk_options = section(
    "Watching",
    option("-v", "--verbose", is_flag=True, help="Print more."),
    option("--debug", is_flag=True, help="Print everything, with tracebacks."),
    for_all=True,
)


class Sectioned(click.Command):
    """A command whose help shows each `Option` under its heading, and the others first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                rows.setdefault(param.section if isinstance(param, Option) else "Options", []).append(record)
        for heading, records in rows.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def given_only_for(ctx: click.Context, *inputs: str) -> list[str]:
    """Names of the options on the command line that are only for ``inputs``; see `Option`."""
    options = [param for param in ctx.command.params if isinstance(param, Option) and param.only_for in inputs]
    return [str(param.name) for param in options if was_given(ctx, str(param.name))]


def was_given(ctx: click.Context, name: str) -> bool:
    """Whether the parameter stands on the command line, instead of having its default."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def flag_of(ctx: click.Context, name: str) -> str:
    """How the parameter is written: "--read-timeout" of "read_timeout", and "--no-reconnect" where that was said."""
    found = next(p for p in ctx.command.params if p.name == name)
    return found.secondary_opts[0] if found.secondary_opts and ctx.params.get(name) is False else found.opts[0]


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError in here is about a value that the user typed."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), ctx=click.get_current_context(silent=True)) from error
