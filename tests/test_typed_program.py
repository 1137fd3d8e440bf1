"""A program of a user who has mypy --strict: it runs here, and `make check` has it type-checked."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import torch

from streamderain import Derainer, Frame, VideoInfo, derain, run
from streamderain.frame import FrameSource

TICK = Fraction(1, 25)


class Still:
    """A source of one's own, related to ours by nothing but what it can do."""

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(8, 6, TICK)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(3):
            yield Frame(torch.full((6, 8, 3), 10 * index, dtype=torch.uint8), index, TICK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Means:
    """A sink of one's own."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def write(self, frame: Frame) -> None:
        self.means.append(float(frame.pixels.float().mean()))

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def means(source: FrameSource) -> list[float]:
    return [float(frame.pixels.float().mean()) for frame in source]


def clean_means(source: FrameSource, derainer: Derainer) -> list[float]:
    return [float(frame.pixels.float().mean()) for frame in derain(source, derainer)]


def doubled(rainy: Frame, clean: Frame) -> Frame:
    return Frame(rainy.pixels + clean.pixels, clean.pts, clean.time_base)


def test_it_runs() -> None:
    derainer, sink, seen = Derainer("identity", device="cpu"), Means(), list[int]()

    def note(frame: Frame) -> None:
        seen.append(frame.pts)

    assert means(Still()) == clean_means(Still(), derainer) == [0, 10, 20]
    assert run(Still(), sink, derainer, view=doubled, on_frame=note).frames == 3
    assert (sink.means, seen) == ([0, 20, 40], [0, 1, 2])
    session = derainer.session(6, 8)
    clean: Frame = session.step(next(iter(Still())))
    assert clean.pts == 0
