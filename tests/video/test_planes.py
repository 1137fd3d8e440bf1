"""Frames in planes: handed out as the decoder has them, written as they are, and where chroma lies in between."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

from streamderain.frame import Colour, Frame, VideoInfo
from streamderain.pipeline import comparison, run
from streamderain.preprocess.colour import rgb_frame
from streamderain.session import Derainer
from streamderain.video import ContainerSink, cuda, open_sink, open_source
from streamderain.video.planes import PlaneWriter, chroma_is_left, format_of
from streamderain.yuv import LAYOUTS, Delivery, YuvFormat, YuvFrame

from .clips import COUNT, SIZE, Array, durations, times, write_clip
from .copying import copy

CPU = torch.device("cpu")  # in place of a GPU: nothing but the copies is different there
CODECS = {"yuv420p": "libx264", "yuv420p10le": "libx264", "yuv422p": "libx264", "yuv444p10le": "libx264"}
CODECS |= {"yuvj420p": "mjpeg", "nv12": "rawvideo"}


@pytest.fixture(autouse=True)
def _a_cpu_is_taken_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpu", lambda device: device)


def samples(path: Path) -> list[list[Array]]:
    """What PyAV decodes: for each picture its planes, without the ends of rows."""
    found = []
    with av.open(str(path)) as media:
        for picture in media.decode(video=0):
            layout = LAYOUTS[picture.format.name]
            kind = np.uint8 if layout.bits == 8 else np.uint16
            shapes = layout.shapes(picture.height, picture.width)
            rows = [np.frombuffer(memoryview(p), kind).reshape(p.height, -1).astype(int) for p in picture.planes]
            found.append([r[:, : np.prod(s[1:])].reshape(s) for r, s in zip(rows, shapes, strict=True)])
    return found


def through_planes(source: Path, target: Path, **writing: object) -> list[type]:
    """An identity on the CPU, from planes to planes; returns the kinds of frames that came out of it."""
    kinds = []
    with open_source(str(source)) as rainy:
        sink = open_sink(str(target), rainy.info, side=rainy.side, device=CPU, **writing)  # type: ignore[arg-type]
        run(
            rainy.in_planes(),
            sink,
            Derainer("identity", device="cpu"),
            on_frame=lambda frame: kinds.append(type(frame)),
        )
    return kinds


@pytest.mark.parametrize("pix_fmt", CODECS)
def test_planes_are_the_decoders_own_samples(tmp_path: Path, pix_fmt: str) -> None:
    clip = tmp_path / "in.nut"
    write_clip(clip, codec=CODECS[pix_fmt], pix_fmt=pix_fmt)
    with open_source(str(clip)) as source:
        frames = list(source.in_planes())
    assert len(frames) == COUNT
    for frame, wanted in zip(frames, samples(clip), strict=True):
        assert isinstance(frame, YuvFrame)
        assert (frame.width, frame.height, frame.format.pix_fmt) == (*SIZE, pix_fmt)
        for plane, want in zip(frame.planes, wanted, strict=True):
            assert np.array_equal(plane.numpy().astype(int), want)
    assert [frame.pts * frame.time_base for frame in frames] == times(clip)


def test_planes_come_with_their_meaning(tmp_path: Path) -> None:
    tags = {"colorspace": 9, "color_range": 2, "color_primaries": 9, "color_trc": 14}
    write_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le", options={"qp": "0"}, tags=tags)
    with open_source(str(tmp_path / "in.mkv")) as source:
        frame = next(iter(source.in_planes()))
    assert isinstance(frame, YuvFrame)
    assert frame.format == YuvFormat("yuv420p10le", 9, full=True, left=True)
    write_clip(tmp_path / "plain.mkv")
    with open_source(str(tmp_path / "plain.mkv")) as source:
        frame = next(iter(source.in_planes()))
    assert isinstance(frame, YuvFrame)
    assert frame.format.matrix in (5, 6), "BT.601 is what swscale guesses too"
    assert not frame.format.full


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv420p10le", "p010le", "yuv422p"])
@pytest.mark.parametrize(
    ("place", "left"), [("left", True), ("center", False), ("unspecified", False), ("topleft", None), ("top", None)]
)
def test_where_chroma_lies_is_found_out(pix_fmt: str, place: str, left: bool | None) -> None:
    graph = Graph()
    source = graph.add_buffer(width=64, height=48, format=av.VideoFormat(pix_fmt), time_base=Fraction(1), name="in")
    graph.link_nodes(source, graph.add("setparams", f"chroma_location={place}"), graph.add("buffersink"))
    graph.configure()
    blank = av.VideoFrame(64, 48, pix_fmt)
    blank.pts = 0
    graph.vpush(blank)
    picture = graph.vpull()
    if left is None and pix_fmt == "yuv422p":
        left = place == "topleft"  # nothing is shared between rows there
    assert chroma_is_left(picture) is left
    assert (format_of(picture, Colour()) is None) == (left is None)


@pytest.mark.parametrize("matrix", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("span", [0, 1, 2])
def test_tags_are_no_obstacle(matrix: int, span: int) -> None:
    picture = av.VideoFrame(64, 48, "yuv420p")
    picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries = matrix, span, 3, 3
    expected = YuvFormat("yuv420p", matrix if matrix not in (2, 3) else 5, full=span == 2, left=False)
    assert format_of(picture, Colour()) == expected


def test_what_has_no_planes_for_a_gpu_comes_in_r_g_b(tmp_path: Path) -> None:
    write_clip(tmp_path / "turned.mp4", rotation=90)
    write_clip(tmp_path / "odd.mkv", size=(63, 48), codec="ffv1")
    write_clip(tmp_path / "high.mkv", size=(64, 49), codec="ffv1")
    write_clip(tmp_path / "rgb.mkv", codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"})
    write_clip(tmp_path / "deep.mkv", codec="ffv1", pix_fmt="yuv420p12le", options={})
    for name in ("turned.mp4", "odd.mkv", "high.mkv", "rgb.mkv", "deep.mkv"):
        with open_source(str(tmp_path / name)) as source:
            assert source.in_planes() is source, name
            assert isinstance(next(iter(source)), Frame)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "suffix"),
    [("yuv420p", "libx264", "mp4"), ("yuv420p10le", "libx264", "mp4"), ("yuv422p", "ffv1", "mkv"),
     ("yuv444p", "libx264", "mkv"), ("yuvj420p", "mjpeg", "mkv")],
)  # fmt: skip
def test_a_video_survives_the_way_through_planes(tmp_path: Path, pix_fmt: str, codec: str, suffix: str) -> None:
    clip, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    lossless = {"qp": "0"} if codec == "libx264" else {}
    write_clip(clip, pix_fmt=pix_fmt, codec=codec, options=lossless, audio=0.5 if suffix == "mp4" else None)
    options = {"options": lossless} if lossless else {"codec": codec}
    if codec == "mjpeg":
        options["crf"] = 12
    assert through_planes(clip, out, **options) == [YuvFrame] * COUNT
    assert times(out) == times(clip)
    assert durations(out) == durations(clip)
    for before, after in zip(samples(clip), samples(out), strict=True):
        for a, b in zip(before, after, strict=True):
            step = 4 if "10" in pix_fmt else 1
            assert np.abs(a - b).mean() / step < (0.6 if codec == "mjpeg" else 0.05)
    if suffix == "mp4":
        assert times(out, "audio") == times(clip, "audio")


def test_planes_of_an_rgb_source_are_not_said_to_be_rgb(tmp_path: Path) -> None:
    writer = PlaneWriter(VideoInfo(*SIZE, Fraction(1, 25), colour=Colour(matrix=0, range=2)))
    planes = tuple(torch.zeros(shape, dtype=torch.uint8) for shape in LAYOUTS["yuv420p"].shapes(SIZE[1], SIZE[0]))
    made = writer.picture(YuvFrame(planes, YuvFormat("yuv420p", 1, full=False, left=True), 0, Fraction(1, 25), 1))
    assert (made.colorspace, made.color_range) == (1, 1)


def test_planes_are_written_as_they_are(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    info = VideoInfo(*SIZE, Fraction(1, 25), Fraction(25), colour=Colour(1, 1, 1, 1))
    sink = open_sink(str(tmp_path / "out.mkv"), info, codec="ffv1", device=CPU)
    assert isinstance(sink, ContainerSink)
    assert sink.delivery == Delivery(YuvFormat("yuv420p", 1, full=False, left=False), CPU)
    shapes, frames = LAYOUTS["yuv420p"].shapes(SIZE[1], SIZE[0]), []
    with sink:
        for index in range(3):
            planes = tuple(torch.randint(0, 256, s, generator=generator).to(torch.uint8) for s in shapes)
            frames.append(YuvFrame(planes, sink.delivery.format, index, Fraction(1, 25), 1))
            sink.write(frames[-1])
    for frame, found in zip(frames, samples(tmp_path / "out.mkv"), strict=True):
        for plane, want in zip(frame.planes, found, strict=True):
            assert np.array_equal(plane.numpy(), want)
    with av.open(str(tmp_path / "out.mkv")) as media:
        picture = next(media.decode(video=0))
        assert (picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc) == (1, 1, 1, 1)


def test_a_sink_refuses_planes_that_it_did_not_ask_for(tmp_path: Path) -> None:
    info = VideoInfo(*SIZE, Fraction(1, 25), Fraction(25))
    format = YuvFormat("nv12", 1)
    planes = tuple(torch.zeros(s, dtype=torch.uint8) for s in format.layout.shapes(SIZE[1], SIZE[0]))
    for device in (CPU, None):
        sink = open_sink(str(tmp_path / "out.mkv"), info, device=device)
        with pytest.raises(ValueError, match=r"got YuvFormat.*nv12"):
            sink.write(YuvFrame(planes, format, 0, Fraction(1, 25)))  # type: ignore[arg-type]
        sink.abort()
    turned = open_sink(str(tmp_path / "turned.mp4"), VideoInfo(*SIZE, Fraction(1, 25), rotation=90), device=CPU)
    assert isinstance(turned, ContainerSink)
    assert turned.delivery is None
    turned.abort()


def test_a_view_is_shown_pixels_of_frames_in_planes(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with open_source(str(tmp_path / "in.mp4")) as source:
        view, info = comparison("side", source.info)
        sink = open_sink(str(tmp_path / "out.mp4"), info, device=CPU)
        stats = run(source.in_planes(), sink, Derainer("identity", device="cpu"), view=view)
    assert stats.frames == COUNT
    with av.open(str(tmp_path / "out.mp4")) as media:
        assert next(media.decode(video=0)).width == 2 * SIZE[0]


def test_pixels_made_of_planes_are_those_of_the_source(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", tags={"colorspace": 1, "color_range": 1})
    with open_source(str(tmp_path / "in.mkv")) as source:
        plain = list(source)
    with open_source(str(tmp_path / "in.mkv")) as source:
        for frame, wanted in zip(source.in_planes(), plain, strict=True):
            error = (rgb_frame(frame).pixels.int() - wanted.pixels.int()).abs().float()
            assert float(error.mean()) < 0.05
            assert float(error.max()) <= 1


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
@pytest.mark.parametrize("planes", [True, False], ids=["planes", "pixels"])
def test_colour_stays_where_it_is(tmp_path: Path, planes: bool, codec: str) -> None:
    """A red bar, written and decoded again: swscale puts chroma between the luma samples unless it is told."""
    width, height = SIZE
    luma = np.full((height, width), 128, np.uint8)
    blue = np.full((height // 2, width // 2), 128, np.uint8)
    red = blue.copy()
    red[:, 14:18] = 200
    options = {"qp": "0"} if codec == "libx264" else {}
    write_clip(tmp_path / "in.mkv", count=3, codec=codec, options=options, planes=[[luma, blue, red]] * 3)
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    for _ in range(4):  # a shift would add up
        if planes:
            through_planes(source, out, codec=codec, options=options)
        else:
            copy(source, out, codec=codec, options=options)
        source, out = out, out.with_name(f"{out.stem}+.mkv")
    columns = np.arange(width // 2)
    weights = [plane[2][8] - 128 for plane in (samples(tmp_path / "in.mkv")[0], samples(source)[0])]
    before, after = ((columns * w).sum() / w.sum() for w in weights)
    assert abs(after - before) < 0.1


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_written_in_planes_too(deep: bool) -> None:
    info = VideoInfo(*SIZE, Fraction(1, 25), colour=Colour(bit_depth=10 if deep else 8))
    sink = open_sink("null:", info, device=CPU)
    delivery = sink.delivery  # type: ignore[attr-defined]
    assert delivery.format.pix_fmt == ("yuv420p10le" if deep else "yuv420p")
    assert open_sink("null:", info).delivery is None  # type: ignore[attr-defined]
    for odd in (replace(info, width=63), replace(info, height=49)):
        assert open_sink("null:", odd, device=CPU).delivery is None  # type: ignore[attr-defined]
