"""Values as people type them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click
import pytest

from streamderain.cli.options import Bytes, KeyValue, Rate, Seconds, Size


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Seconds(), "12.5", 12.5),
        (Seconds(), ".5", 0.5),
        (Seconds(), "1:30", 90.0),
        (Seconds(), "90:00", 5400.0),
        (Seconds(), "100", 100.0),
        (Seconds(), "0", 0.0),
        (Seconds(), "01:02:03.5", 3723.5),
        (Seconds(), "0.2s", 0.2),
        (Seconds(above_zero=True), "200ms", 0.2),
        (Rate(), "25", Fraction(25)),
        (Rate(), "29.97", Fraction(2997, 100)),
        (Rate(), "30000/1001", Fraction(30000, 1001)),
        (Bytes(), "500MB", 500_000_000),
        (Bytes(), "2.5 GB", 2_500_000_000),
        (Bytes(), "1k", 1000),
        (Bytes(), "7", 7),
        (Size(), "1280x720", (1280, 720)),
        (KeyValue(), "tune=grain", ("tune", "grain")),
        (KeyValue(), "x264-params=a=1:b=2", ("x264-params", "a=1:b=2")),
    ],
)
def test_value_is_read(kind: Any, text: str, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Seconds(), text) for text in ("", "x", "-1", "1:2:3:4", "1h", "nan", "ms", "1:30ms")),
        *((Seconds(), text) for text in ("1:90", "1:60", "1:60:00", "0:75:00")),
        *((Seconds(above_zero=True), text) for text in ("0", "0.0", "0:00")),
        *((Rate(), text) for text in ("", "x", "0", "-25", "1/0", "1e999999999")),
        *((Bytes(), text) for text in ("", "MB", "-1", "5 bytes")),
        *((KeyValue(), text) for text in ("", "tune", "=grain")),
    ],
)
def test_nonsense_is_refused_and_shown(kind: Any, text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{text}'"):
        kind.convert(text, None, None)
