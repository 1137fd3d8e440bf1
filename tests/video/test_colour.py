"""Colour: decoded values and a round trip at CRF 0, against the equations of ITU-T H.273 written out in numpy."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from streamderain.errors import UnsupportedInputError
from streamderain.frame import Colour, Frame, VideoInfo
from streamderain.video import colour_names, open_source
from streamderain.video.colour import YuvWriter

from .clips import SIZE, Array, first_frame, scene, write_clip
from .copying import copy, copy_open

# KR, KB (H.273 table 4) and the code point of the matrix.
MATRICES = {"601": (0.299, 0.114, 6), "709": (0.2126, 0.0722, 1), "2020": (0.2627, 0.0593, 9)}
TAGS = {"601": (6, 6), "709": (1, 1), "2020": (9, 14)}  # primaries and transfer that go with it


def to_yuv(rgb: Array, matrix: str, bits: int, *, full: bool) -> list[Array]:
    """Equations 20 to 40 of H.273 for R'G'B' in 0..1."""
    kr, kb, _ = MATRICES[matrix]
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    scale, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        planes = [top * luma, top * cb + 128 * scale, top * cr + 128 * scale]
    else:
        planes = [219 * scale * luma + 16 * scale, 224 * scale * cb + 128 * scale, 224 * scale * cr + 128 * scale]
    return [np.rint(np.clip(p, 0, top)).astype(np.uint8 if bits == 8 else np.uint16) for p in planes]


def to_rgb(planes: list[Array], matrix: str, bits: int, *, full: bool) -> Array:
    """Their inverse: R'G'B' in 0..1 from three planes of one size."""
    kr, kb, _ = MATRICES[matrix]
    scale, top = 2 ** (bits - 8), 2**bits - 1
    y, cb, cr = (p.astype(np.float64) for p in planes)
    if full:
        y, cb, cr = y / top, (cb - 128 * scale) / top, (cr - 128 * scale) / top
    else:
        y, cb, cr = (y / scale - 16) / 219, (cb / scale - 128) / 224, (cr / scale - 128) / 224
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return np.clip(np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], -1), 0, 1)


def planes_of(frame: av.VideoFrame) -> list[Array]:
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return [
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].astype(kind) for plane in frame.planes
    ]


def write_tagged(path: Path, matrix: str, bits: int, *, full: bool, chroma: str = "444", tagged: bool = True) -> None:
    planes = []
    for index in range(3):
        y, cb, cr = to_yuv(scene(index, deep=True) / 65535, matrix, bits, full=full)
        if chroma == "420":
            cb, cr = (np.rint(c.reshape(24, 2, 32, 2).mean((1, 3))).astype(c.dtype) for c in (cb, cr))
        planes.append([y, cb, cr])
    primaries, transfer = TAGS[matrix]
    tags = {
        "colorspace": MATRICES[matrix][2],
        "color_range": 2 if full else 1,
        "color_primaries": primaries,
        "color_trc": transfer,
    }
    write_clip(
        path,
        count=3,
        pix_fmt=f"yuv{chroma}p" + ("10le" if bits == 10 else ""),
        options={"qp": "0"},
        tags=tags if tagged else None,
        planes=planes,
    )


every_kind = pytest.mark.parametrize(
    ("matrix", "bits", "full"),
    [(m, b, f) for m in MATRICES for b in (8, 10) for f in (False, True)],
    ids=[f"{m}-{b}bit-{'full' if f else 'limited'}" for m in MATRICES for b in (8, 10) for f in (False, True)],
)


@every_kind
def test_decoded_rgb_follows_the_tags(tmp_path: Path, matrix: str, bits: int, full: bool) -> None:
    write_tagged(tmp_path / "in.mp4", matrix, bits, full=full)
    with open_source(str(tmp_path / "in.mp4")) as source:
        frames = list(source)
    for index, frame in enumerate(frames):
        top = 255 if bits == 8 else 65535
        got = frame.pixels.numpy().astype(np.float64) / top
        want = to_rgb(to_yuv(scene(index, deep=True) / 65535, matrix, bits, full=full), matrix, bits, full=full)
        assert np.abs(got - want).mean() * 255 < 0.7
    assert source.info.colour == Colour(*TAGS[matrix], MATRICES[matrix][2], 2 if full else 1, bits)


@every_kind
@pytest.mark.parametrize("chroma", ["444", "420"])
def test_round_trip_at_crf_0(tmp_path: Path, matrix: str, bits: int, full: bool, chroma: str) -> None:
    write_tagged(tmp_path / "in.mp4", matrix, bits, full=full, chroma=chroma)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", crf=None, options={"qp": "0"})
    before, after = first_frame(tmp_path / "in.mp4"), first_frame(tmp_path / "out.mp4")
    assert after.format.name.removeprefix("yuvj") == before.format.name.removeprefix("yuvj")
    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
        assert getattr(after, tag) == getattr(before, tag), tag
    top = 2 ** (bits - 8)
    errors = [
        np.abs(a.astype(float) - b).mean() / top for a, b in zip(planes_of(before), planes_of(after), strict=True)
    ]
    assert max(errors) <= 1.0, errors
    if chroma == "444":
        rgb = [to_rgb(planes_of(f), matrix, bits, full=full) for f in (before, after)]
        assert np.abs(rgb[0] - rgb[1]).mean() * 255 <= 1.0


