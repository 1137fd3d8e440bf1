"""Video out: encodes upright R'G'B' frames with the source's own times and colour, and never leaves half a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import av
import av.error
from av.container import OutputContainer

from streamderain.errors import OutputError, OutputExistsError
from streamderain.frame import Frame, FrameSink, VideoInfo
from streamderain.video import encoder, ffmpeg, sequence, stills
from streamderain.video.colour import FULL, YuvWriter, written_colour
from streamderain.video.remux import Remuxer, SideStreams

_MP4 = {"mp4", "mov", "ipod", "3gp", "3g2"}
_TURNABLE = _MP4 | {"matroska", "webm"}  # containers that can say how to turn the picture
_COUNTED = {"libx264", "libx265", "ffv1"}  # one packet a frame, always
_CONSTANT_RATE = {"yuv4mpegpipe", "avi"}  # containers that count pictures and hold no times
_ASSUMED_RATE = Fraction(25)
_FRAGMENT = "2000000"  # microseconds that a killed process may lose; by key frames alone it would be a whole GOP
_SCHEMES = {"rtsp": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "tcp": "mpegts"}
_SHORT = {"y4m": "yuv4mpegpipe", "ts": "mpegts", "mkv": "matroska"}
_FAILURES = (av.error.FFmpegError, OSError, ValueError, RuntimeError)


class VideoSink(FrameSink, Protocol):
    """A FrameSink that can say what it does: ``description`` is one phrase, ``notes`` are said aloud once."""

    frames_written: int
    description: str

    @property
    def notes(self) -> tuple[str, ...]: ...


class NullSink:
    """A FrameSink that counts and writes nothing."""

    def __init__(self, side: SideStreams | None = None) -> None:
        self.frames_written = 0
        self.description = "nothing is written"
        self.notes: tuple[str, ...] = ()
        if side is not None:
            side.attach(())

    def write(self, frame: Frame) -> None:
        self.frames_written += 1

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class ContainerSink:
    """A FrameSink over one container. Made by ``open_sink``; opened on one thread, then used by one other.

    A file is written as ``OUT.part`` and renamed by ``close()``; ``abort()`` finishes it and leaves it as ``OUT.part``.
    """

    def __init__(
        self, container: OutputContainer, stream: Any, remuxer: Remuxer, info: VideoInfo, plan: encoder.EncoderPlan,
        *, name: str, part: Path | None, final: Path | None,
    ) -> None:  # fmt: skip
        self.frames_written = 0
        self.notes = (*plan.notes, *remuxer.notes)
        self._rounded_to = info.time_base if container.format.name in _CONSTANT_RATE else None
        self._latest: int | None = None
        if self._rounded_to is not None:
            self.notes += (f"{container.format.name} has a constant rate: times are rounded to {info.time_base} s",)
        self.description = f"{plan.codec} {plan.quality} {plan.pix_fmt} → {name}"
        self._container = container
        self._stream = stream
        self._remuxer = remuxer
        self._writer = YuvWriter(info, pix_fmt=plan.pix_fmt)
        self._info = info
        self._counted = plan.codec in _COUNTED
        self._name, self._part, self._final = name, part, final
        self._packets = 0
        self._open = True

    def write(self, frame: Frame) -> None:
        """Encodes one frame, and copies what the side streams have brought since the last.

        Raises:
            OutputError: the disk is full, the reader went away, the encoder failed.
            ValueError: ``frame`` has not the size that ``info`` promised.
        """
        if (frame.width, frame.height) != (self._info.width, self._info.height):
            raise ValueError(
                f"frame is {frame.width}x{frame.height}, the output {self._info.width}x{self._info.height}"
            )
        try:
            self._mux(self._stream.encode(self._writer.picture(self._timed(frame))))
            self.frames_written += 1
            self._remuxer.pump()
        except _FAILURES as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flushes and finishes; only then does the file get its name.

        Raises:
            OutputError: it cannot be finished, or no frame was written. What there is stays as ``OUT.part``.
        """
        if not self._open:
            return
        if not self.frames_written:
            self.abort()
            raise OutputError(f"no frame came, {self._name} was not written")
        self._open = False
        try:
            self._mux(self._stream.encode(None))
            self._remuxer.pump()
            self._container.close()
            if self._counted and self._packets != self.frames_written:
                raise OutputError(
                    f"{self._name}: {self.frames_written} frames went in, {self._packets} came out of the encoder"
                )
            if self._part is not None and self._final is not None:
                os.replace(self._part, self._final)
        except _FAILURES as error:
            raise self._failure(error) from error

    def abort(self) -> None:
        """Finishes what was written so far, so that ``OUT.part`` plays, and gives it no other name. Never raises.

        With no frame written there is nothing worth keeping, and ``OUT.part`` is removed.
        """
        if not self._open:
            return
        self._open = False
        try:
            if self.frames_written:
                self._mux(self._stream.encode(None))
                self._remuxer.pump()
            self._container.close()
        except _FAILURES:
            pass  # the reason for aborting is what the user must hear
        if self._part is not None and not self.frames_written:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _timed(self, frame: Frame) -> Frame:
        if self._rounded_to is None:
            return frame
        pts = round(frame.pts * frame.time_base / self._rounded_to)
        self._latest = pts if self._latest is None else max(pts, self._latest + 1)
        return Frame(frame.pixels, self._latest, self._rounded_to, 1)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._packets += 1
            self._container.mux(packet)

    def _failure(self, error: BaseException) -> OutputError:
        after = f"after {self.frames_written} frames"
        if isinstance(error, BrokenPipeError):
            return OutputError(f"the reader of {self._name} went away {after}")
        kept = f"what was written is in {self._part}" if self._part is not None and self.frames_written else None
        return OutputError(f"{self._name} cannot be written {after}: {ffmpeg.explain(error)}", hint=kept)


