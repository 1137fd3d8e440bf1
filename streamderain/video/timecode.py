"""Timecodes of SMPTE ST 12: hours, minutes, seconds and frames, with frame numbers that are dropped or not."""

from __future__ import annotations

import re
from fractions import Fraction

_WRITTEN = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_TEN_MINUTES = 600  # seconds


def advanced(code: str, frames: int, rate: Fraction) -> str | None:
    """``code``, such as 01:00:00:00 or, where numbers are dropped, 01:00:00;00, after ``frames`` more.

    Args:
        rate: frames/s.

    Returns:
        None if ``code`` is no timecode at this rate.
    """
    written = _WRITTEN.fullmatch(code)
    fps = round(rate)
    if written is None or fps < 1:
        return None
    hours, minutes, seconds, number = (int(written[group]) for group in (1, 2, 3, 5))
    drops = written[4] != ":"
    if drops and fps % 30:
        return None
    # Two numbers of 30, four of 60, begin no minute but each tenth.
    dropped = fps // 15 if drops else 0
    minute, ten_minutes = 60 * fps - dropped, _TEN_MINUTES * fps - 9 * dropped
    count = ((hours * 60 + minutes) * 60 + seconds) * fps + number
    count -= dropped * (hours * 60 + minutes - (hours * 60 + minutes) // 10)
    count = (count + frames) % (24 * 6 * ten_minutes)
    tens, rest = divmod(count, ten_minutes)
    count += dropped * (9 * tens + (max(0, rest - dropped) // minute))
    seconds, number = divmod(count, fps)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{written[4]}{number:02}"
