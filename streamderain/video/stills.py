"""Single pictures: reading them upright, writing them whole, and which ones a folder or a glob means."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from streamderain.atomic import write_whole
from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError
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
_KINDS = {
    ".png": _Kind("png", "rgb24", "rgb48be"),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".bmp": _Kind("bmp", "bgr24"),
    ".tif": _Kind("tiff", "rgb24", "rgb48le"),
    ".tiff": _Kind("tiff", "rgb24", "rgb48le"),
    ".ppm": _Kind("ppm", "rgb24", "rgb48be"),
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
_INFLATED = (b"iCCP", b"zTXt")  # chunks of a PNG that FFmpeg's decoder inflates, into any amount of memory
_JFIF = Colour(matrix=5, range=colour.FULL)
_TICK = Fraction(1, 25)


def list_stills(uri: str | os.PathLike[str]) -> list[Path] | None:
    """The pictures that ``uri`` means: a folder's, a glob's, or one; each is derained by itself.

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
        visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        found = [entry for entry in visible if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        if not found:
            raise InputError(f"{uri} holds no pictures", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
        return sorted(found, key=_natural)
    if os.path.exists(uri):
        return [path] if path.suffix.lower() in SUFFIXES else None
    if not re.search(r"[*?\[]", uri):
        return None
    matched = [Path(match) for match in glob.glob(uri)]
    found = [match for match in matched if match.suffix.lower() in SUFFIXES]
    if not found:
        other = f" (only {matched[0].name} and the like)" if matched else ""
        raise InputError(f"{uri} matches no pictures{other}", hint="several videos are derained one command each")
    return sorted(found, key=_natural)


def read_still(path: Path | str, *, note: Callable[[str], object] | None = None) -> Frame:
    """One picture, upright by its EXIF orientation, transparency dropped; pts 0, 16-bit samples stay 16 bits.

    Args:
        note: called with what is lost, one phrase each.

    Raises:
        InputError: it cannot be read or decoded.
    """
    picture, turned = _decoded(path)
    tags = colour.colour_of(picture)
    colour.check_supported(tags, name=str(path))
    for lost in probe.notes_on(picture):
        if note is not None:
            note(f"{Path(path).name}: {lost}")
    reader = colour.RgbReader(tags, rotation=turned.turn, mirrored=turned.mirrored)
    return reader.read(picture, 0, _TICK, None)


def _decoded(path: Path | str) -> tuple[av.VideoFrame, probe.Orientation]:
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
            context = av.CodecContext.create(decoder, "r")
            assert isinstance(context, av.VideoCodecContext)
            context.thread_count = 1  # threads would hold the picture back, and wait to be listened to
            picture = next(iter(context.decode(av.Packet(image_parts.without_parts(data, _INFLATED)))), None)
            turned = probe.exif_orientation(data) or probe.Orientation(0, mirrored=False)
        except (*ffmpeg.ERRORS, IndexError) as error:
            reason = ffmpeg.explain(error, lines)
            raise InputError(f"{name} cannot be read as a picture: {reason}", hint="is the file whole?") from error
    if picture is None:
        raise InputError(f"{name} holds no picture that can be decoded", hint="is the file whole?")
    assert isinstance(picture, av.VideoFrame)
    return picture, turned


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
        path: ends in one of ``SUFFIXES``; 16-bit frames stay 16 bits where the format can (png, tiff, ppm), and are
            rounded to 8 elsewhere.
        frame: upright.
        like: the picture it was made from: never overwritten; its colour profile, Exif data and density are carried
            over, the orientation set to upright and the thumbnail left out.
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
            data, lost = _encoded(frame, kind), list[str]()
            if like is not None:
                data, lost = _carried(Path(like).read_bytes(), data, kind.codec)
            if frame.pixels.element_size() == 2 and (rounded := depth_lost(target)) is not None:
                lost.append(rounded)
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


def _carried(source: bytes, data: bytes, codec: str) -> tuple[bytes, list[str]]:
    """``data`` with the colour profile, the Exif data and the density of ``source``, and what of them is left out."""
    lost: list[str] = []
    profile = icc.profile_in(source)
    if profile is not None and (why := icc.obstacle(profile, codec)) is None:
        data = icc.embedded(data, codec, profile)
    elif profile is not None:
        lost.append(f"the colour profile is left out: {why}")
    written = exif.exif_in(source)
    if written is not None:
        try:
            data = exif.with_exif(data, written)
        except ValueError as error:
            lost.append(f"the Exif data is left out: {error}")
    density = exif.density_in(source)
    return data if density is None else exif.with_density(data, density), lost


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


def _encoded(frame: Frame, kind: _Kind) -> bytes:
    deep = kind.deep if frame.pixels.element_size() == 2 else None
    pix_fmt = deep or kind.pix_fmt
    info = VideoInfo(frame.width, frame.height, _TICK, colour=_JFIF)
    context = av.CodecContext.create(kind.codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt, context.time_base = frame.width, frame.height, pix_fmt, _TICK
    context.options = dict(kind.options)
    picture = colour.YuvWriter(info, pix_fmt=pix_fmt).picture(frame)
    picture.pts, picture.time_base = 0, _TICK
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])


def _natural(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name)]
