"""Single pictures and image sequences, compared with OpenCV."""

from __future__ import annotations

import gc
import io
import os
import socket
import struct
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError, UnsupportedInputError
from streamderain.frame import Colour, Frame, VideoInfo
from streamderain.video import icc, list_stills, open_sink, open_source, read_still, write_still
from streamderain.video.image_parts import parts_of, with_part

from .clips import COUNT, Array, scene, times, write_clip
from .copying import copy, copy_open


def seen_by_opencv(path: Path, *, flags: int = cv2.IMREAD_COLOR) -> Array:
    bgr = cv2.imread(str(path), flags)
    assert bgr is not None
    return np.asarray(bgr[..., ::-1])


def frame_of(rgb: Array) -> Frame:
    return Frame(torch.from_numpy(rgb.copy()), 0, Fraction(1, 25))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".tif", ".ppm", ".pnm", ".webp"])
def test_lossless_formats_are_read_and_written_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    write_still(path, frame_of(scene(3)))
    assert (seen_by_opencv(path) == scene(3)).all()
    assert (read_still(path).pixels.numpy() == scene(3)).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_jpeg_is_as_good_as_its_finest_quantiser(tmp_path: Path, size: tuple[int, int]) -> None:
    write_still(tmp_path / "picture.jpg", frame_of(scene(3, size)))
    assert np.abs(seen_by_opencv(tmp_path / "picture.jpg").astype(int) - scene(3, size)).mean() < 1.0
    assert np.abs(read_still(tmp_path / "picture.jpg").pixels.numpy().astype(int) - scene(3, size)).mean() < 1.0


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif", ".ppm", ".pnm"])
def test_16_bits_stay_16_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), scene(2, deep=True)[..., ::-1])
    frame = read_still(path)
    assert frame.pixels.dtype == torch.uint16
    assert (frame.pixels.numpy() == scene(2, deep=True)).all()
    write_still(tmp_path / f"out{suffix}", frame)
    assert (seen_by_opencv(tmp_path / f"out{suffix}", flags=cv2.IMREAD_UNCHANGED) == scene(2, deep=True)).all()


