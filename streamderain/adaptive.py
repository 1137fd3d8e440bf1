"""Keeping up on a machine that cannot: a ladder of cheaper ways to derain, and when to step down and up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.errors import StreamderainError
from streamderain.frame import Frame
from streamderain.session import DerainerLike, SessionLike

_log = logging.getLogger(__name__)

_SLOW_FOR = 2.0  # seconds that a rung must be too slow for before the next is taken
_SMOOTH = 0.2  # weight of the newest cost in the running mean
_TRY_AFTER = 60.0  # seconds until the rung above is tried again; doubled by each vain attempt
_TRY_AT_LATEST = 600.0
_KEPT_FOR = 20.0  # seconds after which an attempt counts as a success


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to derain: a model, at full size (``scale`` 1) or on a picture ``scale`` times smaller each way.

    On a smaller picture only the rain layer is estimated; enlarged, it is subtracted from the full picture, which keeps
    its detail.
    """

    derainer: DerainerLike
    scale: int = 1

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale must be at least 1, got {self.scale}")

    @property
    def description(self) -> str:
        size = "" if self.scale == 1 else f" at 1/{self.scale} of the size"
        return f"{self.derainer.description}{size}"


def ladder(best: DerainerLike, cheaper: Sequence[DerainerLike] = ()) -> list[Rung]:
    """``best``, then each of ``cheaper`` in turn, then the last of them on smaller and smaller pictures.

    All but ``best`` take the engines that are there: the picture does not stand still for a compiler on the way.
    """
    below = [_without_compiler(model) for model in cheaper]
    last = [best, *below][-1]
    # Copies: a derainer that finds no engine ready for a smaller size goes on without engines, at every size.
    return [Rung(best), *map(Rung, below), *(Rung(_without_compiler(copy(last)), scale) for scale in (2, 4))]


def _without_compiler(model: DerainerLike) -> DerainerLike:
    """``model``, or where it would build engines a copy that does not."""
    if model.build != "auto":
        return model
    other = copy(model)
    other.build = "ready"
    return other


class AdaptiveSession:
    """Derains one stream by the best rung that the machine keeps up with. Not for two threads at once.

    Args:
        rungs: the best first. One that cannot be had when its turn comes is told and left out, but for the first, and
            those that are never to be built: they are looked at now.
        height, width: px of the frames.
        interval: called for the seconds between two frames of the camera, which may change.
        clock: seconds, monotonic; for tests.

    Attributes:
        rung: the index of the present one among those that are left.

    Raises:
        ModelError, DeviceError, EngineError: of the first rung, or of one that is never to be built.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        height: int,
        width: int,
        *,
        interval: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not rungs:
            raise ValueError("a ladder has at least one rung, got none")
        self._rungs, self._size, self._interval, self._clock = list(rungs), (height, width), interval, clock
        self.rung = 0
        for below in self._rungs[1:]:
            if below.derainer.build == "never":
                below.derainer.prepare(*self._size_on(below))
        self._session = self._open(0)
        self._cost: float | None = None
        self._slow_since: float | None = None
        self._hold = _TRY_AFTER
        self._changed = clock()
        self._tried = False
        self._fresh = True

    @property
    def description(self) -> str:
        """Of the present rung."""
        return self._rungs[self.rung].description

    def reset(self) -> None:
        """Forget the past; the rung stays."""
        self._session.reset()

    def step(self, frame: Frame) -> Frame:
        """The clean frame for the next rainy one; see `Session.step`."""
        began = self._clock()
        rung = self._rungs[self.rung]
        clean = self._session.step(frame) if rung.scale == 1 else _by_rain_layer(self._session, frame, rung.scale)
        now = self._clock()
        self._judge(now, now - began)
        return clean

    def _open(self, rung: int) -> SessionLike:
        return self._rungs[rung].derainer.session(*self._size_on(self._rungs[rung]))

    def _size_on(self, rung: Rung) -> tuple[int, int]:
        height, width = self._size
        return -(-height // rung.scale), -(-width // rung.scale)

    def _judge(self, now: float, cost: float) -> None:
        if self._fresh:  # the first frame of a session may compile and allocate
            self._fresh = False
            return
        self._cost = cost if self._cost is None else self._cost + _SMOOTH * (cost - self._cost)
        interval = self._interval()
        if self._cost <= interval:
            self._slow_since = None
            kept = now - self._changed
            if self._tried and kept > _KEPT_FOR:
                self._tried, self._hold = False, _TRY_AFTER
            if self.rung > 0 and kept > self._hold:
                self._tried = self._move(self.rung - 1, now, f"trying {self._rungs[self.rung - 1].description} again")
            return
        self._slow_since = now if self._slow_since is None else self._slow_since
        if now - self._slow_since < _SLOW_FOR or self.rung + 1 == len(self._rungs):
            return
        if self._tried:
            self._hold, self._tried = min(2 * self._hold, _TRY_AT_LATEST), False
        said = f"{1000 * self._cost:.0f} ms a frame is too slow for one every {1000 * interval:.0f} ms"
        self._move(self.rung + 1, now, f"{said}: going on with {self._rungs[self.rung + 1].description}")

    def _move(self, rung: int, now: float, message: str) -> bool:
        """Whether ``rung`` could be had; if not, it is left out and the present session goes on."""
        try:
            session = self._open(rung)
        except StreamderainError as error:
            _log.warning("adaptive: doing without %s: %s", self._rungs[rung].description, error)
            del self._rungs[rung]
            self.rung -= rung < self.rung
            return False
        _log.warning("adaptive: %s", message)
        self.rung, self._session = rung, session
        self._cost, self._slow_since, self._changed, self._fresh = None, None, now, True
        return True


def _by_rain_layer(session: SessionLike, frame: Frame, scale: int) -> Frame:
    """Derains a picture ``scale`` times smaller, and subtracts the rain that was found there from the whole one."""
    top = torch.iinfo(frame.pixels.dtype).max
    rainy = frame.pixels.permute(2, 0, 1)[None].float()  # [1, 3, H, W]
    small = F.interpolate(rainy, size=(session.height, session.width), mode="area")
    clean = session.step(
        Frame(_pixels(small, frame.pixels.dtype), frame.pts, frame.time_base, frame.duration)
    ).pixels.permute(2, 0, 1)[None]
    rain = F.interpolate(small - clean.float(), size=rainy.shape[-2:], mode="bilinear", align_corners=False)
    return Frame(_pixels((rainy - rain).clamp_(0, top), frame.pixels.dtype), frame.pts, frame.time_base, frame.duration)


def _pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, 3, H, W] in the range of ``dtype`` -> [H, W, 3], rounded."""
    return image[0].permute(1, 2, 0).round().to(dtype).contiguous()
