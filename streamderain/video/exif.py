"""What is written of a picture beside its colours: Exif data and density, read from one and put into another."""

from __future__ import annotations

import contextlib
import struct
from fractions import Fraction

import av
import av.error

from streamderain.video import image_parts, tiff

_IN_JPEG = b"Exif\0\0"
_XMP_IN_JPEG, _XMP_IN_PNG = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp\0"
_PHOTOSHOP_IN_JPEG, _IPTC = b"Photoshop 3.0\0", b"8BIM\x04\x04"
INCH = 0.0254  # metres
_METRES = {2: INCH, 3: 0.01}  # of TIFF's units; JFIF counts them from 1


def exif_in(data: bytes) -> bytes | None:
    """The Exif data of a whole png, jpg or webp file, a TIFF file of its own; None if there is none.

    Of a tiff file the whole file, if a camera has written in it.
    """
    with contextlib.suppress(struct.error, IndexError):
        if data[:4] in tiff.HEADERS:
            return data if any(tiff.value_of(tag, data) for tag in (tiff.MAKE, tiff.EXIF)) else None
        for kind, body in image_parts.parts_of(data):
            if kind in (b"eXIf", b"EXIF") or (kind == b"\xff\xe1" and body.startswith(_IN_JPEG)):
                return body.removeprefix(_IN_JPEG)
    return None


def with_exif(data: bytes, exif: bytes) -> bytes:
    """``data``, a whole picture that stands upright, with ``exif``, which says so and has no thumbnail.

    Raises:
        ValueError: why it cannot be.
    """
    if not data.startswith((image_parts.PNG, image_parts.JPEG)):
        raise ValueError("it is kept in png and jpg only")
    if tiff.value_of(tiff.BITS_PER_SAMPLE, exif) is not None:
        raise ValueError("it is not taken out of tiff")
    try:
        exif = tiff.upright(exif)
    except struct.error:
        raise ValueError("it is damaged") from None
    if data.startswith(image_parts.PNG):
        if not _borne_in_png(exif):
            raise ValueError("it is damaged")
        return image_parts.with_part(data, b"eXIf", exif)
    if len(_IN_JPEG) + len(exif) > image_parts.MOST_IN_JPEG:
        raise ValueError("it is too long for jpg")
    return image_parts.with_part(data, b"\xff\xe1", _IN_JPEG + exif)


def _borne_in_png(exif: bytes) -> bool:
    """Whether FFmpeg opens a PNG with ``exif``: it refuses the whole picture for an entry that points nowhere."""
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width = encoder.height = 1
    encoder.pix_fmt, encoder.time_base = "gray", Fraction(1, 25)
    (packet,) = encoder.encode(av.VideoFrame(1, 1, "gray"))
    try:
        av.CodecContext.create("png", "r").decode(av.Packet(image_parts.with_part(bytes(packet), b"eXIf", exif)))
    except av.error.FFmpegError:
        return False
    return True


def density_in(data: bytes) -> tuple[float, float] | None:
    """Pixels a metre, across and down, of a whole png, jpg or tiff file; None where none are stated."""
    with contextlib.suppress(struct.error, IndexError):
        if data[:4] in tiff.HEADERS:
            metres = _METRES.get(tiff.number_of(tiff.RESOLUTION_UNIT, data) or 2)
            x, y = (tiff.ratio_of(tag, data) or 0 for tag in (tiff.X_RESOLUTION, tiff.Y_RESOLUTION))
            # What is stated may be anything; these are the bounds of JPEG.
            return (x / metres, y / metres) if metres and 1 <= min(x, y) <= max(x, y) <= 65535 else None
        for kind, body in image_parts.parts_of(data):
            if kind == b"pHYs":
                x, y, unit = struct.unpack(">IIB", body)
                return (x, y) if unit == 1 and x and y else None
            if kind == b"\xff\xe0" and body.startswith(b"JFIF\0"):
                unit, x, y = struct.unpack_from(">BHH", body, 7)
                metres = _METRES.get(unit + 1)
                return (x / metres, y / metres) if metres and x and y else None
    return None


def with_density(data: bytes, density: tuple[float, float]) -> bytes:
    """``data`` as our encoders made it, with ``density`` pixels a metre if it is a png or jpg."""
    if data.startswith(image_parts.JPEG):
        x, y = (min(round(each * INCH), 65535) for each in density)
        return image_parts.with_part(data, b"\xff\xe0", b"JFIF\0" + struct.pack(">HBHHH", 0x0101, 1, x, y, 0))
    if data.startswith(image_parts.PNG):
        data = image_parts.without_parts(data, (b"pHYs",))  # FFmpeg's own, of the shape of a pixel
        return image_parts.with_part(data, b"pHYs", struct.pack(">IIB", round(density[0]), round(density[1]), 1))
    return data


def others_in(data: bytes) -> list[str]:
    """What else a whole jpg, png, webp or tiff file says of its picture and is not carried over: "XMP", "IPTC"."""
    found = set[str]()
    with contextlib.suppress(struct.error, IndexError):
        if data[:4] in tiff.HEADERS:
            return [name for tag, name in ((tiff.XMP, "XMP"), (tiff.IPTC, "IPTC")) if tiff.value_of(tag, data)]
        for kind, body in image_parts.parts_of(data):
            if kind == b"XMP " or body.startswith((_XMP_IN_JPEG, _XMP_IN_PNG)):
                found.add("XMP")
            if kind == b"\xff\xed" and body.startswith(_PHOTOSHOP_IN_JPEG) and _IPTC in body:
                found.add("IPTC")
    return sorted(found, reverse=True)
