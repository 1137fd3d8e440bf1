"""Frames to the device and back, in planes and in R'G'B': a session sees the same picture either way."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from streamderain.frame import Frame
from streamderain.preprocess.colour import rgb_pixels, yuv_to_rgb
from streamderain.runtime.transfer import _packed, download, in_rows, upload
from streamderain.session import Derainer
from streamderain.yuv import LAYOUTS, Delivery, YuvFormat, YuvFrame

_BASE = Fraction(1, 25)
CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=pytest.mark.needs_cuda)


def frame_in(pix_fmt: str, *, height: int = 48, width: int = 64, seed: int = 0) -> YuvFrame:
    """Noise within what R'G'B' can show, its rows apart as a decoder's are."""
    generator, layout = torch.Generator().manual_seed(seed), LAYOUTS[pix_fmt]
    planes = []
    for shape in layout.shapes(height, width):
        wide = (shape[0], shape[1] + 32, *shape[2:])
        level = torch.randint(112, 144, wide, generator=generator) * 2 ** (layout.bits - 8 + layout.shift)
        planes.append(level.to(layout.dtype)[:, : shape[1]])
    return YuvFrame(tuple(planes), YuvFormat(pix_fmt, 1), seed, _BASE, 1)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("pix_fmt", ["nv12", "p010le", "yuv420p", "yuv422p10le"])
def test_planes_arrive_as_they_were_sent(pix_fmt: str, device: str) -> None:
    frame = frame_in(pix_fmt)
    image = upload(frame, torch.device(device))
    assert (image.device.type, image.dtype, image.shape) == (device, torch.float32, (1, 3, 48, 64))
    assert (image.cpu() - yuv_to_rgb(frame.planes, frame.format)).abs().max() < 1e-5


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("pix_fmt", ["nv12", "p010le", "yuv420p", "yuv422p10le"])
def test_planes_come_back_where_they_are_wanted(pix_fmt: str, device: str) -> None:
    frame = frame_in("yuv444p")
    clean = upload(frame, torch.device(device))
    found = download(clean, frame, Delivery(YuvFormat(pix_fmt, 1), CPU))
    assert isinstance(found, YuvFrame)
    assert (found.device, found.format.pix_fmt, found.pts, found.time_base, found.duration) == (
        CPU, pix_fmt, frame.pts, frame.time_base, frame.duration,
    )  # fmt: skip
    again = yuv_to_rgb(found.planes, found.format)
    assert (again.mean((2, 3)) - clean.cpu().mean((2, 3))).abs().max() < 0.01
    pixels = download(clean, frame)
    assert isinstance(pixels, Frame)
    assert torch.equal(pixels.pixels, rgb_pixels(clean, torch.uint8).cpu())


@pytest.mark.needs_cuda
def test_pixels_go_up_and_down_through_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what came down stays, however many come after it; whatever the program's default device."""
    pinned, empty = list[int](), torch.empty

    def watched(size: int, *, dtype: torch.dtype, device: str, pin_memory: bool = False) -> torch.Tensor:
        pinned.append(size)
        return empty(size, dtype=dtype, device=device, pin_memory=pin_memory)

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (6, 48, 64, 3), generator=generator).to(torch.uint8)
    came = []
    for index, picture in enumerate(pixels):
        frame = Frame(picture, index, _BASE, 1)
        with monkeypatch.context() as patch, torch.device("cuda"):
            patch.setattr(torch, "empty", watched)
            clean = upload(frame, torch.device("cuda"))
            out = download(clean, frame)
        assert isinstance(out, Frame)
        assert out.pixels.is_pinned()
        came.append(out.pixels)
    assert torch.equal(torch.stack(came), pixels)
    assert pinned == [48 * 64 * 3] * 12


def test_planes_are_packed_one_right_after_the_other() -> None:
    frame = frame_in("p010le")
    memory = torch.zeros(sum(2 * plane.numel() for plane in frame.planes), dtype=torch.uint8)
    for part, plane in zip(_packed(frame.planes, memory), frame.planes, strict=True):
        assert torch.equal(part.int(), plane.int())
    luma, chroma = (plane.contiguous().numpy().tobytes() for plane in frame.planes)
    assert memory.numpy().tobytes() == luma + chroma


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("pix_fmt", ["nv12", "p010le"])
@pytest.mark.parametrize("width", [64, 854, 1280])
def test_rows_for_nvenc_begin_at_multiples_of_what_it_can_read(pix_fmt: str, width: int, device: str) -> None:
    frame = frame_in(pix_fmt, height=16, width=width)
    luma, chroma = in_rows(tuple(plane.to(device) for plane in frame.planes), torch.device(device))
    for got, wanted in zip((luma, chroma), frame.planes, strict=True):
        assert torch.equal(got.cpu().int(), wanted.int())
    pitch = luma.stride(0) * luma.element_size()
    assert pitch % 256 == 0
    assert 0 <= pitch - width * luma.element_size() < 256
    assert chroma.data_ptr() - luma.data_ptr() == 16 * pitch
    assert chroma.stride() == (luma.stride(0), 2, 1)


@pytest.mark.parametrize("pix_fmt", ["nv12", "yuv420p10le"])
def test_a_session_gives_planes_for_planes_and_pixels_for_either(pix_fmt: str) -> None:
    frame = frame_in(pix_fmt)
    session = Derainer("identity", device="cpu").session(48, 64)
    delivery = Delivery(frame.format, CPU)
    out = session.step(session.prepare(frame), delivery=delivery)
    assert isinstance(out, YuvFrame)
    for a, b in zip(out.planes, frame.planes, strict=True):
        unit = 2 ** (frame.format.layout.bits - 8)
        # Chroma is noise here, which no way through R'G'B' keeps; luma is.
        assert (a.float() - b.float()).abs().mean() < (0.05 if a.ndim == 2 and a.shape[0] == 48 else 8) * unit
    pixels = session.step(frame)
    assert isinstance(pixels, Frame)
    assert pixels.pixels.dtype == (torch.uint8 if pix_fmt == "nv12" else torch.uint16)
    assert isinstance(session.step(pixels, delivery=Delivery(YuvFormat("nv12", 1), CPU)), YuvFrame)
    with pytest.raises(ValueError, match="64x48 frames, got 32x48"):
        session.step(frame_in(pix_fmt, width=32))


def test_the_network_sees_what_it_would_see_of_pixels() -> None:
    """Two sessions, one fed planes and one their R'G'B' of 8 bits: their results differ by rounding alone."""
    derainer = Derainer("classic", device="cpu")
    planes, pixels = derainer.session(48, 64), derainer.session(48, 64)
    for seed in range(4):
        frame = frame_in("yuv444p", seed=seed)
        rgb = Frame(rgb_pixels(yuv_to_rgb(frame.planes, frame.format), torch.uint8), seed, _BASE, 1)
        difference = planes.step(frame).pixels.int() - pixels.step(rgb).pixels.int()
        assert difference.abs().float().mean() < 0.5