def test_samples_of_full_range_are_rounded() -> None:
    """swscale truncates chroma there: half a step of green."""
    info = VideoInfo(*SIZE, Fraction(1, 25), colour=Colour(1, 1, 1, 2))
    made = YuvWriter(info, pix_fmt="yuv444p").picture(Frame(torch.from_numpy(scene(0)), 0, Fraction(1, 25)))
    for plane, exact in zip(planes_of(made), to_yuv(scene(0) / 255, "709", 8, full=True), strict=True):
        assert abs(plane.mean() - exact.mean()) < 0.2


def test_untagged_stays_untagged_and_unshifted(tmp_path: Path) -> None:
    write_tagged(tmp_path / "in.mp4", "601", 8, full=False, tagged=False)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", options={"qp": "0"}, crf=None)
    before, after = first_frame(tmp_path / "in.mp4"), first_frame(tmp_path / "out.mp4")
    assert (after.colorspace, after.color_range, after.color_primaries, after.color_trc) == (2, 0, 2, 2)
    assert np.abs(planes_of(before)[0].astype(float) - planes_of(after)[0]).mean() <= 0.5


@pytest.mark.parametrize(
    ("codec", "suffix", "matrix", "full", "note"),
    [
        ("prores", "mov", "709", False, None),
        ("prores_ks", "mov", "709", True, "prores_ks in mov is read as limited range: written so, instead of full"),
        ("mpeg2video", "mxf", "709", True, "mpeg2video in mxf is read as limited range: written so, instead of full"),
        (None, "mpg", "709", True, "mpeg2video in vob is read as limited range: written so, instead of full"),
        ("huffyuv", "avi", "601", True, "huffyuv in avi is read as limited range: written so, instead of full"),
        ("ffv1", "mkv", "709", True, None),
        ("libvpx-vp9", "webm", "709", True, None),
        ("mjpeg", "mov", "709", False, "mjpeg is always read as BT.601: written so, instead of BT.709"),
        ("mjpeg", "mov", "601", False, None),
    ],
)
def test_what_readers_take_for_granted_is_what_is_written(
    tmp_path: Path, codec: str | None, suffix: str, matrix: str, full: bool, note: str | None
) -> None:
    write_tagged(tmp_path / "in.mkv", matrix, 8, full=full)
    with open_source(str(tmp_path / "in.mkv")) as source:
        want = next(iter(source)).pixels.numpy().astype(float)
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / f"out.{suffix}", codec=codec)
    assert [said for said in sink.notes if "written so" in said] == ([note] if note else [])
    with open_source(str(tmp_path / f"out.{suffix}")) as source:
        seen = next(iter(source)).pixels.numpy().astype(float) / (257 if source.info.colour.bit_depth > 8 else 1)
    assert np.abs(seen - want).mean() < 2.5


@pytest.mark.parametrize("codec", ["prores", "prores_aw", "prores_ks"])
def test_prores_says_bt601_by_a_number_that_it_has(tmp_path: Path, codec: str) -> None:
    tags = {"color_primaries": 5, "color_trc": 6, "colorspace": 5, "color_range": 1}
    write_clip(tmp_path / "in.mp4", count=3, tags=tags)
    _, sink = copy_open(tmp_path / "in.mp4", tmp_path / "out.mov", codec=codec)
    assert first_frame(tmp_path / "out.mov").colorspace in (5, 6)
    assert sink.notes == ()


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path: Path, transfer: int, name: str) -> None:
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
    planes = [to_yuv(scene(0, deep=True) / 65535, "2020", 10, full=False)] * 3
    write_clip(tmp_path / "in.mp4", count=3, pix_fmt="yuv444p10le", tags=tags, planes=planes)
    with pytest.raises(UnsupportedInputError, match=f"HDR.*{name}"):
        open_source(str(tmp_path / "in.mp4"))


