"""The group of commands: loads each when it is called, and turns every error into one line and an exit code."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from itertools import pairwise
from typing import IO, Any, NoReturn, cast

import click

from streamderain import __version__
from streamderain.cli.interrupt import Signals
from streamderain.cli.report import Reporter
from streamderain.errors import DeviceError, OutputError, StreamderainError
from streamderain.redaction import visible

# name -> (module, attribute); the help lines of `streamderain --help` import them all, which is cheap: none of them
# imports torch or PyAV before it runs.
_COMMANDS = {
    "run": ("streamderain.cli.run", "run_command"),
    "compile": ("streamderain.cli.compile", "compile_command"),
    "engines": ("streamderain.cli.engines", "engines_group"),
    "bench": ("streamderain.cli.bench", "bench_command"),
    "probe": ("streamderain.cli.probe", "probe_command"),
    "models": ("streamderain.cli.models", "models_group"),
    "doctor": ("streamderain.cli.doctor", "doctor_command"),
    "completion": ("streamderain.cli.completion", "completion_command"),
}
_INTERRUPTED = 130
# Click before 8.2 shows the help by itself.
_NO_ARGUMENTS: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Stdout:
    """stdout whose errors are ours, whatever is printed; a reader that has gone is none. Terminals obey none of it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _told():
            return self._stream.write(visible(text))

    def flush(self) -> None:
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


class _Cli(click.Group):
    """Commands return None (done, exit 0) or their exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            # What torch and others warn of is for developers; it would run into the progress bar.
            warnings.simplefilter("ignore")
            logging.getLogger().addHandler(logging.NullHandler())
            try:
                return super().invoke(ctx)
            except StreamderainError as error:
                return _fail(ctx, error, str(error), error.exit_code)
            except KeyboardInterrupt:
                Reporter.of(ctx).error("interrupted", code=_INTERRUPTED)
                return _INTERRUPTED
            except BrokenPipeError:
                return 1  # who reads our output has gone: nobody is left to be told
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:  # noqa: BLE001 - the last line of defence: one line, not a traceback
                if _ran_out(error):
                    text = "out of memory: close other programs, or use smaller frames"
                    return _fail(ctx, error, text, DeviceError.exit_code)
                text = f"internal error: {type(error).__name__}: {error} (--debug shows where; please report it)"
                return _fail(ctx, error, text, 1)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        try:
            with redirect_stdout(cast("IO[str]", _Stdout(sys.stdout))):
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except _NO_ARGUMENTS as error:  # asked for nothing: the help is the answer
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            _usage(error, list(sys.argv[1:] if args is None else args))
            code = error.exit_code
        except StreamderainError as error:  # of --help and --version; what a command raises is told in `invoke`
            Reporter().error(str(error), code=error.exit_code)
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = _INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.ClickException, args: list[str]) -> None:
    """Click's own words on one line. How to log is read from the bare arguments too: they may not have been parsed."""
    text = error.format_message().strip()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        text = f"{text.rstrip('.')} (see {context.command_path} --help)"
    json = "--log-format=json" in args or ("--log-format", "json") in pairwise(args)
    json = json or (context is not None and context.params.get("log_format") == "json")
    Reporter(style="json" if json else "text").error(text, code=error.exit_code)


def _ran_out(error: Exception) -> bool:
    if not isinstance(error, RuntimeError | MemoryError):
        return False
    from streamderain.runtime import ran_out

    return ran_out(error)


def _fail(ctx: click.Context, error: Exception, text: str, code: int) -> int:
    if isinstance(ctx.obj, Signals):
        ctx.obj.seen()
    reporter = Reporter.of(ctx)
    reporter.traceback(error)
    reporter.error(text, code=code)
    return code


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="streamderain", message="%(prog)s %(version)s")
def cli() -> None:
    """Remove rain from videos and pictures.

    \b
    Start with:
      streamderain run rainy.mp4 clear.mp4
    """
