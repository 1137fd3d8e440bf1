"""What can be known of a video from its container and its first decoded picture."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition

from streamderain.errors import InputError
from streamderain.frame import VideoInfo
from streamderain.video import colour, exif, tiff

# PyAV 18.1 frees the metadata of side data a second time, which ends the process; these decoders attach such to a
# picture with a colour profile.
_DEADLY = {"png", "apng"}


class Orientation(NamedTuple):
    """How a player shows the stored picture: flipped if ``mirrored``, then ``turn`` degrees anticlockwise."""

    turn: int = 0
    mirrored: bool = False


def video_stream(container: InputContainer, name: str) -> Any:
    """The stream to derain: the one FFmpeg thinks best, never cover art.

    Raises:
        InputError: there is none, or no decoder for it.
    """
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    chosen = best if best in videos else next(iter(videos), None)
    if chosen is None:
        raise no_video(name, [str(stream.type) for stream in container.streams])
    if chosen.codec_context is None:
        raise InputError(f"{name}: this FFmpeg has no decoder for its video", hint="convert it to H.264 first")
    return chosen


def no_video(name: str, kinds: Iterable[str]) -> InputError:
    """The error that there is no video among streams of these kinds."""
    only = ", ".join(sorted(set(kinds))) or "nothing"
    return InputError(f"{name} holds no video (only {only})", hint="is it the right file?")


def orientation(picture: av.VideoFrame, codec: str) -> tuple[Orientation, str | None]:
    """From the display matrix, with a note where it cannot be followed. Mirrored ones are all eight of EXIF's."""
    if codec in _DEADLY:
        return turn_of(picture), None
    try:
        matrix = cast(Any, picture.side_data)[Type.DISPLAYMATRIX]
    except KeyError:
        return Orientation(), None
    except ValueError:
        # PyAV 18.1 does not know all side data of FFmpeg 8.1 (Exif is one) and then shows none; the angle it has.
        return turn_of(picture), None
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b  # undo the flip of the first axis; the rest is a rotation
    turn = -math.degrees(math.atan2(b, a))
    right = round(turn / 90) * 90
    if abs(turn - right) > 1:
        return Orientation(), f"rotation by {turn:.0f} degrees is ignored: no multiple of 90"
    return Orientation(right % 360, mirrored), "mirrored: written upright, without the flag" if mirrored else None


def turn_of(picture: av.VideoFrame) -> Orientation:
    """As far as FFmpeg's angle tells, which says nothing of mirrors; 0 for what is no multiple of 90."""
    return Orientation(picture.rotation % 360 if picture.rotation % 90 == 0 else 0)


# How Exif's eight orientations are shown: flipped left to right first, then turned anticlockwise.
_EXIF_TURNS = {1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True), 5: (90, True), 6: (270, False),
               7: (270, True), 8: (90, False)}  # fmt: skip


def exif_orientation(data: bytes) -> Orientation:
    """The orientation that a whole JPEG, PNG, WebP or TIFF file states; upright if it states none."""
    written = data if data.startswith(tiff.HEADERS) else exif.exif_in(data) or b""
    return Orientation(*_EXIF_TURNS.get(tiff.number_of(tiff.ORIENTATION, written) or 1, (0, False)))


def is_opaque(picture: av.VideoFrame) -> bool:
    """Whether none of its pixels is transparent, whatever its format could hold."""
    if not (picture.format.has_palette or any(part.is_alpha for part in picture.format.components)):
        return True
    return bool(picture.to_ndarray(format="rgba")[..., 3].min() == 255)


