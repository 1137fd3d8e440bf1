"""Video out: encodes upright R'G'B' frames with the source's own times and colour, and never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import torch
from av.container import OutputContainer

from streamderain.errors import DeviceError, OutputError, OutputExistsError, OutputOptionError, StreamderainError
from streamderain.exact import whole
from streamderain.frame import Frame, FrameSink, VideoInfo
from streamderain.redaction import redact_target
from streamderain.video import cuda, encoder, ffmpeg, nvenc, sequence
from streamderain.video.container import ContainerSink
from streamderain.video.display import is_window, open_display
from streamderain.video.earlier import RESUMABLE, Earlier, mark
from streamderain.video.muxer import (
    MP4,
    SEGMENT,
    choose_muxer,
    muxer_options,
    pictures_only,
    playlist_options,
)
from streamderain.video.outlet import Finishing
from streamderain.video.planes import delivery
from streamderain.video.publish import open_publisher
from streamderain.video.remux import IN_WORDS, Remuxer, SideStream, SideStreams, about_stream
from streamderain.video.segments import SegmentFiles
from streamderain.video.target import Target, is_playlist
from streamderain.yuv import Delivery, YuvFrame

_TURNABLE = MP4 | {"matroska", "webm"}  # containers that can say how to turn the picture


class VideoSink(FrameSink, Protocol):
    """A FrameSink that can say what it does: ``description`` is one phrase, ``notes`` are said aloud once."""

    frames_written: int
    description: str

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def replaces(self) -> bool:
        """Whether something older has the output's name, until ``close()``."""
        ...

    def close_as_part(self) -> None:
        """Finishes as ``close()`` does, but an older file keeps the name, and what was written stays ``OUT.part``."""
        ...


class NullSink(Finishing):
    """A FrameSink that counts and writes nothing. ``delivery``: as `ContainerSink`'s."""

    _name = "null:"
    description = "nothing is written"

    def __init__(self, *, planes: Delivery | None = None) -> None:
        self.delivery = planes

    def write(self, frame: Frame | YuvFrame) -> None:
        self._check_open()
        self.frames_written += 1

    def close(self) -> None:
        self._open = False

    abort = close