def open_sink(
    uri: str,
    info: VideoInfo,
    *,
    side: SideStreams | None = None,
    codec: str = "libx264",
    crf: int | None = 18,
    preset: str | None = None,
    options: Mapping[str, str] = {},
    audio: Literal["copy", "none"] = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    format: str | None = None,
    overwrite: bool = False,
) -> VideoSink:
    """Opens ``uri`` and writes its header, so that whatever it cannot hold is found before any work.

    Args:
        uri: a file, a URL, "-" for standard output, "null:" for nothing, or an image sequence such as ``o%05d.png``.
        info: of the frames that will come; the source's.
        side: the source's side streams, to be copied.
        codec, crf, preset, options: FFmpeg's names and values; a codec without crf gets the like quantiser.
        format: FFmpeg's name of the container, for "-" (nut if not given) and for names without a suffix.
        overwrite: whether an existing file may be replaced; it is, when the new one is complete.

    Raises:
        OutputExistsError: the file exists.
        OutputError: anything else that would make the job fail later.
        ValueError: ``audio`` or ``subtitles`` is neither "copy" nor "none".
    """
    for value, what in ((audio, "audio"), (subtitles, "subtitles")):
        if value not in ("copy", "none"):
            raise ValueError(f"{what} must be 'copy' or 'none', got {value!r}")
    if uri == "null:":
        return NullSink(side)
    if format is None and sequence.is_pattern(uri):
        if side is not None:
            side.attach(())
        return sequence.SequenceSink(uri, info, overwrite=overwrite)
    name = ffmpeg.redact("standard output" if uri == "-" else uri)
    part, final = (None, None) if uri == "-" or ffmpeg.is_url(uri) else _file(uri, side, overwrite=overwrite)
    muxer = _muxer(uri, name, format)
    if muxer not in _TURNABLE:
        info = replace(info, rotation=0)  # it cannot say how to turn the picture, so the picture stays upright
    if muxer in _CONSTANT_RATE:
        info = replace(info, time_base=1 / (info.frame_rate or _ASSUMED_RATE))
    plan = encoder.plan_encoder(info, codec=codec, muxer=muxer, crf=crf, preset=preset, options=options)
    url = "pipe:1" if uri == "-" else ffmpeg.local_url(str(part)) if part is not None else uri
    with ffmpeg.listening() as lines:
        container = None
        try:
            container = av.open(
                url, "w", format=muxer, container_options=_muxer_options(muxer, side, piped=part is None)
            )
            stream = encoder.add_stream(container, plan, info, name=name)
            _tag(stream, plan, info, side)
            remuxer = Remuxer(container, side, audio=audio == "copy", subtitles=subtitles == "copy", name=name)
            remuxer.describe()
            stream.codec_context.open()
            _refuse_unread(plan, lines)
            container.start_encoding()
        except (*_FAILURES, OutputError) as error:
            if container is not None:
                _discard(container)
            if part is not None:
                part.unlink(missing_ok=True)
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{name} cannot be written with {plan.codec} in {muxer}: {ffmpeg.explain(error, lines)}",
                hint="see --codec, --crf, --preset and -e",
            ) from error
    return ContainerSink(container, stream, remuxer, info, plan, name=name, part=part, final=final)