@pytest.mark.parametrize("deep", [False, True])
def test_a_pgm_stays_grey_and_what_was_not_is_noted(tmp_path: Path, deep: bool) -> None:
    grey = scene(2, deep=deep)[..., 0]
    assert cv2.imwrite(str(tmp_path / "in.pgm"), grey)
    notes: list[str] = []
    write_still(tmp_path / "out.pgm", read_still(tmp_path / "in.pgm"), like=tmp_path / "in.pgm", note=notes.append)
    assert (tmp_path / "out.pgm").read_bytes()[:2] == b"P5"
    back = cv2.imread(str(tmp_path / "out.pgm"), cv2.IMREAD_UNCHANGED)
    assert back is not None
    assert (back == grey).all()
    assert notes == []
    write_still(tmp_path / "colour.pgm", frame_of(scene(2)), note=notes.append)
    assert notes == ["colour.pgm: pgm is grey: the colours are left out"]
    luma = cv2.cvtColor(scene(2), cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(seen_by_opencv(tmp_path / "colour.pgm")[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".BMP", ".webp"])
def test_16_bits_that_are_rounded_are_noted(tmp_path: Path, suffix: str) -> None:
    notes: list[str] = []
    for deep in (False, True):
        write_still(tmp_path / f"{deep}{suffix}", frame_of(scene(2, deep=deep)), note=notes.append)
    said = f"{suffix[1:].lower()} takes 8 bits at most: deeper samples are rounded"
    assert notes == [f"True{suffix}: {said}"]
    info = VideoInfo(64, 48, Fraction(1, 25))
    for bits, expected in ((8, ()), (10, (said,))):
        sink = open_sink(tmp_path / f"o%d{suffix}", replace(info, colour=Colour(bit_depth=bits)))
        assert sink.notes == expected
        sink.abort()


def exif(jpeg: bytes, orientation: int, order: str) -> bytes:
    """``jpeg`` with an APP1 segment that holds nothing but tag 0x0112."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    tiff = head + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_are_seen_as_opencv_sees_them(tmp_path: Path, orientation: int, order: str) -> None:
    ok, data = cv2.imencode(".jpg", scene(3)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert ok
    path = tmp_path / "turned.jpg"
    path.write_bytes(exif(data.tobytes(), orientation, order))
    want = seen_by_opencv(path).astype(int)
    got = read_still(path)
    assert got.pixels.shape == want.shape
    assert np.abs(got.pixels.numpy().astype(int) - want).mean() < 1.5
    write_still(tmp_path / "out.jpg", got, like=path)
    assert np.abs(seen_by_opencv(tmp_path / "out.jpg").astype(int) - want).mean() < 1.5


def test_grey_and_transparent_pictures_become_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), scene(1)[..., 0])
    assert (read_still(tmp_path / "grey.png").pixels.numpy() == scene(1)[..., :1]).all()
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([scene(1)[..., ::-1], np.full((48, 64), 128, np.uint8)]))
    assert (read_still(tmp_path / "clear.png").pixels.numpy() == scene(1)).all()


def with_profile(path: Path, profile: bytes) -> None:
    Image.fromarray(scene(1)).save(path, icc_profile=profile)


def profile_in(path: Path) -> object:
    with Image.open(path) as picture:
        return picture.info.get("icc_profile")


def profile(space: bytes, size: int) -> bytes:
    """What a decoder looks at of an ICC profile: the size, the colour space and the signature."""
    head = struct.pack(">I", size) + bytes(8) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    return head + np.random.default_rng(0).bytes(size - len(head))


@pytest.mark.parametrize("size", [600, 150_000])  # a JPEG segment holds less than 65536
@pytest.mark.parametrize("source_suffix", [".png", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_colour_profile_is_carried_over(tmp_path: Path, source_suffix: str, suffix: str, size: int) -> None:
    source, out = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    with_profile(source, profile(b"RGB ", size))
    notes: list[str] = []
    write_still(out, read_still(source, note=notes.append), like=source, note=notes.append)
    assert profile_in(out) == profile(b"RGB ", size)
    assert np.abs(seen_by_opencv(out).astype(int) - seen_by_opencv(source)).mean() < 1.0
    assert notes == []


def test_a_sequence_with_colour_profiles_does_not_end_the_process(tmp_path: Path) -> None:
    for number in (1, 2):
        with_profile(tmp_path / f"f{number}.png", profile(b"RGB ", 600))
    for _ in range(5):
        with open_source(str(tmp_path / "f%d.png")) as source:
            assert len(list(source)) == 2
        del source
        gc.collect()


@pytest.mark.parametrize(
    ("space", "suffix", "says"), [(b"GRAY", ".png", "for GRAY"), (b"RGB ", ".webp", "png and jpg")]
)
def test_a_colour_profile_that_cannot_be_carried_over_is_noted(
    tmp_path: Path, space: bytes, suffix: str, says: str
) -> None:
    source, out = tmp_path / "in.png", tmp_path / f"out{suffix}"
    with_profile(source, profile(space, 600))
    notes: list[str] = []
    write_still(out, read_still(source), like=source, note=notes.append)
    assert profile_in(out) is None
    assert len(notes) == 1
    assert says in notes[0]


@pytest.mark.parametrize(("kind", "says"), [(b"iCCP", ["longer than 16 MiB"]), (b"zTXt", [])])
def test_a_small_png_cannot_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes, says: list[str]
) -> None:
    bomb = zlib.compress(profile(b"RGB ", 600) + bytes(20 << 20), 1)
    write_still(tmp_path / "plain.png", frame_of(scene(1)))
    data = with_part((tmp_path / "plain.png").read_bytes(), kind, b"x\0\0" + bomb)
    (tmp_path / "in.png").write_bytes(data)
    decoded, notes, packet = list[bytes](), list[str](), av.Packet
    monkeypatch.setattr(av, "Packet", lambda data: (decoded.append(data), packet(data))[1])
    write_still(tmp_path / "out.png", read_still(tmp_path / "in.png"), like=tmp_path / "in.png", note=notes.append)
    assert decoded == [(tmp_path / "plain.png").read_bytes()]  # FFmpeg would inflate all of it
    assert len(icc.profile_in(data) or b"") == ((16 << 20) + 1 if says else 0)
    assert [note.partition("it is ")[2] for note in notes] == says
    assert (seen_by_opencv(tmp_path / "out.png") == scene(1)).all()


def test_a_colour_profile_of_more_pieces_than_a_jpeg_can_count_is_left_out(tmp_path: Path) -> None:
    most = 255 * (65535 - 16)
    write_still(tmp_path / "plain.jpg", frame_of(scene(1)))
    plain = (tmp_path / "plain.jpg").read_bytes()
    assert icc.profile_in(icc.with_profile(plain, profile(b"RGB ", most))) == profile(b"RGB ", most)
    with pytest.raises(ValueError, match="no more than 16,707,345 bytes"):
        icc.with_profile(plain, profile(b"RGB ", most + 1))


def test_a_colour_profile_that_is_cut_off_is_none(tmp_path: Path) -> None:
    write_still(tmp_path / "plain.png", frame_of(scene(1)))
    body = b"x\0\0" + zlib.compress(profile(b"RGB ", 600))
    whole, cut = (with_part((tmp_path / "plain.png").read_bytes(), b"iCCP", part) for part in (body, body[:-100]))
    assert (icc.profile_in(whole), icc.profile_in(cut)) == (profile(b"RGB ", 600), None)


def with_exif(path: Path, *, turned: int = 6) -> None:
    """As a camera writes it: who made it, when and how, turned, with a thumbnail."""
    tags = Image.Exif()
    tags[0x010F], tags[0x0112], tags[0x0132] = "Maker", turned, "2024:05:04 12:30:00"
    tags.get_ifd(0x8769)[0x829A] = 0.004  # s
    tags.get_ifd(0x8825)[1] = "N"
    options = {} if path.suffix in (".webp", ".tiff") else {"dpi": (300, 300)}
    Image.fromarray(scene(1)).save(path, exif=tags, **options)


@pytest.mark.parametrize("source_suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_what_the_camera_has_written_is_carried_over_but_for_the_orientation(
    tmp_path: Path, source_suffix: str, suffix: str
) -> None:
    source, out = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    with_exif(source)
    notes: list[str] = []
    write_still(out, read_still(source), like=source, note=notes.append)
    with Image.open(out) as picture:
        tags = picture.getexif()
        assert (tags[0x010F], tags[0x0112], tags[0x0132]) == ("Maker", 1, "2024:05:04 12:30:00")
        assert tags.get_ifd(0x8769)[0x829A] == pytest.approx(0.004)
        assert tags.get_ifd(0x8825)[1] == "N"
        if source_suffix != ".webp":
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert read_still(out).pixels.shape == read_still(source).pixels.shape == (64, 48, 3)
    assert notes == []


def test_a_webp_s_parts_begin_at_even_places() -> None:
    parts = [(b"ICCP", b"abc"), (b"EXIF", b"de")]
    body = b"".join(kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in parts)
    assert list(parts_of(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)) == parts


def test_a_thumbnail_with_the_rain_is_not_carried_over(tmp_path: Path) -> None:
    thumbnail = b"\xff\xd8 thumbnail \xff\xd9"
    first = struct.pack("<HHHIII", 1, 0x0112, 3, 1, 6, 26)  # and the second directory, which has the thumbnail
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    exif = b"II*\0" + struct.pack("<I", 8) + first + second + thumbnail
    Image.fromarray(scene(1)).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + exif)
    with Image.open(tmp_path / "in.jpg") as picture:
        assert picture.getexif().get_ifd(ExifTags.IFD.IFD1)
    write_still(tmp_path / "out.jpg", read_still(tmp_path / "in.jpg"), like=tmp_path / "in.jpg")
    with Image.open(tmp_path / "out.jpg") as picture:
        assert picture.getexif()[0x0112] == 1
        assert not picture.getexif().get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize(
    ("source", "out", "says"),
    [
        ("in.jpg", "out.webp", "png and jpg only"),
        ("in.tiff", "out.png", "out of tiff"),
        ("in.png", "o.jpg", "too long"),
    ],
)
def test_exif_data_that_cannot_be_carried_over_is_noted(tmp_path: Path, source: str, out: str, says: str) -> None:
    if says == "too long":
        tags = Image.Exif()
        tags[0x9286] = "x" * 70000
        Image.fromarray(scene(1)).save(tmp_path / source, exif=tags)
    else:
        with_exif(tmp_path / source)
    notes: list[str] = []
    write_still(tmp_path / out, read_still(tmp_path / source), like=tmp_path / source, note=notes.append)
    assert len(notes) == 1
    assert "the Exif data is left out" in notes[0]
    assert says in notes[0]


def test_exif_data_of_which_a_png_would_not_open_is_left_out(tmp_path: Path) -> None:
    nowhere = struct.pack(">2sHIHHHIII", b"MM", 42, 8, 1, 0x3131, 2, 7, 9999, 0)
    Image.fromarray(scene(1)).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + nowhere)
    notes: list[str] = []
    write_still(tmp_path / "out.png", read_still(tmp_path / "in.jpg"), like=tmp_path / "in.jpg", note=notes.append)
    assert notes == ["out.png: the Exif data is left out: it is damaged"]
    assert read_still(tmp_path / "out.png").pixels.shape == scene(1).shape


_WIDE = {  # Display P3, and a gamma of 1.8
    b"cICP": bytes((12, 13, 0, 1)),
    b"gAMA": struct.pack(">I", 55556),
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
}
_PLAIN = {b"sRGB": b"\3", b"gAMA": struct.pack(">I", 45455)}


def with_words(path: Path, words: dict[bytes, bytes]) -> None:
    write_still(path, frame_of(scene(1)), overwrite=True)
    for kind, body in words.items():
        path.write_bytes(with_part(path.read_bytes(), kind, body))


@pytest.mark.parametrize("words", [_WIDE, _PLAIN])
def test_what_a_png_says_of_its_colours_is_kept_in_a_png_and_noted_elsewhere(
    tmp_path: Path, words: dict[bytes, bytes]
) -> None:
    with_words(tmp_path / "in.png", words)
    notes: list[str] = []
    for name in ("out.png", "out.jpg"):
        write_still(tmp_path / name, read_still(tmp_path / "in.png"), like=tmp_path / "in.png", note=notes.append)
    parts = dict(parts_of((tmp_path / "out.png").read_bytes()))
    assert {kind: parts[kind] for kind in words} == words
    assert (seen_by_opencv(tmp_path / "out.png") == scene(1)).all()
    lost = "out.jpg: the meaning of the colours is left out: cICP and gAMA and cHRM are kept in png only"
    assert notes == ([lost] if words is _WIDE else [])


def test_an_hdr_picture_is_refused(tmp_path: Path) -> None:
    with_words(tmp_path / "in.png", {b"cICP": bytes((9, 16, 0, 1))})
    with pytest.raises(UnsupportedInputError, match=r"in\.png is HDR \(PQ"):
        read_still(tmp_path / "in.png")


def test_beside_a_profile_the_other_words_do_not_count(tmp_path: Path) -> None:
    with_words(tmp_path / "in.png", {b"gAMA": _WIDE[b"gAMA"]})
    data = icc.with_profile((tmp_path / "in.png").read_bytes(), profile(b"RGB ", 600))
    (tmp_path / "in.png").write_bytes(data)
    notes: list[str] = []
    write_still(tmp_path / "o.jpg", read_still(tmp_path / "in.png"), like=tmp_path / "in.png", note=notes.append)
    assert (profile_in(tmp_path / "o.jpg"), notes) == (profile(b"RGB ", 600), [])


@pytest.mark.parametrize("source", ["in.tif", "in.jpg", "in.png"])
@pytest.mark.parametrize("out", ["out.tif", "out.jpg", "out.png"])
def test_the_resolution_is_carried_over(tmp_path: Path, source: str, out: str) -> None:
    Image.fromarray(scene(1)).save(tmp_path / source, dpi=(300, 150))
    write_still(tmp_path / out, read_still(tmp_path / source), like=tmp_path / source)
    with Image.open(tmp_path / out) as picture:
        across, down = picture.info["dpi"]
    assert across == pytest.approx(300, abs=0.1)
    assert down == pytest.approx(300 if out == "out.tif" else 150, abs=0.1)  # FFmpeg's TIFF has one number for both


@pytest.mark.parametrize("stated", [(300, 1), (300, 1, 2), (11811, 100, 3)])
def test_a_tiff_counts_by_the_inch_unless_it_says_by_the_centimetre(tmp_path: Path, stated: tuple[int, ...]) -> None:
    (tmp_path / "in.tif").write_bytes(tiff_of_ratio(*stated))
    write_still(tmp_path / "o.png", frame_of(scene(1)), like=tmp_path / "in.tif")
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("dpi", [(0.001, 0.001), (1e9, 1e9), (0, 300)])
def test_a_resolution_that_none_has_is_none(tmp_path: Path, dpi: tuple[float, float]) -> None:
    Image.fromarray(scene(1)).save(tmp_path / "in.tif", dpi=dpi)
    write_still(tmp_path / "out.png", read_still(tmp_path / "in.tif"), like=tmp_path / "in.tif")
    with Image.open(tmp_path / "out.png") as picture:
        assert "dpi" not in picture.info


def jpeg(pixels: Array) -> bytes:
    ok, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert ok
    return data.tobytes()


def tiff_of_ratio(above: int, below: int, unit: int | None = None) -> bytes:
    ratio, made = TiffImagePlugin.IFDRational(above, below), io.BytesIO()
    stated = {282: ratio, 283: ratio, 296: unit}
    Image.fromarray(scene(1)).save(made, "tiff", tiffinfo={tag: value for tag, value in stated.items() if value})
    return made.getvalue()


def png_of_density(x: int, y: int, unit: int) -> bytes:
    made = io.BytesIO()
    Image.fromarray(scene(1)).save(made, "png")
    return with_part(made.getvalue(), b"pHYs", struct.pack(">IIB", x, y, unit))


def jpeg_of_density(x: int, y: int, unit: int) -> bytes:
    head = b"JFIF\0" + struct.pack(">HBHHH", 0x0101, unit, x, y, 0)
    return with_part(jpeg(scene(1)), b"\xff\xe0", head)


@pytest.mark.parametrize(
    "source",
    [tiff_of_ratio(300, 0), png_of_density(0, 0, 1), png_of_density(3, 4, 0), jpeg_of_density(0, 0, 1)],
    ids=["a ratio by zero", "zero", "a shape", "zero in jpeg"],
)
def test_what_is_stated_and_no_resolution_is_none(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "in").write_bytes(source)
    write_still(tmp_path / "o.jpg", frame_of(scene(1)), like=tmp_path / "in")
    write_still(tmp_path / "plain.jpg", frame_of(scene(1)))
    assert (tmp_path / "o.jpg").read_bytes() == (tmp_path / "plain.jpg").read_bytes()


@pytest.mark.parametrize("per_metre", [1, 3_000_000])
def test_a_resolution_that_tiff_cannot_hold_is_no_reason_to_fail(tmp_path: Path, per_metre: int) -> None:
    Image.fromarray(scene(1)).save(tmp_path / "in.png", dpi=(per_metre * 0.0254, per_metre * 0.0254))
    write_still(tmp_path / "out.tif", read_still(tmp_path / "in.png"), like=tmp_path / "in.png")
    assert (seen_by_opencv(tmp_path / "out.tif") == scene(1)).all()


def test_xmp_and_iptc_are_said_to_be_left_out(tmp_path: Path) -> None:
    picture = Image.fromarray(scene(1))
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    picture.save(tmp_path / "a.jpg", xmp=xmp)
    picture.save(tmp_path / "a.webp", xmp=xmp)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    picture.save(tmp_path / "a.png", pnginfo=text)
    picture.save(tmp_path / "a.tif", tiffinfo={700: xmp})
    for path in list(tmp_path.iterdir()):
        notes: list[str] = []
        write_still(tmp_path / "out.png", read_still(path), like=path, overwrite=True, note=notes.append)
        assert notes == ["XMP of the pictures is left out"]
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\0"
    (tmp_path / "b.jpg").write_bytes(with_part((tmp_path / "a.jpg").read_bytes(), b"\xff\xed", iptc))
    write_still(tmp_path / "o.jpg", read_still(tmp_path / "b.jpg"), like=tmp_path / "b.jpg", note=notes.append)
    assert notes[1:] == ["XMP and IPTC of the pictures are left out"]


def test_lost_transparency_is_noted(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([scene(1), np.full((48, 64), 128, np.uint8)]))
    notes: list[str] = []
    read_still(tmp_path / "clear.png", note=notes.append)
    assert notes == ["clear.png: transparency (rgba) is dropped"]


def notes_on_reading(path: Path) -> list[str]:
    notes: list[str] = []
    read_still(path, note=notes.append)
    return notes


def test_transparency_is_noted_where_there_is_some(tmp_path: Path) -> None:
    picture = Image.fromarray(scene(1))
    for suffix in ("png", "webp", "tif"):
        picture.convert("RGBA").save(tmp_path / f"opaque.{suffix}", lossless=True)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.quantize(8).save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        assert notes_on_reading(path) == []
    picture.quantize(8).save(tmp_path / "key.png", transparency=3)
    assert notes_on_reading(tmp_path / "key.png") == ["key.png: transparency (pal8) is dropped"]


def test_pictures_beyond_the_first_are_noted(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(scene(number)) for number in range(3))
    for suffix in ("tif", "png", "webp"):
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    assert notes_on_reading(tmp_path / "a.tif") == ["a.tif: the first of 3 pictures is taken"]
    assert notes_on_reading(tmp_path / "a.png") == ["a.png: the first of 3 pictures is taken"]
    with pytest.raises(UnsupportedInputError, match=r"a\.webp is an animated WebP"):
        read_still(tmp_path / "a.webp")
    whole = (tmp_path / "a.tif").read_bytes()
    for following in (first_directory(whole), len(whole) + 1):  # itself, and one that is not there
        (tmp_path / "b.tif").write_bytes(followed(whole, following))
        assert notes_on_reading(tmp_path / "b.tif") == []


def first_directory(data: bytes) -> int:
    (at,) = struct.unpack_from("<I", data, 4)
    return int(at)


def followed(data: bytes, by: int) -> bytes:
    """A TIFF whose first directory names the one at ``by`` as the next."""
    first = first_directory(data)
    (count,) = struct.unpack_from("<H", data, first)
    at = first + 2 + 12 * count
    return data[:at] + struct.pack("<I", by) + data[at + 4 :]


def test_a_jpeg_without_its_end_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(scene(1))[:-2])
    assert notes_on_reading(tmp_path / "a.jpg") == ["a.jpg: its end is missing, and the last pixels may be wrong"]


def test_a_link_to_a_picture_stays_and_a_named_pipe_is_written_to(tmp_path: Path) -> None:
    write_still(tmp_path / "real.png", frame_of(scene(0)))
    (tmp_path / "link.png").symlink_to("real.png")
    write_still(tmp_path / "link.png", frame_of(scene(1)), overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    assert (seen_by_opencv(tmp_path / "real.png") == scene(1)).all()
    os.mkfifo(tmp_path / "pipe.png")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe.png").read_bytes()), daemon=True)
    reader.start()
    write_still(tmp_path / "pipe.png", frame_of(scene(1)))
    reader.join(10)
    assert (tmp_path / "pipe.png").is_fifo()
    assert read == [(tmp_path / "real.png").read_bytes()]


def test_a_png_called_jpg_is_read_all_the_same(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), scene(1)[..., ::-1])
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (read_still(tmp_path / "a.jpg").pixels.numpy() == scene(1)).all()


def test_all_seven_kinds_of_pnm_are_read(tmp_path: Path) -> None:
    for kind, pixels in (("pbm", scene(1)[..., 0]), ("pgm", scene(1)[..., 0]), ("ppm", scene(1)[..., ::-1])):
        for binary in (0, 1):
            cv2.imwrite(str(tmp_path / f"{binary}.{kind}"), pixels, [cv2.IMWRITE_PXM_BINARY, binary])
    for path in list(tmp_path.iterdir()):
        assert (read_still(path).pixels.numpy() == seen_by_opencv(path)).all()
    header = b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(header + scene(1).tobytes())
    assert (read_still(tmp_path / "a.pam").pixels.numpy() == scene(1)).all()


_SDP = "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile secret.mp4\n", _SDP])
def test_a_text_is_no_picture_whatever_ffmpeg_would_do_with_it(tmp_path: Path, text: str, suffix: str) -> None:
    write_clip(tmp_path / "secret.mp4", count=1)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as ours:
        ours.bind(("127.0.0.1", 0))  # so that FFmpeg would be told at once that it cannot listen here
        (tmp_path / f"a{suffix}").write_text(text.format(port=ours.getsockname()[1]))
        with pytest.raises(InputError, match=r"a\.\w+ cannot be read as a picture: it begins as none"):
            read_still(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("content", [None, b"", b"not a picture at all" * 20])
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png") as caught:
        read_still(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_writing_never_destroys(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_still(path, frame_of(scene(0)))
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        write_still(path, frame_of(scene(1)))
    with pytest.raises(OutputError, match="is the input itself"):
        write_still(path, frame_of(scene(1)), like=path, overwrite=True)
    assert path.read_bytes() == before
    write_still(path, frame_of(scene(1)), overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(OutputError, match=r"\.xyz has no suffix"):
        write_still(tmp_path / "a.xyz", frame_of(scene(0)))
    with pytest.raises(OutputError, match="cannot be written"):
        write_still(tmp_path / "nowhere" / "a.png", frame_of(scene(0)))
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OutputOptionError, match=r"b\.png is a folder"):
        write_still(tmp_path / "b.png", frame_of(scene(0)), overwrite=True)


def test_writing_takes_no_name_that_somebody_may_have(tmp_path: Path) -> None:
    (tmp_path / "f.png.part").write_text("of another run")
    longest = tmp_path / f"{'f' * 251}.png"
    for path in (tmp_path / "f.png", longest):
        write_still(path, frame_of(scene(0)))
        assert (seen_by_opencv(path) == scene(0)).all()
    with pytest.raises(OutputError, match="File name too long"):
        write_still(tmp_path / f"{'f' * 252}.png", frame_of(scene(0)))
    assert {path.name for path in tmp_path.iterdir()} == {"f.png", "f.png.part", longest.name}
    assert (tmp_path / "f.png.part").read_text() == "of another run"


def test_which_inputs_are_stills(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.JPG", "f1.png", "f²1.png", "._f1.png", "notes.txt", "clip.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    named = [tmp_path / name for name in ("f1.png", "f2.JPG", "f10.png", "f²1.png")]
    assert list_stills(str(tmp_path)) == named
    assert list_stills(str(tmp_path / "*.png")) == [named[0], named[2], named[3]]
    assert list_stills(str(tmp_path / "f1.png")) == [named[0]]
    assert list_stills(str(tmp_path / "f2.JPG")) == [named[1]]
    for video in ("clip.mp4", "f%d.png", "missing.mp4"):
        assert list_stills(str(tmp_path / video)) is None
    assert list_stills("-") is None
    assert list_stills("rtsp://camera/1") is None
    (tmp_path / "empty").mkdir()
    notes: list[str] = []
    for all_of_them in (tmp_path, tmp_path / "*"):
        list_stills(str(all_of_them), note=notes.append)
    assert [note.partition(" are")[0] for note in notes] == ["2 other files", "2 other files"]
    with pytest.raises(InputError, match=r"a bracket in a name is written \[\[\]"):
        list_stills(str(tmp_path / "a[1].png"))
    for nothing in ("empty", "*.webp", "*.mp4"):
        with pytest.raises(InputError, match="no pictures"):
            list_stills(str(tmp_path / nothing))


def test_a_sequence_is_a_video(tmp_path: Path) -> None:
    for number in range(7, 7 + COUNT):
        cv2.imwrite(str(tmp_path / f"f{number:05d}.png"), scene(number)[..., ::-1])
    with open_source(str(tmp_path / "f%05d.png")) as source:
        frames = list(source)
    assert source.info.frame_rate == 25
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(i, 25) for i in range(COUNT)]
    assert all((f.pixels.numpy() == scene(7 + i)).all() for i, f in enumerate(frames))
    copy(tmp_path / "f%05d.png", tmp_path / "out.mp4", reading={"frame_rate": Fraction(30000, 1001)})
    assert times(tmp_path / "out.mp4") == [Fraction(1001 * i, 30000) for i in range(COUNT)]


def test_pictures_of_a_sequence_do_not_lean_on_each_other(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for number in range(8):
        Image.fromarray(np.roll(blocks, number, 1)).save(tmp_path / f"f{number}.webp")
    with open_source(str(tmp_path / "f%d.webp")) as source:
        for number, frame in enumerate(source):
            assert (frame.pixels == read_still(tmp_path / f"f{number}.webp").pixels).all()


@pytest.mark.parametrize("suffix", ["ppm", "png", "bmp", "tif", "webp"])
def test_packed_pictures_of_a_sequence_become_a_video_that_players_show(tmp_path: Path, suffix: str) -> None:
    for number in range(3):
        Image.fromarray(scene(number)).save(tmp_path / f"f{number}.{suffix}", lossless=True)
    with open_source(str(tmp_path / f"f%d.{suffix}")) as source:
        assert source.info.chroma == "420"


def test_a_gap_in_a_sequence_is_an_error_not_an_end(tmp_path: Path) -> None:
    for number in ("1", "2", "03", "4"):
        cv2.imwrite(str(tmp_path / f"f{number}.png"), scene(1))
    with pytest.raises(InputError, match=r"f3\.png is missing"):
        open_source(str(tmp_path / "f%d.png"))
    with pytest.raises(InputError, match="no picture matches"):
        open_source(str(tmp_path / "g%d.png"))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_empty_picture_in_a_sequence_is_an_error_not_an_end(tmp_path: Path, number: int) -> None:
    for each in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"f{each}.png"), scene(each))
    (tmp_path / f"f{number}.png").write_bytes(b"")
    with pytest.raises(InputError, match=rf"f{number}\.png of the sequence .*f%d\.png is empty"):
        open_source(str(tmp_path / "f%d.png"), on_error="conceal")


def test_a_frame_rate_is_for_sequences_only(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with pytest.raises(ValueError, match="30"):
        open_source(str(tmp_path / "in.mp4"), frame_rate=Fraction(30))


@pytest.mark.parametrize("deep", [False, True])
def test_a_video_becomes_a_sequence(tmp_path: Path, deep: bool) -> None:
    write_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="gbrp10le" if deep else "bgr0", count=3, audio=0.2)
    copy(tmp_path / "in.mkv", tmp_path / "o%03d.png")
    assert sorted(p.name for p in tmp_path.glob("o*")) == ["o001.png", "o002.png", "o003.png"]
    with open_source(str(tmp_path / "in.mkv")) as source:
        for number, frame in enumerate(source, start=1):
            made = read_still(tmp_path / f"o{number:03d}.png")
            assert torch.equal(made.pixels, frame.pixels)
    with pytest.raises(OutputExistsError, match=r"o001\.png"):
        open_sink(str(tmp_path / "o%03d.png"), source.info)
    copy(tmp_path / "in.mkv", tmp_path / "o%03d.png", overwrite=True)


def test_from_sequence_to_sequence_each_picture_keeps_its_own_profile(tmp_path: Path) -> None:
    own = {number: profile(b"RGB ", 600 + number) for number in range(7, 12)}
    for number, each in own.items():
        Image.fromarray(scene(number)).save(tmp_path / f"f{number}.png", icc_profile=each)
    copy(tmp_path / "f%d.png", tmp_path / "o%d.jpg")
    assert [profile_in(tmp_path / f"o{number}.jpg") for number in range(1, 6)] == list(own.values())
    reading = {"start": 0.08, "frames": 2, "frame_rate": Fraction(25)}
    copy(tmp_path / "f%d.png", tmp_path / "p%d.png", reading=reading)
    assert [profile_in(tmp_path / f"p{number}.png") for number in (1, 2)] == [own[9], own[10]]
    _, sink = copy_open(tmp_path / "f%d.png", tmp_path / "q%d.webp")
    assert sink.notes == ("the colour profile is left out: it is kept in png and jpg only",)


def test_a_sequence_of_nothing_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with open_source(str(tmp_path / "in.mp4")) as source:
        sink = open_sink(str(tmp_path / "o%d.jpg"), source.info)
        with pytest.raises(OutputError, match="no frame came"):
            sink.close()
        assert not list(tmp_path.glob("o*"))
        with pytest.raises(OutputError, match="not a folder"):
            open_sink(str(tmp_path / "no" / "o%d.jpg"), source.info)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def compressed_tiff(path: Path, kind: str, *, mode: str = "RGB") -> bytes:
    Image.fromarray(scene(1)).convert(mode).save(path, compression=kind)
    return path.read_bytes()


def test_a_damaged_picture_is_refused_each_time(tmp_path: Path) -> None:
    lzw = bytearray(compressed_tiff(tmp_path / "whole.tif", "tiff_lzw"))
    lzw[1000:1100] = bytes(100)
    for name, data in (("half.jpg", half(jpeg(scene(1)))), ("a.tif", lzw)):
        for number in (1, 2):
            (tmp_path / f"{number}{name}").write_bytes(bytes(data))
            with pytest.raises(InputError, match=rf"{number}{name} (is damaged|cannot be read)"):
                read_still(tmp_path / f"{number}{name}")
    assert (read_still(tmp_path / "whole.tif").pixels.numpy() == scene(1)).all()


def run_length_encoded(pixels: Array) -> bytes:
    """``pixels`` [H, W] uint8, W even, as a grey BMP of absolute runs, one a row."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + bytes([width]) + row.tobytes() + b"\0\0" for row in pixels[::-1]) + b"\0\1"
    palette = b"".join(bytes([level] * 3) + b"\0" for level in range(256))
    at = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + head + palette + rows


def test_a_bmp_of_which_the_header_says_too_much_is_read_and_one_that_is_cut_off_is_not(tmp_path: Path) -> None:
    ok, encoded = cv2.imencode(".bmp", scene(1)[..., ::-1])
    assert ok
    for whole in (encoded.tobytes(), run_length_encoded(scene(1)[..., 0])):
        (tmp_path / "a.bmp").write_bytes(whole)
        want = read_still(tmp_path / "a.bmp").pixels
        (tmp_path / "a.bmp").write_bytes(whole[:2] + struct.pack("<I", len(whole) + 4000) + whole[6:])
        assert (read_still(tmp_path / "a.bmp").pixels == want).all()
        for cut in (len(whole) // 2, 100):
            (tmp_path / "a.bmp").write_bytes(whole[:-cut])
            with pytest.raises(InputError, match=r"a\.bmp (is damaged|cannot be read)"):
                read_still(tmp_path / "a.bmp")


def test_what_a_jpeg_holds_beside_the_picture_may_be_damaged(tmp_path: Path) -> None:
    whole = jpeg(scene(1))
    (tmp_path / "whole.jpg").write_bytes(whole)
    for body in (b"Exif\0\0MM\0*" + bytes(range(40)), b"ICC_PROFILE\0\1\3xxxxxx", b"ab", b"Adobe"):
        for kind in (b"\xff\xe1", b"\xff\xe2", b"\xff\xee"):
            (tmp_path / "odd.jpg").write_bytes(with_part(whole, kind, body) + b"\xff\xd8 another")
            assert (read_still(tmp_path / "odd.jpg").pixels == read_still(tmp_path / "whole.jpg").pixels).all()


def test_a_damaged_jpeg_of_a_sequence_is_concealed_and_counted_or_an_error(tmp_path: Path) -> None:
    for number in range(1, 7):
        data = jpeg(scene(number))
        (tmp_path / f"f{number}.jpg").write_bytes(half(data) if number in (1, 4) else data)
    with pytest.raises(InputError, match="cannot be decoded"), open_source(str(tmp_path / "f%d.jpg")) as source:
        list(source)
    with open_source(str(tmp_path / "f%d.jpg"), on_error="conceal") as source:
        frames = list(source)
    assert [frame.pts for frame in frames] == [1, 2, 3, 4, 5]
    assert (frames[2].pixels == frames[1].pixels).all()
    assert source.concealed == 2
    assert source.notes == ("1 frame at the beginning left out: damaged, and none before",)


def test_damage_before_the_start_of_a_sequence_is_not_met(tmp_path: Path) -> None:
    for number in range(1, 7):
        data = jpeg(scene(number))
        (tmp_path / f"f{number}.jpg").write_bytes(half(data) if number in (1, 3, 5) else data)
    with open_source(str(tmp_path / "f%d.jpg"), start=0.12, frames=1) as source:
        (frame,) = source
    assert (frame.pixels == read_still(tmp_path / "f4.jpg").pixels).all()
    for start, pts in ((0.12, [0, 1, 2]), (0.16, [0])):
        with open_source(str(tmp_path / "f%d.jpg"), start=start, on_error="conceal") as source:
            assert [frame.pts for frame in source] == pts
            assert source.concealed == 1


def test_each_tiff_of_a_sequence_is_looked_at(tmp_path: Path) -> None:
    for number in range(1, 5):
        whole = compressed_tiff(tmp_path / f"f{number}.tif", "tiff_lzw")
    lzw = bytearray(whole)
    lzw[1000:1100] = bytes(100)
    (tmp_path / "f3.tif").write_bytes(lzw)
    with (
        open_source(str(tmp_path / "f%d.tif")) as source,
        pytest.raises(InputError, match=r"after 2 frames, at 0\.040 s\): Decoded only .* of"),
    ):
        list(source)
    with open_source(str(tmp_path / "f%d.tif"), on_error="conceal") as source:
        frames = list(source)
    assert [frame.pts for frame in frames] == [0, 1, 2, 3]
    assert all((frame.pixels.numpy() == scene(1)).all() for frame in frames)
    assert source.concealed == 1
    compressed_tiff(tmp_path / "f3.tif", "jpeg")
    with (
        open_source(str(tmp_path / "f%d.tif")) as source,
        pytest.raises(UnsupportedInputError, match=r"f%d\.tif at 0\.080 s is a TIFF .* JPEG"),
    ):
        list(source)


@pytest.mark.parametrize("mode", ["YCbCr", "P", "L"])
def test_a_tiff_is_full_range(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(scene(1)).convert(mode)
    picture.save(tmp_path / "f1.tif")
    want = np.asarray(picture.convert("RGB")).astype(int)
    with open_source(str(tmp_path / "f%d.tif")) as source:
        for frame in (read_still(tmp_path / "f1.tif"), *source):
            assert np.abs(frame.pixels.numpy().astype(int) - want).max() <= (2 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_tiff_with_jpeg_inside_is_refused(tmp_path: Path, mode: str) -> None:
    compressed_tiff(tmp_path / "f1.tif", "jpeg", mode=mode)
    with pytest.raises(UnsupportedInputError, match=r"f1\.tif .* JPEG.*deflate"):
        read_still(tmp_path / "f1.tif")
    with pytest.raises(UnsupportedInputError, match=r"f1\.tif .* JPEG.*deflate"):
        open_source(str(tmp_path / "f%d.tif"))
    for kind in ("tiff_adobe_deflate", "packbits", "tiff_lzw"):
        compressed_tiff(tmp_path / "f1.tif", kind)
        assert (read_still(tmp_path / "f1.tif").pixels.numpy() == scene(1)).all()