def notes_on(picture: av.VideoFrame, codec: str, metadata: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """What is lost, to be said aloud. ``metadata``: of the stream."""
    # Of GIFs, whose format is always one with alpha, the first picture says whether it is used.
    if any(part.is_alpha for part in picture.format.components) and not (codec == "gif" and is_opaque(picture)):
        return [f"transparency ({picture.format.name}) is dropped"]
    # Of VP8 and VP9: pictures of their own, which FFmpeg's decoders leave alone.
    if any(key.lower() == "alpha_mode" and value == "1" for key, value in metadata.items()):
        return ["transparency (alpha_mode) is dropped"]
    return []


def rate_of(video: Any) -> Fraction | None:
    """Frames/s of a stream, as its container or FFmpeg's look at its beginning tells; None if neither does."""
    rate = video.average_rate or video.guessed_rate
    # Of raw DV FFmpeg's average is that of the ticks.
    if rate and video.base_rate and video.base_rate < rate == 1 / video.time_base:
        rate = video.base_rate
    return Fraction(rate) if rate else None


def video_info(
    picture: av.VideoFrame,
    video: Any,
    container: InputContainer,
    *,
    turned: Orientation,
    before: Fraction = Fraction(0),
    span: Fraction | None = None,
) -> VideoInfo:
    """Everything a sink needs. ``before``, ``span``: seconds that are left out at the beginning, and that will be read
    at most, for the frame count's sake.
    """
    rate = rate_of(video)
    count = video.frames or None
    seconds = _seconds(video, container)
    if count is None and rate and seconds:
        count = round(seconds * rate)
    if count is not None and rate:
        count = max(1, count - round(before * rate))
    if span is not None and rate:
        wanted = max(1, round(span * rate))
        count = wanted if count is None else min(count, wanted)
    return picture_info(
        picture,
        video.codec_context.name,
        turned=turned,
        time_base=video.time_base,
        rate=rate,
        count=count,
        aspect=video.sample_aspect_ratio,
    )


def picture_info(
    picture: av.VideoFrame,
    codec: str,
    *,
    turned: Orientation,
    time_base: Fraction,
    rate: Fraction | None,
    count: int | None,
    aspect: Fraction | None,
) -> VideoInfo:
    """The same of what has no container. ``aspect``: of a stored pixel, as its codec says."""
    sideways = turned.turn in (90, 270)
    width, height = (picture.height, picture.width) if sideways else (picture.width, picture.height)
    sar = aspect if aspect is not None and aspect > 0 else Fraction(1)
    return VideoInfo(
        width=width,
        height=height,
        time_base=time_base,
        frame_rate=rate if rate is not None and rate > 0 else None,
        frame_count=count,
        colour=colour.colour_of(picture),
        sample_aspect_ratio=1 / sar if sideways else sar,
        # A mirrored picture is written upright, for a plain rotation cannot say it.
        rotation=0 if turned.mirrored else turned.turn,
        chroma=colour.chroma_of(picture, codec),
    )


def describe(container: InputContainer, video: Any, picture: av.VideoFrame, info: VideoInfo) -> str:
    """One phrase: container, codec, pixel format, size, rate, colour, orientation."""
    kind = ""
    if info.frame_rate and video.average_rate and video.base_rate:
        kind = " constant" if video.average_rate == video.base_rate else " variable"
    return phrase(container.format.name.split(",")[0], video.codec_context.name, picture, info, kind=kind)


def phrase(container: str, codec: str, picture: av.VideoFrame, info: VideoInfo, *, kind: str = "") -> str:
    """The same of what has no container, but a name for it. ``kind``: what is to be said of the rate."""
    rate = f"{float(info.frame_rate):.6g} frames/s" if info.frame_rate else "unknown rate"
    parts = [
        f"{container}: {codec}",
        picture.format.name,
        f"{info.width}x{info.height}",
        rate + kind,
        colour.describe(info.colour),
    ]
    if info.sample_aspect_ratio != 1:
        parts.append(f"pixels {info.sample_aspect_ratio.numerator}:{info.sample_aspect_ratio.denominator}")
    if info.rotation:
        parts.append(f"rotated {info.rotation} degrees")
    if picture.interlaced_frame:
        parts.append("interlaced")
    return ", ".join(parts)


def _seconds(video: Any, container: InputContainer) -> Fraction | None:
    if video.duration:
        return Fraction(video.duration * video.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None