def open_sink(
    uri: str | os.PathLike[str],
    info: VideoInfo,
    *,
    side: SideStreams | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    options: Mapping[str, str] = {},
    pix_fmt: str | None = None,
    audio: Literal["copy", "none"] = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    format: str | None = None,
    overwrite: bool = False,
    origin: str | None = None,
    resume: bool = False,
    wait: float = 0.0,
    stop: threading.Event | None = None,
    device: torch.device | str | None = None,
) -> VideoSink:
    """Opens ``uri`` and writes its header, so that whatever it cannot hold is found before any work.

    Args:
        uri: a file, a FIFO or device, a URL, "-" for standard output, "null:" for nothing, "display:" for a
            window ("display:full" for the full screen), or an image sequence such as ``o%05d.png``.
        info: of the frames that will come; the source's.
        side: the source's side streams, to be copied.
        codec, crf, preset, options: FFmpeg's names and values; a codec without crf gets the like quantiser. None is
            not asked for: libx264 at crf 18, or what the container has instead (libvpx-vp9 for .webm).
        pix_fmt: FFmpeg's name of the pixel format to encode; None keeps depth and chroma of ``info`` where the codec
            can.
        format: FFmpeg's name of the container, for "-" (nut if not given) and for names without a suffix.
        overwrite: whether an existing file may be replaced; it is, when the new one is complete.
        origin: stands for the input and all that is done with it. It is written into MP4, Matroska and WebM, so that a
            later run can ``resume``.
        resume: take over the pictures that earlier runs of the same origin have made: from ``uri``, if such a run was
            interrupted, or from the unfinished file that it left. As many frames as the sink has ``held`` need not be
            derained.
        wait: seconds that a network target is tried for before it counts as out of reach.
        stop: when it gets set, that waiting ends, and the one for the times at which a file's frames are due over the
            network and in a window: give `run` the same.
        device: that the frames come from, ``Derainer.plan.device``. From a CUDA GPU they are taken in planes where
            the codec has them so (``ContainerSink.delivery``), by NVENC from the GPU's memory.

    Raises:
        DeviceError: an encoder of NVIDIA GPUs was asked for, and there is none.
        OutputExistsError: the file exists, and is of another origin if that is to ``resume``.
        OutputOptionError: what was asked for cannot be had; nothing is ever quietly left out.
        OutputError: anything else that would make the job fail later.
        TypeError: ``uri``, ``info``, ``side`` or ``options`` is something else.
        ValueError: ``audio`` or ``subtitles`` is neither "copy" nor "none"; or what ``side`` is to be copied from is
            closed, as it is when all frames have been read; there is no ``origin`` to ``resume``; ``crf`` is no whole
            number; or ``device`` is neither a CUDA GPU nor the CPU.
    """
    if resume and origin is None:
        raise ValueError("resume needs an origin")
    for value, what in ((audio, "audio"), (subtitles, "subtitles")):
        if value not in ("copy", "none"):
            raise ValueError(f"{what} must be 'copy' or 'none', got {value!r}")
    if not isinstance(info, VideoInfo):
        raise TypeError(f"info must be a VideoInfo, such as a source's info, got {info!r:.80}")
    if side is not None and not isinstance(side, SideStreams):
        raise TypeError(f"side must be a source's side, got {side!r:.80}")
    side = side if side is not None else SideStreams()
    copied = side.chosen(audio=audio == "copy", subtitles=subtitles == "copy")
    if not isinstance(options, Mapping) or not all(isinstance(value, str) for value in options.values()):
        raise TypeError(f"options must map names to strings, such as {{'g': '12'}}, got {options!r:.80}")
    if crf is not None:
        crf = whole("crf", crf)
    home = cuda.gpu(device)
    uri = ffmpeg.local_path(uri)
    if resume:
        _check_resumable(uri, format)
    asked = {"--codec": codec, "--crf": crf, "--preset": preset, "-e": options or None, "--format": format}
    asked["--pix-fmt"] = pix_fmt
    if uri == "null:":
        _refuse(asked, "nothing is written to null:")
        # As x264 would have its frames, so that they come all the way.
        pix_fmt = "yuv420p10le" if info.colour.bit_depth > 8 else "yuv420p"
        return NullSink(planes=None if home is None else delivery(info, pix_fmt, left=True))
    if is_window(uri):
        _refuse(asked, "nothing is encoded for a window")
        return open_display(uri, info, stop=stop)
    if sequence.is_pattern(uri):
        _refuse(asked, f"{uri} is a sequence of pictures")
        return sequence.SequenceSink(uri, info, side, copied, overwrite=overwrite)
    if ffmpeg.is_url(uri):
        return open_publisher(
            uri, info, muxer=choose_muxer(uri, redact_target(uri), format), side=side,
            codec=codec, crf=crf, preset=preset, options=options, pix_fmt=pix_fmt, wait=wait, stop=stop,
        )  # fmt: skip
    side.check_open(copied)
    target = Target(uri, side, overwrite=overwrite, resume=resume)
    muxer = choose_muxer(uri, target.name, format)
    if muxer not in _TURNABLE:
        info = replace(info, rotation=0)  # it cannot say how to turn the picture, so the picture stays upright
    playlist = Path(uri) if is_playlist(uri) else None
    if playlist is not None:  # for encoders that do not make a key frame on demand
        every = max(1, round(SEGMENT * (info.frame_rate or ffmpeg.ASSUMED_RATE)))
        options = encoder.with_defaults(options, {"g": str(every)})
    plan = encoder.plan_encoder(
        info, codec=codec, muxer=muxer, crf=crf, preset=preset, options=options, pix_fmt=pix_fmt
    )
    info = replace(info, colour=plan.colour)
    if plan.rate is not None:
        _refuse({"--resume": resume or None}, f"{plan.codec} has a constant rate")
        info = replace(info, time_base=1 / plan.rate)
    gpu = _nvenc_on(plan, home)
    planes = delivery(info, plan.pix_fmt, left=plan.chroma_left, device=gpu) if home is not None else None
    return _begun(
        target, plan, info, side, copied, muxer=muxer, playlist=playlist, origin=origin, gpu=gpu, planes=planes
    )


