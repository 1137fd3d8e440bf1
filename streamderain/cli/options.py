"""Kinds of values and the options that several commands share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, TypeVar

import click

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
            self.fail(f"{value!r} is no clock: seconds and minutes are below 60 in one", param, ctx)
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


def model_options(command: Decorated) -> Decorated:
    """-m, --device, --precision, --backend, --build, --allow-fallback."""
    for option in reversed(
        (
            click.option(
                "-m",
                "--model",
                default="balanced",
                show_default=True,
                help="A name of `models list`, or a file of weights.",
            ),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
            click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or int8."),
            click.option(
                "--backend",
                default="auto",
                show_default=True,
                help="What runs the network: auto (the fastest), eager, inductor, openvino, tensorrt or tensorrt-rtx.",
            ),
            click.option(
                "--build",
                type=click.Choice(["auto", "ready", "never"]),
                help="An engine that is not in the cache yet: build it, run on the fastest that is there, or fail."
                "  [default: auto; ready for live inputs]",
            ),
            click.option("--allow-fallback", is_flag=True, help="Run on what there is where the above cannot be had."),
        )
    ):
        command = option(command)
    return command


def live_options(command: Decorated) -> Decorated:
    """What only cameras and other live inputs take: --live, --latency, --max-age, and what to do about losses."""
    for option in reversed(
        (
            click.option(
                "--live/--no-live",
                default=None,
                help="Whether INPUT goes on by the clock.  [default: cameras and streams do, files and recordings not]",
            ),
            click.option(
                "--latency",
                type=click.Choice(["auto", "all", "realtime"]),
                default="auto",
                show_default=True,
                help="Process all frames, or in real time the newest.  [auto: realtime when live]",
            ),
            click.option("--max-age", type=Seconds(), help="Skip frames older than this, such as 200ms."),
            click.option("--adaptive", is_flag=True, help="Take a cheaper model or a smaller picture when too slow."),
            click.option(
                "--on-loss",
                type=click.Choice(["hold", "slate", "pause", "stop"]),
                default="hold",
                show_default=True,
                help="While no picture comes: show the last one, a dark one, nothing, or end.",
            ),
            click.option("--reconnect/--no-reconnect", default=True, show_default=True, help="Come back after a loss."),
            click.option("--reconnect-limit", type=Seconds(), help="How long a loss may last.  [default: for ever]"),
            click.option(
                "--read-timeout",
                type=Seconds(),
                default=5.0,
                show_default=True,
                help="Silence of a camera or server that is a loss.",
            ),
            click.option(
                "--wait",
                type=Seconds(),
                default=0.0,
                help="How long to wait for both ends at the start.  [default: 0; for a publisher (?listen=1), ever]",
            ),
            click.option(
                "--transport",
                type=click.Choice(["auto", "tcp", "udp"]),
                default="auto",
                show_default=True,
                help="Of RTSP: auto takes UDP where TCP cannot be had.",
            ),
        )
    ):
        command = option(command)
    return command


def talk_options(command: Decorated) -> Decorated:
    """-v and --debug."""
    for option in reversed(
        (
            click.option("-v", "--verbose", is_flag=True, help="Tell more."),
            click.option("--debug", is_flag=True, help="Tell everything, with tracebacks."),
        )
    ):
        command = option(command)
    return command


class Sectioned(click.Command):
    """A command whose help shows its options under headings.

    Args:
        sections: a heading for the options that are called so; the others come first.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Collection[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Options", *self._sections)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                found = (heading for heading, names in self._sections.items() if param.name in names)
                rows[next(found, "Options")].append(record)
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


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
