"""Every exception streamderain raises on purpose, and the exit code each one becomes.

::

    StreamderainError                 exit 1   something failed
    ├── InputError                    exit 4   the input is unreadable or has no video
    │   └── UnsupportedInputError     exit 4   readable, but not something we can do right (HDR, a size change)
    ├── OutputError                   exit 1   the output cannot be written, or cannot hold what it should
    │   ├── OutputExistsError         exit 2   it is there already and may not be overwritten
    │   └── OutputOptionError         exit 2   what was asked of it cannot be had: wrong usage
    ├── ModelError                    exit 5   no such model, or its weights cannot be used
    ├── DeviceError                   exit 5   the device asked for is not there or is out of memory
    ├── EngineError                   exit 5   the backend or precision asked for cannot be had
    └── StreamLostError               exit 6   a live stream is lost beyond its limit

An error says in one line what is wrong and what to do next. A wrong *argument* is a ``ValueError``
that prints the value; these classes are for errors of the world: files, streams, devices, weights.
"""

from __future__ import annotations

from typing import ClassVar


class StreamderainError(Exception):
    """Base class. ``hint`` is the next step, kept apart from the ``message`` that it follows in the error's words."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}: {hint}")
        self.message, self.hint = message, hint


class InputError(StreamderainError):
    """The input cannot be opened, cannot be decoded, or holds no video."""

    exit_code = 4


class UnsupportedInputError(InputError):
    """The input is readable, but deraining it would silently do harm."""


class OutputError(StreamderainError):
    """The output cannot be opened or written, or its container cannot hold what it is to hold."""


class OutputExistsError(OutputError):
    """The output is there already and overwriting was not asked for."""

    exit_code = 2


class OutputOptionError(OutputError):
    """What was asked of the output cannot be had: its name, codec, quality, container or an option of these."""

    exit_code = 2


class ModelError(StreamderainError):
    """No such model, or its weights are damaged or of another network."""

    exit_code = 5


class DeviceError(StreamderainError):
    """The device asked for is not there or is out of memory."""

    exit_code = 5


class EngineError(StreamderainError):
    """The backend or precision asked for is not installed or cannot run this network."""

    exit_code = 5


class StreamLostError(StreamderainError):
    """A live stream is lost beyond its limit."""

    exit_code = 6