def test_a_matrix_without_an_inverse_here_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=3, pix_fmt="yuv444p", tags={"colorspace": 8, "color_range": 2})
    with pytest.raises(UnsupportedInputError, match="matrix 8"):
        open_source(str(tmp_path / "in.mp4"))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "written"),
    [
        ("gif", "rgb8", "gif", "yuv420p"),
        ("libx264rgb", "rgb24", "mkv", "yuv444p"),
        ("ffv1", "gbrp10le", "mkv", "yuv444p10le"),
        ("libx264", "gray", "mkv", "yuvj420p"),
        ("rawvideo", "gray", "avi", "yuv420p"),
    ],
)
def test_rgb_and_grey_sources_come_out_right(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str, written: str
) -> None:
    options = {"qp": "0"} if codec.startswith("libx264") else {}
    planes = None
    if pix_fmt == "gray":
        planes = [[scene(index)[..., 1]] for index in range(3)]
    if pix_fmt == "gbrp10le":
        planes = [[scene(index, deep=True)[..., c] >> 6 for c in (1, 2, 0)] for index in range(3)]
    tags = {"color_range": 2} if (codec, pix_fmt) == ("libx264", "gray") else None
    write_clip(
        tmp_path / f"in.{suffix}", count=3, codec=codec, pix_fmt=pix_fmt, options=options, planes=planes, tags=tags,
        time_base=Fraction(1, 100 if codec == "gif" else 1000),
    )  # fmt: skip
    with open_source(str(tmp_path / f"in.{suffix}")) as source:
        seen = next(iter(source)).pixels.numpy()
    seen = seen.astype(float) / (257 if seen.dtype == np.uint16 else 1)
    want = scene(0).astype(float) if pix_fmt != "gray" else np.repeat(scene(0)[..., 1:2], 3, -1).astype(float)
    # A GIF has 256 colours and makes the others by dithering: blocks of 8x8 are compared.
    assert np.abs(blocks(seen) - blocks(want)).mean() < (10 if codec == "gif" else 1.0)
    copy(tmp_path / f"in.{suffix}", tmp_path / "out.mp4", crf=0)
    out = first_frame(tmp_path / "out.mp4")
    # R'G'B' is written as BT.709 limited and says so; grey has no matrix to speak of.
    assert (out.colorspace, out.color_range) == ((1, 1) if pix_fmt != "gray" else (2, 2 if tags else 0))
    assert out.format.name == written
    shown = out.reformat(format="rgb24", src_colorspace=1, dst_color_range=2).to_ndarray().astype(float)
    assert np.abs(blocks(shown) - blocks(seen)).mean() < 2.5


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_grey_of_limited_range_is_spread(tmp_path: Path, pix_fmt: str) -> None:
    """swscale takes all grey for full range."""
    ramp = np.tile(np.linspace(16, 235, 64).round(), (48, 1)).astype(np.uint8)
    planes = [[ramp if pix_fmt == "gray" else ramp.astype(np.uint16) << 2]] * 2
    tags = {"color_range": 1}
    write_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt=pix_fmt, count=2, planes=planes, tags=tags)
    with open_source(str(tmp_path / "in.mkv")) as source:
        shown = next(iter(source)).pixels[..., 0].numpy().astype(float)
    want = (ramp - 16.0) / 219
    assert np.abs(shown / (255 if pix_fmt == "gray" else 65535) - want).max() < 0.003


def test_tags_have_the_same_names_wherever_they_are_told(tmp_path: Path) -> None:
    tags = {"color_primaries": 7, "color_trc": 7, "colorspace": 7, "color_range": 1}
    write_clip(tmp_path / "in.mp4", count=3, tags=tags)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert "SMPTE 240M limited 8-bit" in source.description
        told = "primaries SMPTE 240M, transfer SMPTE 240M, matrix SMPTE 240M, range limited"
        assert colour_names.in_words(source.info.colour) == told


def blocks(rgb: Array) -> Array:
    return np.asarray(rgb.reshape(6, 8, 8, 8, 3).mean((1, 3)))


def test_transparency_is_dropped_aloud(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mov", codec="qtrle", pix_fmt="argb", count=3)
    with open_source(str(tmp_path / "in.mov")) as source:
        assert any("transparency" in note for note in source.notes)
        assert next(iter(source)).pixels.shape == (SIZE[1], SIZE[0], 3)


def test_only_gifs_that_are_transparent_lose_transparency(tmp_path: Path) -> None:
    for name, key in (("opaque.gif", None), ("clear.gif", 0)):
        steps = [Image.fromarray(np.full((48, 64), shade, np.uint8)) for shade in (0, 90, 180)]
        steps[0].save(tmp_path / name, save_all=True, append_images=steps[1:], transparency=key)
        with open_source(tmp_path / name) as source:
            assert any("transparency" in note for note in source.notes) == (key is not None), name


def test_the_transparency_of_vp9_is_dropped_aloud(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.webm", codec="libvpx-vp9", pix_fmt="yuva420p", count=3, time_base=Fraction(1, 25))
    write_clip(tmp_path / "opaque.webm", codec="libvpx-vp9", count=3, time_base=Fraction(1, 25))
    with av.open(str(tmp_path / "in.webm")) as media, av.open(str(tmp_path / "tagged.webm"), "w") as out:
        video = out.add_stream_from_template(media.streams.video[0])
        video.metadata["ALPHA_MODE"] = "1"  # as FFmpeg's own command writes it
        for packet in media.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
    for name in ("in.webm", "tagged.webm"):
        source, _ = copy_open(tmp_path / name, tmp_path / "out.webm", overwrite=True)
        assert any("transparency" in note for note in source.notes), name
        with av.open(str(tmp_path / "out.webm")) as media:
            assert "alpha_mode" not in {key.lower() for key in media.streams.video[0].metadata}, name
    with open_source(str(tmp_path / "opaque.webm")) as source:
        assert source.notes == ()
