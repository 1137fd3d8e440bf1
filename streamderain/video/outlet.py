"""What sinks have in common: how they are left, the size that they were promised, eight bits for those that show."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from streamderain.frame import Frame, VideoInfo, check_frame
from streamderain.yuv import YuvFrame


class Finishing:
    """A context manager that closes when all went well and aborts when something raised. What is ended stays so.

    What else a `VideoSink` has is that of one whose output has no older one to replace.
    """

    frames_written = 0
    notes: tuple[str, ...] = ()
    replaces = False
    _name: str  # of the output, for people
    _open = True

    def close(self) -> None:
        """Finishes the output."""
        raise NotImplementedError

    def close_as_part(self) -> None:
        """As ``close()``."""
        self.close()

    def abort(self) -> None:
        """Ends the output as it is. Never raises."""
        raise NotImplementedError

    def _check_open(self) -> None:
        """Raises ValueError when it was closed or aborted."""
        if not self._open:
            raise ValueError(f"{self._name} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_size(frame: Frame | YuvFrame, info: VideoInfo, *, of: str = "output") -> None:
    """Raises ValueError for a frame that has not the size that ``info`` promised, TypeError for what is no frame."""
    check_frame(frame)
    if (frame.width, frame.height) != (info.width, info.height):
        raise ValueError(f"frame is {frame.width}x{frame.height}, the {of} {info.width}x{info.height}")


def eight_bits(frame: Frame) -> Tensor:
    """The frame's pixels as uint8 [H, W, 3]; of deeper ones the upper eight bits."""
    return frame.pixels if frame.pixels.dtype == torch.uint8 else (frame.pixels.int() >> 8).to(torch.uint8)
