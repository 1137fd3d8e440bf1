"""Colour on the device: beside swscale, OpenCV, and the equations of ITU-T H.273 written out in numpy."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from streamderain.preprocess.colour import WEIGHTS, rgb_frame, rgb_pixels, rgb_to_yuv, yuv_to_rgb
from streamderain.yuv import LAYOUTS, YuvFormat, YuvFrame

WIDTH, HEIGHT = 96, 64
EXACT = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
FORMATS = sorted(LAYOUTS)


def smooth() -> Tensor:
    """[1, 3, H, W], 0..1: colours that change slowly and reach both ends."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    red, green, blue = np.sin(x / 15 + y / 20), np.cos(x / 21 - y / 13), np.sin(y / 12)
    return torch.from_numpy(0.5 + 0.5 * np.stack((red, green, blue)))[None].float()


def detailed() -> Tensor:
    """The same with edges and noise."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(1, 3, HEIGHT // 8, WIDTH // 8, generator=generator).repeat_interleave(8, 2)
    noise = 0.05 * torch.randn(1, 3, HEIGHT, WIDTH, generator=generator)
    return (0.1 + 0.8 * blocks.repeat_interleave(8, 3) + noise).clamp(0, 1)


PICTURES = pytest.mark.parametrize("image", [smooth(), detailed()], ids=["smooth", "detailed"])


def picture_of(planes: tuple[Tensor, ...], format: YuvFormat) -> av.VideoFrame:
    """PyAV's picture of these planes, which says where its chroma lies."""
    picture = av.VideoFrame(WIDTH, HEIGHT, format.pix_fmt)
    for plane, samples in zip(picture.planes, planes, strict=True):
        values = samples.numpy().reshape(samples.shape[0], -1)
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    picture.pts = 0
    return placed(picture, left=format.left)


def placed(picture: av.VideoFrame, *, left: bool) -> av.VideoFrame:
    graph = Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1), name="in"
    )
    place = graph.add("setparams", f"chroma_location={'left' if left else 'center'}")
    graph.link_nodes(source, place, graph.add("buffersink"))
    graph.configure()
    graph.vpush(picture)
    return graph.vpull()


def by_swscale(planes: tuple[Tensor, ...], format: YuvFormat) -> NDArray[Any]:
    rgb = VideoReformatter().reformat(
        picture_of(planes, format),
        format="rgb24" if format.layout.bits == 8 else "rgb48le",
        interpolation=EXACT,
        src_colorspace=format.matrix,
        src_color_range=2 if format.full else 1,
        dst_color_range=2,
    )
    return rgb.to_ndarray()


def to_swscale(pixels: NDArray[Any], format: YuvFormat) -> list[NDArray[Any]]:
    rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.dtype == np.uint8 else "rgb48le")
    rgb.pts = 0
    yuv = VideoReformatter().reformat(
        placed(rgb, left=format.left),
        format=format.pix_fmt,
        interpolation=EXACT,
        src_color_range=2,
        dst_colorspace=format.matrix,
        dst_color_range=2 if format.full else 1,
    )
    found = []
    for plane, shape in zip(yuv.planes, format.layout.shapes(HEIGHT, WIDTH), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8 if format.layout.bits == 8 else np.uint16)
        found.append(rows.reshape(plane.height, -1)[:, : int(np.prod(shape[1:]))].reshape(shape))
    return found


def levels(difference: NDArray[Any], format: YuvFormat) -> float:
    """The mean error of samples in steps of 1/255."""
    return float(np.abs(difference).mean() / 2 ** (format.layout.bits - 8 + format.layout.shift))


@PICTURES
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_planes_become_the_colours_that_swscale_makes_of_them(pix_fmt: str, full: bool, image: Tensor) -> None:
    for matrix in (1, 6, 9):
        for left in (True, False):
            format = YuvFormat(pix_fmt, matrix, full=full or pix_fmt.startswith("yuvj"), left=left)
            planes = rgb_to_yuv(image, format)
            found = yuv_to_rgb(planes, format)
            assert found.shape == (1, 3, HEIGHT, WIDTH)
            deep = format.layout.bits > 8
            pixels = rgb_pixels(found, torch.uint16 if deep else torch.uint8).numpy().astype(float)
            error = np.abs(pixels - by_swscale(planes, format)) / (257 if deep else 1)
            # At ten bits it is swscale that is 0.46/255 off the equations.
            assert error.mean() < (0.6 if deep else 0.05)
            assert error.max() <= 2


