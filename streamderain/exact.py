"""Numbers that must be exact, taken from callers: whole ones and fractions, never floats."""

from __future__ import annotations

import operator
from fractions import Fraction
from numbers import Rational
from typing import Any


def whole(name: str, value: Any, *, least: int | None = None) -> int:
    """``value`` as an int, whatever kind of whole number it is. Raises: ValueError, which calls it ``name``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def fraction(name: str, value: Any) -> Fraction:
    """``value``, a fraction or a whole number above 0, as a Fraction. Raises: ValueError, which calls it ``name``."""
    if not isinstance(value, Rational) or int(value.numerator) <= 0:
        raise ValueError(f"{name} must be a Fraction or a whole number, above 0, got {value!r}")
    return Fraction(int(value.numerator), int(value.denominator))


def settle_times(frame: Any) -> None:
    """For ``__post_init__`` of frames, which are frozen: their times as an int, a Fraction, and an int or None.

    Raises: ValueError.
    """
    # By type, not by isinstance: this is done for every frame, and what needs nothing should cost nothing.
    if type(frame.pts) is not int:
        object.__setattr__(frame, "pts", whole("pts", frame.pts))
    if type(frame.time_base) is not Fraction or frame.time_base.numerator <= 0:
        object.__setattr__(frame, "time_base", fraction("time_base", frame.time_base))
    if frame.duration is not None and type(frame.duration) is not int:
        object.__setattr__(frame, "duration", whole("duration", frame.duration))
