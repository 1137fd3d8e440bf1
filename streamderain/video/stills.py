"""Single pictures: reading them upright, writing them whole, and which ones a folder or a glob means."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from streamderain.atomic import write_whole
from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError, UnsupportedInputError
from streamderain.frame import Colour, Frame, VideoInfo
from streamderain.video import colour, exif, ffmpeg, icc, image_parts, probe, tiff


@dataclass(frozen=True, slots=True)
class _Kind:
    """How FFmpeg writes one kind of picture."""

    codec: str
    pix_fmt: str
    deep: str | None = None  # for 16-bit samples
    options: tuple[tuple[str, str], ...] = ()


# JFIF is BT.601 full range by definition; 4:4:4 and the finest quantiser, for a picture is restored only once.
_JPEG = _Kind("mjpeg", "yuvj444p", options=(("qmin", "1"), ("qmax", "1")))
_PNM = _Kind("ppm", "rgb24", "rgb48be")
_KINDS = {
    ".png": _Kind("png", "rgb24", "rgb48be"),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".bmp": _Kind("bmp", "bgr24"),
    ".tif": _Kind("tiff", "rgb24", "rgb48le"),
    ".tiff": _Kind("tiff", "rgb24", "rgb48le"),
    ".ppm": _PNM,
    ".pnm": _PNM,
    ".pgm": _Kind("pgm", "gray", "gray16be"),
    ".webp": _Kind("libwebp", "bgra", options=(("lossless", "1"),)),
}
SUFFIXES = frozenset(_KINDS)
# How a picture begins, and its decoder. FFmpeg is not to open a file as it thinks best: some texts, called pictures,
# would have it read other files or listen to the network.
_DECODERS = {
    image_parts.PNG: "png",
    image_parts.JPEG: "mjpeg",
    b"BM": "bmp",
    **dict.fromkeys(tiff.HEADERS, "tiff"),
    **{b"P%d" % kind: "ppm" for kind in range(1, 8)},
    b"RIFF": "webp",
    b"GIF8": "gif",
}
# What makes a decoder fail for a damaged picture. With the others, what they log tells: TIFF's, made to fail, would
# refuse every tag that it does not know.
_STRICT = {"mjpeg": {"err_detect": "explode"}, "png": {}}
_MOST_DPI = 65536  # of FFmpeg's TIFF; nothing is said of what is denser
_INFLATED = (b"iCCP", b"zTXt")  # chunks of a PNG that FFmpeg's decoder inflates, into any amount of memory
_PGM = (b"P2", b"P5")
_JPEG_IN_TIFF = (6, 7)
_JFIF = Colour(matrix=5, range=colour.FULL)
_TICK = Fraction(1, 25)


def list_stills(uri: str | os.PathLike[str], *, note: Callable[[str], object] | None = None) -> list[Path] | None:
    """The pictures that ``uri`` means: a folder's, a glob's, or one; each is derained by itself.

    Args:
        note: called with how many other files are left aside, where there are some.

    Returns:
        Paths in natural order (f2 before f10); None when ``uri`` is a video, a pipe, a URL or a sequence ``f%05d.png``.

    Raises:
        InputError: a folder or a glob without pictures.
    """
    uri = ffmpeg.local_path(uri)
    if uri == "-" or ffmpeg.is_url(uri):
        return None
    path = Path(uri)
    if os.path.isdir(uri):
        # Without hidden files: of each picture, macOS leaves a "._picture.png" that is none.
        visible = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file()]
        found = list(filter(_is_picture, visible))
        if not found:
            raise InputError(f"{uri} holds no pictures", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
        return _sorted(found, visible, note)
    if os.path.exists(uri):
        return [path] if path.suffix.lower() in SUFFIXES else None
    if not re.search(r"[*?\[]", uri):
        return None
    matched = [Path(match) for match in glob.glob(uri)]
    found = list(filter(_is_picture, matched))
    if not found:
        other = f" (only {matched[0].name} and the like)" if matched else ""
        hint = "several videos are derained one command each"
        if not matched and "[" in uri:
            hint = "[…] stands for one of the characters in it; a bracket in a name is written [[]"
        raise InputError(f"{uri} matches no pictures{other}", hint=hint)
    return _sorted(found, matched, note)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _sorted(found: list[Path], among: list[Path], note: Callable[[str], object] | None) -> list[Path]:
    if note is not None and (aside := sum(path.is_file() for path in among if not _is_picture(path))):
        files = f"{aside} other {'file is' if aside == 1 else 'files are'}"
        note(f"{files} left aside: pictures end in {', '.join(sorted(SUFFIXES))}")
    return sorted(found, key=_natural)


def read_still(path: Path | str, *, note: Callable[[str], object] | None = None) -> Frame:
    """One picture, upright by its EXIF orientation, transparency dropped; pts 0, 16-bit samples stay 16 bits.

    Args:
        note: called with what is lost, one phrase each.

    Raises:
        InputError: it cannot be read or decoded, or is damaged.
        UnsupportedInputError: it is of a kind that would come out wrong.
    """
    picture, turned, lost = _decoded(path)
    tags = colour.colour_of(picture)
    colour.check_supported(tags, name=str(path))
    if note is not None:
        if not probe.is_opaque(picture):
            lost.append(f"transparency ({picture.format.name}) is dropped")
        for what in lost:
            note(f"{Path(path).name}: {what}")
    reader = colour.RgbReader(tags, rotation=turned.turn, mirrored=turned.mirrored)
    return reader.read(picture, 0, _TICK, None)


def check_decodable(data: bytes, *, name: str) -> None:
    """Refuses a whole picture of a kind that FFmpeg cannot decode, or shows black without an error.

    Raises:
        UnsupportedInputError: it is a TIFF with JPEG inside, or an animated WebP.
    """
    if data.startswith(tiff.HEADERS) and tiff.number_of(tiff.COMPRESSION, data) in _JPEG_IN_TIFF:
        raise UnsupportedInputError(
            f"{name} is a TIFF that is compressed as JPEG, which cannot be decoded",
            hint="save it with LZW or deflate compression, or as PNG",
        )
    if data.startswith(b"RIFF") and any(kind == b"ANIM" for kind, _ in image_parts.parts_of(data)):
        raise UnsupportedInputError(f"{name} is an animated WebP, which cannot be decoded", hint="save it as a video")


def set_strict(context: Any) -> None:
    """Prepares a decoder, not yet opened, for `decode`."""
    context.options = _STRICT.get(context.name, {})


def _decoder(name: str) -> av.VideoCodecContext:
    """For one picture alone. Threads would hold it back, and wait to be listened to."""
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, av.VideoCodecContext)
    set_strict(context)
    context.thread_count = 1
    return context


def decode(context: Any, packet: Any, *, name: str) -> list[av.VideoFrame]:
    """What a decoder of a sequence, prepared by `set_strict`, makes of its next picture, a whole file.

    Raises:
        UnsupportedInputError: as `check_decodable`.
        ValueError: it is damaged, and the decoder has only said so. FFmpeg's errors, where it fails.
    """
    if context.name in _STRICT:
        return list(context.decode(packet))
    check_decodable(bytes(packet), name=name)
    with ffmpeg.listening() as lines:
        pictures = list(_decoder(context.name).decode(packet))  # one for all would start WebP's from the one before
    if said := _damage(lines):
        raise ValueError(said)
    for picture in pictures:
        _set_range(picture, context.name)
    return pictures


def _set_range(picture: av.VideoFrame, decoder: str) -> None:
    if decoder == "tiff":
        picture.color_range = colour.FULL  # of Y'CbCr, as long as no ReferenceBlackWhite says otherwise


def _decoded(path: Path | str) -> tuple[av.VideoFrame, probe.Orientation, list[str]]:
    """A picture, how it is turned, and what of the file is not in it."""
    name = str(path)
    if not os.path.isfile(name):
        raise InputError(f"{name} does not exist" if not os.path.exists(name) else f"{name} is no file")
    with ffmpeg.listening() as lines:
        try:
            data = Path(path).read_bytes()
            # By content: a PNG called .jpg is no rarity.
            decoder = next((codec for begin, codec in _DECODERS.items() if data.startswith(begin)), None)
            if decoder is None:
                raise InputError(
                    f"{name} cannot be read as a picture: it begins as none of those that are read",
                    hint="PNG, JPEG, TIFF, WebP, BMP, PNM and GIF are, whatever they are called; is the file whole?",
                )
            check_decodable(data, name=name)
            picture = next(iter(_decoder(decoder).decode(av.Packet(image_parts.without_parts(data, _INFLATED)))), None)
            turned = probe.exif_orientation(data)
        except (*ffmpeg.ERRORS, IndexError) as error:
            reason = ffmpeg.explain(error, lines)
            raise InputError(f"{name} cannot be read as a picture: {reason}", hint="is the file whole?") from error
    if picture is None:
        raise InputError(f"{name} holds no picture that can be decoded", hint="is the file whole?")
    if decoder not in _STRICT and (said := _damage(lines)):
        raise InputError(f"{name} is damaged: {said}", hint="is the file whole?")
    assert isinstance(picture, av.VideoFrame)
    _set_range(picture, decoder)
    lost = [f"the first of {count} pictures is taken"] if (count := _pictures_in(data)) > 1 else []
    if any("EOI missing" in text for _, _, text in lines):
        lost.append("its end is missing, and the last pixels may be wrong")
    return picture, turned, lost


def _pictures_in(data: bytes) -> int:
    """How many pages a TIFF file has, or frames an animated PNG; 1 of others."""
    if data.startswith(tiff.HEADERS):
        return tiff.pages_in(data)
    if data.startswith(image_parts.PNG):
        counts = [body[:4] for kind, body in image_parts.parts_of(data) if kind == b"acTL"]
        return int.from_bytes(counts[0]) if counts else 1
    return 1


def _damage(lines: list[tuple[int, str, str]]) -> str:
    """What a decoder has said of the pixels that it could not make out; nothing where it could."""
    harmless = ("exif", "trying to decode anyway")  # a BMP that is too short for its pixels fails afterwards
    return ffmpeg.first_error([line for line in lines if not any(part in line[2].lower() for part in harmless)])


def write_still(
    path: Path | str,
    frame: Frame,
    *,
    like: Path | str | None = None,
    overwrite: bool = False,
    note: Callable[[str], object] | None = None,
) -> None:
    """Writes one picture in the format of its suffix; the name appears only when the picture is complete.

    What a symbolic link leads to is replaced, not the link; a FIFO or a device is written to and stays.

    Args:
        path: ends in one of ``SUFFIXES``; 16-bit frames stay 16 bits where the format can (png, tiff, pnm), and are
            rounded to 8 elsewhere.
        frame: upright.
        like: the picture it was made from: never overwritten; its colour profile, what else a PNG says of its
            colours, Exif data and density are carried over, the orientation set to upright and the thumbnail left out.
        overwrite: whether an existing file may be replaced.
        note: called with what is lost, one phrase each.

    Raises:
        OutputExistsError: it exists.
        OutputOptionError: an unknown suffix, or the same file as ``like``.
        OutputError: it cannot be written.
    """
    target = Path(path)
    kind = _KINDS.get(target.suffix.lower())
    if kind is None:
        raise OutputOptionError(f"{target} has no suffix of a picture", hint=f"use {', '.join(sorted(SUFFIXES))}")
    with ffmpeg.listening() as lines:
        try:
            stays = _stays(target, like, overwrite=overwrite)
            source = Path(like).read_bytes() if like is not None else b""
            density = exif.density_in(source)
            data, lost = _carried(source, _encoded(frame, kind, density))
            if density is not None:
                data = exif.with_density(data, density)
            if note is not None and (others := exif.others_in(source)):
                note(f"{' and '.join(others)} of the pictures {'is' if len(others) == 1 else 'are'} left out")
            if frame.pixels.element_size() == 2 and (rounded := depth_lost(target)) is not None:
                lost.append(rounded)
            if kind.codec == "pgm" and not source.startswith(_PGM):
                lost.append("pgm is grey: the colours are left out")
            if note is not None:
                for what in lost:
                    note(f"{target.name}: {what}")
            if stays:
                target.write_bytes(data)
            else:
                write_whole(Path(os.path.realpath(target)) if target.is_symlink() else target, data)
        except ffmpeg.ERRORS as error:
            raise OutputError(f"{target} cannot be written: {ffmpeg.explain(error, lines)}") from error


def depth_lost(path: Path | str) -> str | None:
    """What is lost of samples deeper than 8 bits in the format of the suffix; None where nothing is."""
    suffix = Path(path).suffix.lower()
    return f"{suffix[1:]} takes 8 bits at most: deeper samples are rounded" if _KINDS[suffix].deep is None else None


def _carried(source: bytes, data: bytes) -> tuple[bytes, list[str]]:
    """``data`` with the colour profile and the like and the Exif data of ``source``, and what of it is left out."""
    lost: list[str] = []
    parts: tuple[tuple[str, Any, Callable[[bytes, Any], bytes]], ...] = (
        ("colour profile", icc.profile_in(source), icc.with_profile),
        ("meaning of the colours", icc.words_in(source), icc.with_words),
        ("Exif data", exif.exif_in(source), exif.with_exif),
    )
    for what, found, put in parts:
        if found:
            try:
                data = put(data, found)
            except ValueError as error:
                lost.append(f"the {what} is left out: {error}")
    return data, lost


def _stays(target: Path, like: Path | str | None, *, overwrite: bool) -> bool:
    """Whether what has this name takes bytes and keeps it, as a FIFO does. Raises as `write_still`, and OSError."""
    if not target.exists():
        return False
    if like is not None and Path(like).exists() and target.samefile(like):
        raise OutputOptionError(f"{target} is the input itself", hint="write to another name")
    if target.is_dir():
        raise OutputOptionError(f"{target} is a folder", hint="name a file in it")
    if target.is_file() and not overwrite:
        raise OutputExistsError(f"{target} exists already", hint="choose another name, or pass --overwrite")
    return not target.is_file()


def _encoded(frame: Frame, kind: _Kind, density: tuple[float, float] | None) -> bytes:
    deep = kind.deep if frame.pixels.element_size() == 2 else None
    pix_fmt = deep or kind.pix_fmt
    info = VideoInfo(frame.width, frame.height, _TICK, colour=_JFIF)
    context = av.CodecContext.create(kind.codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt, context.time_base = frame.width, frame.height, pix_fmt, _TICK
    context.options = dict(kind.options)
    if kind.codec == "tiff" and density is not None and 1 <= (dpi := round(density[0] * exif.INCH)) <= _MOST_DPI:
        context.options |= {"dpi": str(dpi)}
    grey = pix_fmt.startswith("gray")
    picture = _grey(frame, pix_fmt) if grey else colour.YuvWriter(info, pix_fmt=pix_fmt).picture(frame)
    picture.pts, picture.time_base = 0, _TICK
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])


def _grey(frame: Frame, pix_fmt: str) -> av.VideoFrame:
    """The luma of BT.601. Not by swscale, which makes deep ones brighter by 1/256."""
    luma = frame.pixels.cpu().float() @ torch.tensor([0.299, 0.587, 0.114])
    return av.VideoFrame.from_ndarray(luma.round().to(frame.pixels.dtype).numpy(), format=pix_fmt)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name)]