def _begun(
    target: Target, plan: encoder.EncoderPlan, info: VideoInfo, side: SideStreams, copied: list[SideStream],
    *, muxer: str, playlist: Path | None, origin: str | None, gpu: torch.device | None, planes: Delivery | None,
) -> ContainerSink:  # fmt: skip
    """Opens container and encoder and writes the header. Whatever raises, Ctrl-C too, leaves nothing behind.

    Args:
        copied: those of ``side`` that are to be.
        playlist: the output, if it is one.
        gpu: whose memory the encoder reads.
        planes: what the sink takes.
    """
    target.claim()
    with contextlib.ExitStack() as undo:
        undo.callback(target.discard)
        segments, container_options = None, muxer_options(muxer, side, info.time_base, piped=target.part is None)
        if playlist is not None:
            segments = SegmentFiles(playlist, live=info.live)
            container_options = playlist_options(playlist, live=info.live, first=segments.first)
        with ffmpeg.listening() as lines, cuda.current(gpu):
            opening = False
            try:
                container = av.open(
                    target.url, "w", format=muxer, container_options=container_options,
                    io_open=None if segments is None else segments.open,
                )  # fmt: skip
                undo.callback(_discard, container)
                hwaccel = None if gpu is None else cuda.acceleration(gpu)
                stream = encoder.add_stream(container, plan, info, name=target.name, hwaccel=hwaccel)
                if info.rotation:
                    stream.set_display_rotation(info.rotation)
                stream.metadata.update(about_stream(side.video_metadata, muxer))
                stream.disposition = side.video_disposition
                remuxer = Remuxer(container, side, copied, name=target.name)
                remuxer.describe()
                if origin is not None:
                    mark(container, origin)
                opening = True
                encoder.open_codec(stream.codec_context, plan)
                opening = False
                _refuse_unread(plan, lines)
                target.begin()
                earlier = _earlier(target, origin, stream) if origin is not None else []
                container.start_encoding()
                if segments is not None:
                    segments.check()
            except ffmpeg.WRITE_ERRORS as error:
                raise _unopened(
                    error, plan, info, lines, name=target.name, muxer=muxer, opening=opening, copied=copied
                ) from error
        sink = ContainerSink(container, stream, remuxer, info, plan, target, planes, segments, earlier)
        undo.pop_all()
        return sink


def _unopened(
    error: BaseException, plan: encoder.EncoderPlan, info: VideoInfo, lines: list[tuple[int, str, str]],
    *, name: str, muxer: str, opening: bool, copied: list[SideStream],
) -> StreamderainError:  # fmt: skip
    """Why an output could not be begun.

    Args:
        lines: what FFmpeg logged meanwhile.
        opening: it was the encoder that did not open.
        copied: what is to be copied beside the video.
    """
    if isinstance(error, OSError) and error.errno != errno.EPERM:  # muxers refuse what they cannot hold so
        return OutputError(f"{name} cannot be written: {ffmpeg.explain(error)}")
    kinds = {stream.kind: stream.codec for stream in copied}
    beside = {f"the {word}, {kinds[kind]}": f"{flag} none" for kind, (word, flag) in IN_WORDS.items() if kind in kinds}
    if beside and not opening and encoder.fits(plan, info, muxer=muxer):
        return OutputOptionError(
            f"{name}: {muxer} cannot hold {' and '.join(beside)}",
            hint=f"use {' or '.join(beside.values())}, or write to an .mkv",
        )
    said = "\n".join(text for _, _, text in lines)
    if opening and plan.codec in nvenc.ON_THE_CPU and nvenc.is_refusal(error, said):
        return DeviceError(
            f"{plan.codec} cannot be had: {ffmpeg.first_error(lines) or ffmpeg.explain(error)}",
            hint=f"use --codec {nvenc.ON_THE_CPU[plan.codec]}",
        )
    # The encoder itself finds a value bad: that is wrong usage, all else is the world.
    kind = OutputOptionError if opening and isinstance(error, ValueError) else OutputError
    return kind(
        f"{name} cannot be written with {plan.codec} in {muxer}: {ffmpeg.explain(error, lines)}",
        hint="see --codec, --crf, --preset and -e",
    )


