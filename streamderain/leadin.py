"""Lead-ins: where a scene begins there is no past, so what follows is shown to the network first, backwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.preprocess import estimate_motion, same_scene, warp
from streamderain.yuv import YuvFrame

_AHEAD = 2  # frames: as many as the network looks back on
_APART = 8  # frames from one lead-in to the next at least: what looks like a cut more often is none
_ROWS = 180  # that a frame is looked at with, about
_COARSER = 2  # to find its motion, where that must be known


def with_lead_in(frames: Iterable[Frame | YuvFrame]) -> Iterator[tuple[Frame | YuvFrame, bool]]:
    """The frames in order, each with True; before the first of each scene the two after it, backwards, with False.

    To a network that remembers, these are the past that the first frame lacks, as long as nobody sees what it makes of
    them. Reads two frames ahead, so it is nothing for live sources; what ``frames`` raises is raised at its place.
    """
    source, waiting = iter(frames), deque[tuple[Frame | YuvFrame, Tensor]]()
    failure: Exception | None = None
    ended = False
    last: Tensor | None = None
    since = _APART
    while True:
        while not ended and len(waiting) <= _AHEAD:
            try:
                frame = next(source)
                waiting.append((frame, _glance(frame)))
            except StopIteration:
                ended = True
            except Exception as error:  # noqa: BLE001 - raised at its place, below
                failure, ended = error, True
        if not waiting:
            break
        frame, look = waiting.popleft()
        if last is None or (since >= _APART and last.shape == look.shape and _is_cut(look, last)):
            for other in reversed(_of_scene(look, waiting)):
                yield other, False
                since = 0
        since += 1
        last = look
        yield frame, True
    if failure is not None:
        raise failure


def _of_scene(first: Tensor, following: Iterable[tuple[Frame | YuvFrame, Tensor]]) -> list[Frame | YuvFrame]:
    """The frames before the next cut."""
    scene, before = [], first
    for frame, look in following:
        if _is_cut(look, before):
            break
        scene.append(frame)
        before = look
    return scene


def _glance(frame: Frame | YuvFrame) -> Tensor:
    """[1, 3, h, w], 0..1, on the CPU: every so many pixels of a frame, or of its luma.

    Frames of one video may lie in the GPU's memory and in the CPU's, and for so few pixels a GPU is no faster.
    """
    step = max(1, min(frame.height, frame.width) // _ROWS)
    if isinstance(frame, Frame):
        some, top = frame.pixels[::step, ::step].cpu().permute(2, 0, 1), torch.iinfo(frame.pixels.dtype).max
    else:
        layout = frame.format.layout
        some = frame.planes[0][::step, ::step].cpu().expand(3, -1, -1)
        top = ((1 << layout.bits) - 1) << layout.shift
    return some[None].float() / top


def _is_cut(look: Tensor, before: Tensor) -> bool:
    """Whether a scene begins. Details tell, but of a moving camera only when one frame is laid on the other."""
    if look.shape != before.shape:
        return True
    if same_scene(look, before):
        return False
    if not same_scene(look, before, closely=False):
        return True
    look, before = (picture[..., ::_COARSER, ::_COARSER] for picture in (look, before))
    return not same_scene(look, warp(before, estimate_motion(look, before)))