def _tag(stream: Any, plan: encoder.EncoderPlan, info: VideoInfo, side: SideStreams | None) -> None:
    tags = written_colour(info.colour)
    context = stream.codec_context
    context.color_primaries, context.color_trc = tags.primaries, tags.transfer
    if not av.VideoFormat(plan.pix_fmt).is_rgb:
        context.colorspace = tags.matrix
        context.color_range = FULL if plan.pix_fmt.startswith("yuvj") else tags.range
    if info.rotation:
        stream.set_display_rotation(info.rotation)
    if side is not None:
        stream.metadata.update(side.video_metadata)


def _file(uri: str, side: SideStreams | None, *, overwrite: bool) -> tuple[Path, Path]:
    """Where to write and what to call it in the end, after every check that needs no FFmpeg."""
    final = Path(uri)
    part = final.with_name(final.name + ".part")
    if final.is_dir():
        raise OutputError(f"{uri} is a folder", hint="name a file in it, such as out.mp4")
    if not final.parent.is_dir():
        raise OutputError(f"the folder {final.parent} does not exist", hint="make it first")
    if final.exists():
        if side is not None and os.path.exists(side.uri) and os.path.samefile(side.uri, final):
            raise OutputError(f"{uri} is the input itself", hint="write to another name")
        if not overwrite:
            raise OutputExistsError(f"{uri} exists already", hint="choose another name, or pass --overwrite")
    if not os.access(final.parent, os.W_OK):
        raise OutputError(f"the folder {final.parent} may not be written to", hint="check its permissions")
    return part, final


def _muxer(uri: str, name: str, format: str | None) -> str:
    if format is None and uri == "-":
        return "nut"
    if format is None and ffmpeg.is_url(uri):
        format = _SCHEMES.get(uri.split("://")[0].lower())
    suffix = Path(uri).suffix.lower()
    if format is None and suffix in stills.SUFFIXES:
        raise OutputError(f"{name} is one picture", hint=f"name a sequence, such as o%05d{suffix}, or a video")
    try:
        # Asks FFmpeg for its guess; nothing is created before the header is written.
        with av.open(uri if format is None else "-", "w", format=_SHORT.get(format or "", format)) as guess:
            return str(guess.format.name)
    except (ValueError, av.error.FFmpegError) as error:
        what = f"format {format!r}" if format else f"the suffix {suffix!r}" if suffix else "a name without a suffix"
        raise OutputError(
            f"{name}: FFmpeg knows no container for {what}", hint="use .mp4, .mkv, .mov or .webm"
        ) from error


def _muxer_options(muxer: str, side: SideStreams | None, *, piped: bool) -> dict[str, str]:
    if muxer in _MP4 and not piped and side is not None and any(s.kind == "cover" for s in side.streams):
        # Fragments and cover art together make FFmpeg write the cover as a broken second video.
        return {"use_editlist": "1"}
    if muxer in _MP4:
        # hybrid_fragmented: playable up to the last fragment if the process dies, an ordinary MP4 once closed.
        # delay_moov: only then are edit lists right, which hold B-frame delay, audio priming and a late start.
        flags = "frag_keyframe+delay_moov" if piped else "hybrid_fragmented+delay_moov"
        return {"movflags": flags, "use_editlist": "1", "flush_packets": "1", "frag_duration": _FRAGMENT}
    if muxer in ("matroska", "webm"):
        # B-frames begin at negative decoding times; FFmpeg would move everything later for their sake.
        return {"flush_packets": "1", "avoid_negative_ts": "disabled"}
    if muxer == "yuv4mpegpipe":
        return {"strict": "-1"}  # more than 8 bits, which every reader of today knows
    return {"flush_packets": "1"} if muxer in ("nut", "mpegts") else {}


def _refuse_unread(plan: encoder.EncoderPlan, lines: list[tuple[int, str, str]]) -> None:
    """x264 and x265 only warn of a key they do not know in x264-params."""
    for _, _, text in lines:
        if text.startswith(("Error parsing option", "Unknown option")):
            raise OutputError(f"{plan.codec}: {text.strip().rstrip('.')}", hint="see -e")


def _discard(container: OutputContainer) -> None:
    with contextlib.suppress(*_FAILURES):
        container.close()