@PICTURES
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_colours_become_the_planes_that_swscale_makes_of_them(pix_fmt: str, full: bool, image: Tensor) -> None:
    for matrix in (1, 6, 9):
        for left in (True, False):
            format = YuvFormat(pix_fmt, matrix, full=full or pix_fmt.startswith("yuvj"), left=left)
            deep = format.layout.bits > 8
            pixels = rgb_pixels(image, torch.uint16 if deep else torch.uint8)
            exact = pixels.permute(2, 0, 1)[None].float() / (65535 if deep else 255)
            found, wanted = rgb_to_yuv(exact, format), to_swscale(pixels.numpy(), format)
            assert [tuple(plane.shape) for plane in found] == [plane.shape for plane in wanted]
            errors = [levels(a.numpy().astype(float) - b, format) for a, b in zip(found, wanted, strict=True)]
            # Towards full range swscale cuts off instead of rounding.
            assert max(errors) < (0.7 if format.full or deep else 0.05), (matrix, left, errors)


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
def test_4_4_4_follows_the_equations(matrix: int, bits: int, full: bool) -> None:
    format = YuvFormat("yuv444p" if bits == 8 else "yuv444p10le", matrix, full=full)
    red, green, blue = smooth()[0].double().numpy()
    kr, kb = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    luma = kr * red + (1 - kr - kb) * green + kb * blue  # H.273, equations 38 to 40, then 20 to 31
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    top, scale = 2**bits - 1, 2 ** (bits - 8)
    if full:
        wanted = [top * luma, top * cb + 2 ** (bits - 1), top * cr + 2 ** (bits - 1)]
    else:
        wanted = [scale * (219 * luma + 16), scale * (224 * cb + 128), scale * (224 * cr + 128)]
    planes = rgb_to_yuv(smooth(), format)
    for plane, want in zip(planes, wanted, strict=True):
        assert np.abs(plane.numpy().astype(float) - np.rint(np.clip(want, 0, top))).max() <= 1  # a tie, rounded
        assert (plane.numpy() != np.rint(np.clip(want, 0, top))).mean() < 0.002
    error = (yuv_to_rgb(planes, format) - smooth()).abs().max()
    assert error < 1.9 / (219 * scale)  # half a step of luma and, times 1.86, of chroma


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("left", [True, False])
def test_planes_survive_the_way_there_and_back(pix_fmt: str, left: bool) -> None:
    format = YuvFormat(pix_fmt, 1, full=pix_fmt.startswith("yuvj"), left=left)
    # Pictures of 8 bits and no extremes, as cameras have them: R'G'B' outside 0..1 has no way back.
    before = rgb_to_yuv(0.1 + 0.8 * smooth(), format)
    after = rgb_to_yuv(yuv_to_rgb(before, format), format)
    for a, b in zip(before, after, strict=True):
        assert levels(a.numpy().astype(float) - b.numpy(), format) < 0.05


@pytest.mark.parametrize(("blue", "red"), [(128, 128), (90, 170), (200, 60)])
def test_opencv_agrees_on_nv12(blue: int, red: int) -> None:
    format = YuvFormat("nv12", 6)  # BT.601 limited is what OpenCV knows
    luma = rgb_to_yuv(detailed(), format)[0]
    # One colour all over: OpenCV repeats chroma instead of interpolating it.
    chroma = torch.tensor([blue, red], dtype=torch.uint8).expand(HEIGHT // 2, WIDTH // 2, 2)
    stacked = np.concatenate((luma.numpy(), chroma.numpy().reshape(HEIGHT // 2, WIDTH)))
    wanted = cv2.cvtColor(stacked, cv2.COLOR_YUV2RGB_NV12).astype(float)
    found = rgb_pixels(yuv_to_rgb((luma, chroma), format), torch.uint8).numpy()
    assert np.abs(found - wanted).max() <= 1


def test_p010_keeps_its_lower_bits_empty() -> None:
    for plane in rgb_to_yuv(detailed(), YuvFormat("p010le", 1)):
        assert plane.dtype == torch.uint16
        assert int((plane.int() & 63).max()) == 0
        assert 64 * 4 <= int(plane.int().min()) < int(plane.int().max()) < 64 * 1020


def test_what_no_r_g_b_has_is_clamped() -> None:
    format = YuvFormat("yuv444p", 1)
    ends = [torch.tensor([[0, 255]], dtype=torch.uint8)] * 3
    image = yuv_to_rgb(ends, format)
    assert float(image.min()) == 0.0
    assert float(image.max()) == 1.0


def test_a_frame_in_planes_becomes_one_in_r_g_b() -> None:
    format = YuvFormat("p010le", 9)
    frame = YuvFrame(rgb_to_yuv(smooth(), format), format, pts=7, time_base=Fraction(1, 25), duration=2)
    found = rgb_frame(frame)
    assert found.pixels.dtype == torch.uint16
    assert (found.pts, found.time_base, found.duration) == (7, Fraction(1, 25), 2)
    assert (found.width, found.height) == (frame.width, frame.height) == (WIDTH, HEIGHT)
    assert (found.pixels.float() / 65535 - smooth()[0].permute(1, 2, 0)).abs().mean() < 0.01
    assert rgb_frame(found) is found


def test_what_cannot_be_converted_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="yuv411p"):
        YuvFormat("yuv411p", 1)
    with pytest.raises(ValueError, match="got 8"):
        rgb_to_yuv(smooth(), YuvFormat("nv12", 8))
    with pytest.raises(ValueError, match="no size of 95x64"):
        rgb_to_yuv(smooth()[..., :95], YuvFormat("nv12", 1))
    luma, chroma = rgb_to_yuv(smooth(), YuvFormat("nv12", 1))
    for planes, said in (((luma,), "other shapes"), ((luma[:, :95], chroma), "other shapes")):
        with pytest.raises(ValueError, match=said):
            YuvFrame(planes, YuvFormat("nv12", 1), 0, Fraction(1))
    with pytest.raises(ValueError, match="uint16"):
        YuvFrame((luma, chroma), YuvFormat("p010le", 1), 0, Fraction(1))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_a_gpu_converts_as_the_cpu_does(pix_fmt: str) -> None:
    format = YuvFormat(pix_fmt, 1, full=pix_fmt.startswith("yuvj"))
    planes = rgb_to_yuv(detailed(), format)
    there = yuv_to_rgb([plane.cuda() for plane in planes], format)
    assert (there.cpu() - yuv_to_rgb(planes, format)).abs().max() < 1e-5
    back = rgb_to_yuv(detailed().cuda(), format)
    for a, b in zip(back, planes, strict=True):
        assert int((a.cpu().int() - b.int()).abs().max()) <= 2**format.layout.shift
