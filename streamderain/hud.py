"""Words burnt into the picture: model, rate, frame age and losses, in a font of five by seven dots."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.observe import Observer, Snapshot

# Seven rows from the top, each a number below 32 in base 32; its highest bit is the leftmost dot.
# fmt: off
_FONT = {
    " ": "0000000", ".": "00000CC", ",": "0000C48", ":": "0CC0CC0", "-": "000V000", "_": "000000V", "/": "01248G0",
    "%": "OP248J3", "+": "044V440", "(": "2488842", ")": "8422248", "=": "00V0V00", "·": "00CC000", "'": "4480000",
    "0": "EHJLPHE", "1": "4C4444E", "2": "EH1248V", "3": "V2421HE", "4": "26AIV22", "5": "VGU11HE", "6": "68GUHHE",
    "7": "V124888", "8": "EHHEHHE", "9": "EHHF12C", "A": "EHHVHHH", "B": "UHHUHHU", "C": "EHGGGHE", "D": "SIHHHIS",
    "E": "VGGUGGV", "F": "VGGUGGG", "G": "EHGNHHF", "H": "HHHVHHH", "I": "E44444E", "J": "72222IC", "K": "HIKOKIH",
    "L": "GGGGGGV", "M": "HRLLHHH", "N": "HHPLJHH", "O": "EHHHHHE", "P": "UHHUGGG", "Q": "EHHHLID", "R": "UHHUKIH",
    "S": "FGGE11U", "T": "V444444", "U": "HHHHHHE", "V": "HHHHHA4", "W": "HHHLLLA", "X": "HHA4AHH", "Y": "HHHA444",
    "Z": "V1248GV",
}
# fmt: on
_UNKNOWN = "VHHHHHV"
_ROWS, _COLUMNS = 7, 5
_MARGIN = 3  # dots around the words
_SHADE = 90  # of 256: how much of the picture is left behind the words
_EVERY = 0.25  # seconds that the words stay as they are: numbers that change with each frame cannot be read


def text_mask(lines: Sequence[str], *, dot: int) -> Tensor:
    """[H, W] bool: where the letters are. Small letters are shown as capitals; what the font lacks as a box.

    Args:
        dot: px a side of one dot, at least 1.

    Raises:
        ValueError: ``dot`` is less than 1.
    """
    if dot < 1:
        raise ValueError(f"dot must be at least 1, got {dot}")
    longest = max((len(line) for line in lines), default=0)
    height = 2 * _MARGIN + len(lines) * (_ROWS + 2) - 2
    width = 2 * _MARGIN + max(longest * (_COLUMNS + 1) - 1, 0)
    mask = torch.zeros((max(height, 1), width), dtype=torch.bool, device="cpu")
    for index, line in enumerate(lines):
        top = _MARGIN + index * (_ROWS + 2)
        for place, letter in enumerate(line.upper()):
            left = _MARGIN + place * (_COLUMNS + 1)
            for row, digit in enumerate(_FONT.get(letter, _UNKNOWN)):
                bits = int(digit, 32)
                for column in range(_COLUMNS):
                    mask[top + row, left + column] = bool(bits >> (_COLUMNS - 1 - column) & 1)
    return mask.repeat_interleave(dot, 0).repeat_interleave(dot, 1)


def burn(frame: Frame, mask: Tensor) -> Frame:
    """A copy of ``frame`` with white letters on a shade in its upper left corner; cut off where it ends.

    Args:
        mask: [h, w] bool, of `text_mask`.
    """
    pixels = frame.pixels.clone()
    corner = pixels[: mask.shape[0], : mask.shape[1]]
    letters = mask[: corner.shape[0], : corner.shape[1], None]
    shaded = (corner.int() * _SHADE) >> 8
    corner.copy_(torch.where(letters, torch.iinfo(pixels.dtype).max, shaded).to(pixels.dtype))
    return replace(frame, pixels=pixels)


def words(snapshot: Snapshot) -> list[str]:
    """What is said of a stream: what runs on what, then how fast, how late and how much was lost."""
    about = snapshot.about
    runs = " · ".join(about[key] for key in ("model", "device", "backend", "precision") if key in about)
    numbers = [f"{snapshot.process_fps:.1f} fps"]
    if snapshot.frame_age is not None:
        numbers.append(f"age {snapshot.frame_age * 1000:.0f} ms")
    numbers.append(f"dropped {snapshot.skipped + snapshot.output_dropped}")
    if snapshot.reconnects:
        numbers.append(f"reconnects {snapshot.reconnects}")
    lines = [runs, "  ".join(numbers)]
    if snapshot.state != "up":
        lines.append({"lost": "stream lost", "connecting": "connecting"}[snapshot.state])
    return [line for line in lines if line]


class Hud:
    """Burns an observer's `words` into frames; for one thread.

    Args:
        observer: of the stream; its ``about`` names "model", "device", "backend" and "precision".
        clock: seconds, monotonic.
    """

    def __init__(self, observer: Observer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._mask: Tensor | None = None
        self._made = 0.0
        self._size = (0, 0)

    def __call__(self, frame: Frame) -> Frame:
        now = self._clock()
        size = frame.height, frame.width
        if self._mask is None or now - self._made >= _EVERY or size != self._size:
            self._made, self._size = now, size
            self._mask = _fitted(words(self._observer.snapshot()), *size)
        return burn(frame, self._mask)


def _fitted(lines: Sequence[str], height: int, width: int) -> Tensor:
    """The mask for a picture of this size: a dot to 300 rows, less where the picture is narrow; then in more lines."""
    longest = 2 * _MARGIN + max(map(len, lines)) * (_COLUMNS + 1)  # dots
    dot = max(1, min(round(height / 300), width // longest))
    letters = max(1, (width // dot - 2 * _MARGIN) // (_COLUMNS + 1))
    return text_mask([part for line in lines for part in textwrap.wrap(line, letters)], dot=dot)