def _earlier(target: Target, origin: str, stream: Any) -> list[Earlier]:
    """What earlier runs left of ``target`` that packets of ``stream`` may follow, the longest first.

    Raises:
        OutputExistsError: what has the output's name is none of it.
    """
    fitting = []
    for path, complete in target.earlier():
        found = Earlier(path, origin, stream, whole=complete)
        if found.fits:
            fitting.append(found)
        elif complete:
            raise OutputExistsError(
                f"{target.name} exists already, and is not of the same input and options",
                hint="choose another name, or pass --overwrite",
            )
        else:
            why = "is of another input or other options" if found.read else "holds no picture yet, or cannot be read"
            target.notes += (f"{path} is left as it is: it {why}",)
        if complete:
            target.supersede()
    fitting.sort(key=lambda found: found.frames, reverse=True)
    if fitting:
        longest = fitting[0]
        enough = f"{ffmpeg.frames(longest.frames)} of {longest.path} are taken over"
        target.notes += (
            enough if longest.frames else f"{longest.path} is too short to go on from: it has no second key frame",
        )
    return fitting


def _nvenc_on(plan: encoder.EncoderPlan, device: torch.device | None) -> torch.device | None:
    """The GPU whose memory the encoder reads; None for one that reads the CPU's.

    Raises:
        DeviceError: the plan is for an encoder of NVIDIA GPUs, and it does not open.
    """
    nvenc.require(plan.codec, device)
    return device if plan.codec in nvenc.ON_THE_CPU and plan.pix_fmt in ("nv12", "p010le") else None


def check_output(
    uri: str,
    side: SideStreams | None,
    *,
    overwrite: bool,
    resume: bool = False,
    codec: str | None = None,
    format: str | None = None,
    needed: Collection[str] = (),
    device: torch.device | None = None,
) -> None:
    """What of `open_sink`'s refusals can be known from names alone, before other preparations, which may take minutes.

    Args:
        codec: one that will not be done without; else None.
        needed: kinds of side streams that will not be done without, "audio" and "subtitle", if there are any.
        device: the GPU that ``codec`` is to open on, if it is one of NVENC's; None for the first.

    Raises: as `open_sink`, which looks at everything again.
    """
    uri = ffmpeg.local_path(uri)
    side = side if side is not None else SideStreams()
    if resume:
        _check_resumable(uri, format)
    if codec is not None:
        nvenc.require(codec, device)
    holds_more = uri == "null:"
    if sequence.is_pattern(uri):
        sequence.folder_of(uri)
        sequence.existing(uri, side, overwrite=overwrite)
    elif not holds_more and not is_window(uri):
        if not ffmpeg.is_url(uri):
            Target(uri, side, overwrite=overwrite, resume=resume)
        muxer = choose_muxer(uri, redact_target(uri), format)
        holds_more = not ffmpeg.is_url(uri) and not pictures_only(muxer)
    there = {stream.kind for stream in side.streams}
    lost = [f"{word} ({flag} copy)" for kind, (word, flag) in IN_WORDS.items() if kind in there and kind in needed]
    if lost and not holds_more:
        raise OutputOptionError(
            f"{redact_target(uri)} takes the picture only, no {' and no '.join(lost)}",
            hint="leave it out, or write an .mkv",
        )


def _check_resumable(uri: str, format: str | None) -> None:
    """Raises OutputOptionError unless ``uri`` is a file that can be gone on with."""
    special = uri in ("-", "null:") or is_window(uri) or ffmpeg.is_url(uri) or sequence.is_pattern(uri)
    if special or choose_muxer(uri, redact_target(uri), format) not in RESUMABLE:
        raise OutputOptionError(
            f"{redact_target(uri)} cannot be resumed", hint="leave out --resume, or write an .mp4 or .mkv"
        )


def _refuse(asked: Mapping[str, object], why: str) -> None:
    vain = [flag for flag, value in asked.items() if value is not None]
    if vain:
        raise OutputOptionError(f"{' and '.join(vain)} cannot be had: {why}", hint=f"leave out {' and '.join(vain)}")


def _refuse_unread(plan: encoder.EncoderPlan, lines: list[tuple[int, str, str]]) -> None:
    """x264 and x265 only warn of a key they do not know in x264-params."""
    for _, _, text in lines:
        if text.startswith(("Error parsing option", "Unknown option")):
            raise OutputOptionError(f"{plan.codec}: {text.strip().rstrip('.')}", hint="see -e")


def _discard(container: OutputContainer) -> None:
    with contextlib.suppress(*ffmpeg.WRITE_ERRORS):
        container.close()
