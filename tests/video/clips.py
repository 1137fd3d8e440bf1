"""Clips for the tests, written and read with PyAV alone, so that the package is compared with something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

SIZE = (64, 48)
COUNT = 12
Array = NDArray[Any]


def scene(index: int, size: tuple[int, int] = SIZE, *, deep: bool = False) -> Array:
    """Smooth colours that move: [H, W, 3] uint8, or uint16 with values between the 8-bit ones."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    t = index / 3
    rgb = np.stack(
        [
            0.5 + 0.35 * np.sin(x / 20 + y / 30 + t),
            0.5 + 0.35 * np.cos(x / 25 - y / 15 - t),
            0.5 + 0.3 * np.sin(y / 12 + t),
        ],
        axis=-1,
    )
    top = 65535 if deep else 255
    return np.asarray(np.rint(rgb * top), dtype=np.uint16 if deep else np.uint8)


def write_clip(
    path: Path,
    *,
    count: int = COUNT,
    size: tuple[int, int] = SIZE,
    rate: Fraction = Fraction(25),
    time_base: Fraction = Fraction(1, 12800),
    pts: Sequence[int] | None = None,
    durations: Sequence[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    tags: Mapping[str, int] | None = None,
    sar: Fraction | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    audio: float | None = None,
    audio_tracks: int = 1,
    subtitles: bool = False,
    chapters: bool = False,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    planes: Sequence[Sequence[Array]] | None = None,
    movflags: str | None = None,
) -> list[int]:
    """Writes a clip of ``scene`` (or of raw ``planes``) and returns the pts it asked for, in ``time_base``.

    ``audio``: seconds of tone from the first frame on; ``subtitles``: one SubRip line, in German and forced, at the
    second frame.
    """
    step = round(1 / (rate * time_base))
    pts = list(pts) if pts is not None else [i * step for i in range(count)]
    extra = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", format=format, container_options=extra) as out:
        out.metadata.update(metadata or {})
        video: Any = out.add_stream(codec, rate=rate, time_base=time_base)
        context = video.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = *size, pix_fmt, time_base
        context.options = dict(options if options is not None else {"crf": "0"} if codec == "libx264" else {})
        context.flags |= 1 << 8
        for key, value in (tags or {}).items():
            setattr(context, key, value)
        if sar is not None:
            context.sample_aspect_ratio = sar
        if rotation is not None or mirrored:
            video.set_display_rotation(rotation or 0, hflip=mirrored)
        sounds: list[Any] = [out.add_stream("aac", rate=48000) for _ in range(audio_tracks)] if audio else []
        lines: Any = out.add_mux_stream("subrip", time_base=Fraction(1, 1000)) if subtitles else None
        if lines is not None:
            lines.metadata["language"], lines.disposition = "deu", 1 << 6  # forced
        if chapters:
            half = len(pts) * step // 2
            out.set_chapters(
                [
                    {"id": 1, "start": 0, "end": half, "time_base": time_base, "metadata": {"title": "rain"}},
                    {"id": 2, "start": half, "end": 2 * half, "time_base": time_base, "metadata": {"title": "sun"}},
                ]
            )
        out.start_encoding()
        for sound in sounds:
            tone = av.AudioFrame.from_ndarray(_tone(audio or 0), format="fltp", layout="stereo")
            tone.sample_rate, tone.time_base = 48000, Fraction(1, 48000)
            tone.pts = round(pts[0] * time_base * 48000)
            out.mux([*sound.encode(tone), *sound.encode(None)])
        if lines is not None:
            packet = av.Packet(b"look, rain")
            packet.stream, packet.time_base = lines, Fraction(1, 1000)
            packet.pts = packet.dts = round(pts[1] * time_base * 1000)
            packet.duration = 200
            out.mux(packet)
        for index, at in enumerate(pts):
            if planes is not None:
                frame = from_planes(planes[index], size, pix_fmt)
            else:
                frame = av.VideoFrame.from_ndarray(scene(index, size), format="rgb24").reformat(
                    format=pix_fmt, dst_colorspace=5, dst_color_range=1
                )
                frame.colorspace, frame.color_range = 2, 0
            for key, value in (tags or {}).items():
                setattr(frame, key, value)
            frame.pts, frame.time_base = at, time_base
            frame.duration = durations[index] if durations is not None else step
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return pts


def from_planes(planes: Sequence[Array], size: tuple[int, int], pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(*size, pix_fmt)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // samples.itemsize), samples.dtype)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows.tobytes())
    return frame


def _tone(seconds: float) -> Array:
    t = np.arange(round(48000 * seconds)) / 48000
    return np.repeat(0.2 * np.sin(2 * np.pi * 440 * t)[None], 2, axis=0).astype(np.float32)


def times(path: Path | str, kind: str = "video") -> list[Fraction]:
    """Presentation times, in seconds, of the decoded pictures, or of the packets of another kind of stream."""
    with av.open(str(path)) as media:
        if kind == "video":
            return [Fraction(f.pts * f.time_base) for f in media.decode(video=0) if f.pts is not None and f.time_base]
        stream = next(s for s in media.streams if s.type == kind)
        return [Fraction(p.pts * p.time_base) for p in media.demux(stream) if p.pts is not None]


def durations(path: Path | str) -> list[Fraction]:
    with av.open(str(path)) as media:
        return [Fraction((p.duration or 0) * p.time_base) for p in media.demux(video=0) if p.size]


def first_frame(path: Path | str) -> av.VideoFrame:
    with av.open(str(path)) as media:
        return next(media.decode(video=0))
