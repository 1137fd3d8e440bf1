"""Lead-ins: before the first frame of a scene the network sees what follows, and nobody sees that it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor

from streamderain.errors import InputError
from streamderain.frame import Frame, VideoInfo
from streamderain.leadin import _glance, with_lead_in
from streamderain.pipeline import run
from streamderain.session import Derainer
from streamderain.yuv import YuvFormat, YuvFrame

BASE = Fraction(1, 25)
HEIGHT, WIDTH = 96, 128


def scene(seed: int) -> Tensor:
    """A smooth picture [H, W, 3] unlike those of other seeds."""
    noise = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return (large[0].permute(1, 2, 0) * 200).to(torch.uint8)


def clip(*seeds: int) -> list[Frame]:
    return [Frame(scene(seed), pts, BASE) for pts, seed in enumerate(seeds)]


def order(frames: list[Frame]) -> list[tuple[int, bool]]:
    return [(frame.pts, wanted) for frame, wanted in with_lead_in(frames)]


def test_the_two_frames_after_the_first_come_before_it_backwards() -> None:
    assert order(clip(1, 1, 1, 1)) == [(2, False), (1, False), (0, True), (1, True), (2, True), (3, True)]


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [(0, True)]), (2, [(1, False), (0, True), (1, True)])])
def test_short_clips(count: int, expected: list[tuple[int, bool]]) -> None:
    assert order(clip(*[1] * count)) == expected


def test_each_scene_is_led_into_by_its_own_frames_only() -> None:
    given = clip(*[1] * 9, *[2] * 9, 2, 3)
    got = order(given)
    assert [pts for pts, wanted in got if wanted] == list(range(20))
    assert [pts for pts, wanted in got if not wanted] == [2, 1, 11, 10]  # the last scene has one frame only
    assert got.index((11, False)) == got.index((9, True)) - 2


def test_what_looks_like_a_cut_all_the_time_is_not_led_into_each_time() -> None:
    lead = [pts for pts, wanted in order(clip(*range(24))) if not wanted]
    assert lead == []  # no two frames of a scene
    pairs = order(clip(*[index // 2 for index in range(24)]))
    assert len([pts for pts, wanted in pairs if not wanted]) == 3


def test_a_flash_at_a_cut_leaves_the_scene_after_it_its_lead_in() -> None:
    got = order(clip(*[1] * 10, 5, *[2] * 6))
    assert [pts for pts, wanted in got if not wanted] == [2, 1, 13, 12]


@pytest.mark.parametrize("before", [1, 9])
def test_another_size_is_no_scene_to_lead_into(before: int) -> None:
    small = Frame(torch.zeros(8, 8, 3, dtype=torch.uint8), 9, BASE)
    got = order([*clip(*[1] * before), small, replace(small, pts=10)])
    assert [pts for pts, wanted in got if not wanted] == [2, 1][: before - 1]
    assert got[-2:] == [(9, True), (10, True)]


def test_a_camera_that_pans_fast_makes_no_cut() -> None:
    generator, wide = torch.Generator().manual_seed(0), torch.zeros(HEIGHT, WIDTH + 14 * 12, 3)
    for cell, weight in ((24, 0.7), (8, 0.3)):
        noise = torch.rand(1, 3, wide.shape[0] // cell, wide.shape[1] // cell, generator=generator)
        wide += weight * torch.nn.functional.interpolate(noise, wide.shape[:2], mode="bicubic")[0].permute(1, 2, 0)
    pixels = (wide.clamp(0, 1) * 240).byte()
    frames = [Frame(pixels[:, 14 * pts :][:, :WIDTH], pts, BASE) for pts in range(12)]
    assert [pts for pts, wanted in order(frames) if not wanted] == [2, 1]


@pytest.mark.parametrize(("name", "white"), [("nv12", 255), ("yuv420p10le", 1023), ("p010le", 1023 << 6)])
def test_white_is_white_in_every_format(name: str, white: int) -> None:
    meant = YuvFormat(name, 1)
    planes = [torch.full(shape, white, dtype=torch.int32).to(meant.layout.dtype) for shape in meant.layout.shapes(4, 4)]
    assert bool((_glance(YuvFrame(tuple(planes), meant, 0, BASE)) == 1).all())


def test_planes_are_looked_at_as_pixels_are() -> None:
    meant = YuvFormat("yuv420p10le", matrix=1)

    def planes(seed: int, pts: int) -> YuvFrame:
        luma = scene(seed)[..., 0].to(torch.int32).mul(4).to(torch.uint16)
        chroma = torch.full((HEIGHT // 2, WIDTH // 2), 512, dtype=torch.int32).to(torch.uint16)
        return YuvFrame((luma, chroma, chroma), meant, pts, BASE)

    frames = [planes(1 if pts < 9 else 2, pts) for pts in range(18)]
    assert [frame.pts for frame, wanted in with_lead_in(frames) if not wanted] == [2, 1, 11, 10]


def test_frames_are_looked_at_on_the_cpu_wherever_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVDEC's pictures lie in the GPU's memory, here in none; those after the first interlaced one in the CPU's."""
    monkeypatch.setattr(Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    empty = partial(torch.empty, dtype=torch.uint8, device="meta")
    planes = YuvFrame((empty(192, 256), empty(96, 128, 2)), YuvFormat("nv12", 1), 0, BASE)
    assert _glance(planes).device == _glance(Frame(empty(192, 256, 3), 1, BASE)).device == torch.device("cpu")


@pytest.mark.needs_cuda
def test_a_video_that_leaves_the_gpus_memory_on_the_way_is_gone_on_with() -> None:
    grey = YuvFormat("nv12", 1)

    def planes(pts: int) -> YuvFrame:
        luma = scene(1)[..., 0].cuda()
        return YuvFrame((luma, luma.new_full((HEIGHT // 2, WIDTH // 2, 2), 128)), grey, pts, BASE)

    frames = [planes(pts) if pts < 9 else frame for pts, frame in enumerate(clip(*[1] * 14))]
    assert [frame.pts for frame, wanted in with_lead_in(frames) if wanted] == list(range(14))


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_failure_comes_after_every_frame_before_it(at: int) -> None:
    def frames() -> Iterator[Frame]:
        yield from clip(*[1] * at)
        raise InputError("damaged")

    ordered, got = with_lead_in(frames()), list[int]()

    def take_all() -> None:
        got.extend(frame.pts for frame, wanted in ordered if wanted)

    with pytest.raises(InputError, match="damaged"):
        take_all()
    assert got == list(range(at))


class _Rainy:
    """A scene that stands still, with other streaks in each frame."""

    def __init__(self, *, live: bool) -> None:
        self.info = VideoInfo(width=WIDTH, height=HEIGHT, time_base=BASE, live=live)
        self.clean = scene(1)

    def __iter__(self) -> Iterator[Frame]:
        generator = torch.Generator().manual_seed(0)
        for pts in range(4):
            pixels = self.clean.clone()
            for column in torch.randint(WIDTH, (12,), generator=generator).tolist():
                pixels[:, column] = 255
            yield Frame(pixels, pts, BASE)

    def __enter__(self) -> _Rainy:
        return self

    def __exit__(self, *_: object) -> None: ...


class _Kept:
    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("live", [False, True])
def test_first_frame_of_a_file_is_as_clean_as_the_others_and_a_camera_is_not_waited_for(live: bool) -> None:
    source, sink = _Rainy(live=live), _Kept()
    stats = run(source, sink, Derainer("classic", device="cpu"))
    assert [frame.pts for frame in sink.frames] == list(range(4)), "each once"
    assert stats.frames == 4
    worst = [float((f.pixels.int() - source.clean.int()).abs().amax(0).float().mean()) for f in sink.frames]
    assert (worst[0] > 5) is live
    assert max(worst[2:]) < 2
