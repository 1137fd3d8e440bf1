"""Video in: opens a file, a pipe, a URL or an image sequence, on the GPU or the CPU, and finds its first picture."""

from __future__ import annotations

import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import torch
from av.container import InputContainer

from streamderain.errors import DeviceError, InputError
from streamderain.exact import whole
from streamderain.redaction import redact
from streamderain.video import certificates, colour, cuda, ffmpeg, nvdec, probe, sequence, stills
from streamderain.video.address import TIMED_OUT, patience
from streamderain.video.connection import refusal
from streamderain.video.decode import Decoder, Picture
from streamderain.video.nvdec import DECODINGS, Decoding, RefusedError
from streamderain.video.remux import SideStreams, side_streams
from streamderain.video.truncation import missing_bytes
from streamderain.video.video_source import VideoSource

_THREADS = 4
# FFmpeg takes a list for what it is by its content: a stranger's in.mp4 would show what else is in its folder.
_LISTS = (".ffconcat", ".ffcat", ".txt")
# Without an index FFmpeg looks for a time by trial, and for the very first one finds the second key frame.
_WITHOUT_INDEX = {"mpegts", "mpeg"}


def open_source(
    uri: str | os.PathLike[str],
    *,
    start: float | None = None,
    duration: float | None = None,
    frames: int | None = None,
    on_error: Literal["fail", "conceal"] = "fail",
    frame_rate: Fraction | None = None,
    audio: bool = True,
    subtitles: bool = True,
    read_timeout: float = 5.0,
    insecure: bool = False,
    decoder: Decoding = "cpu",
    device: torch.device | str | None = None,
) -> VideoSource:
    """Opens ``uri`` and decodes its first picture.

    Args:
        uri: a file, a URL, "-" for standard input, or an image sequence such as ``f%05d.png``.
        start: seconds from the beginning of the video to begin at; output time then begins at 0.
        duration: seconds of video to read.
        frames: how many frames to read at most.
        on_error: a damaged picture ends the job, or the last good one is repeated in its place and counted.
        frame_rate: frames/s of an image sequence, 25 if not given.
        audio, subtitles: whether those streams are read at all.
        read_timeout: seconds that a server may say nothing. Files and pipes may take as long as they like.
        insecure: any certificate of https and rtmps will do; those of rtsps are never checked.
        decoder: "cpu"; "nvdec", an NVIDIA GPU's own decoder; or "auto", which takes that one if ``device`` is given
            and it does the video, and tells in `notes` why if it does not. Its pictures stay in the GPU's memory
            until they are asked for.
        device: that the frames are for, ``Derainer.plan.device``; the first CUDA GPU if "nvdec" is asked for without.

    Raises:
        DeviceError: "nvdec" was asked for and cannot be had.
        InputError: no such file, a folder, no video in it, nothing decodable, a server that does not answer.
        UnsupportedInputError: HDR, or a colour matrix that cannot be converted.
        TypeError: ``uri`` is neither a string nor a path.
        ValueError: an argument out of range.
    """
    for value, what in ((start, "start"), (duration, "duration")):
        if value is not None and (not math.isfinite(value) or value < 0 or (what == "duration" and value == 0)):
            raise ValueError(f"{what} must be a time in seconds, got {value}")
    if frames is not None:
        frames = whole("frames", frames, least=1)
    if on_error not in ("fail", "conceal"):
        raise ValueError(f"on_error must be 'fail' or 'conceal', got {on_error!r}")
    if frame_rate is not None and frame_rate <= 0:
        raise ValueError(f"frame_rate must be positive, got {frame_rate}")
    if not 0 < read_timeout < math.inf:
        raise ValueError(f"read_timeout must be above 0 s, got {read_timeout}")
    if decoder not in DECODINGS:
        raise ValueError(f"decoder must be {', '.join(DECODINGS)}, got {decoder!r}")
    if decoder == "nvdec" and on_error == "conceal":
        raise ValueError(
            "on_error conceal counts damaged pictures, which NVDEC does not tell of; use decoder auto or cpu"
        )
    for_gpu = cuda.gpu(device)
    uri = ffmpeg.local_path(uri)
    if not uri:
        raise InputError("the input has no name", hint="name a file, such as rainy.mp4")
    name = redact("standard input" if uri == "-" else uri)

    def opened(gpu: torch.device | None) -> VideoSource:
        container = _open_container(uri, name, frame_rate, read_timeout, gpu, insecure=insecure)
        try:
            return _start(
                container, uri, name, start, duration, frames, on_error, gpu, audio=audio, subtitles=subtitles
            )
        except BaseException:
            container.close()
            raise

    if decoder == "cpu" or (decoder == "auto" and (for_gpu is None or sequence.is_pattern(uri))):
        return opened(None)
    gpu = for_gpu or torch.device("cuda", 0)
    try:
        _expect(gpu)
        if decoder == "auto":
            _only_if_all_the_same(uri, on_error)
        return opened(gpu)
    except (RefusedError, InputError) as error:
        if decoder == "nvdec":
            if isinstance(error, InputError):
                raise
            raise DeviceError(
                f"NVDEC cannot be had for {name}: {error}", hint="use --decoder auto or --decoder cpu"
            ) from error
        source = opened(None)  # what is wrong with the input itself is told by this
        source.say(f"decoding on the CPU, not by NVDEC: {error}")
        return source


def _expect(gpu: torch.device) -> None:
    """Raises RefusedError where FFmpeg cannot use the GPU at all."""
    if (reason := nvdec.missing(gpu)) is not None:
        raise RefusedError(reason)


def _only_if_all_the_same(uri: str, on_error: Literal["fail", "conceal"]) -> None:
    """Raises RefusedError where trying NVDEC, or having it, would make a difference to more than speed."""
    if uri == "-" or (not ffmpeg.is_url(uri) and os.path.exists(uri) and not os.path.isfile(uri)):
        raise RefusedError("a pipe or device cannot be opened a second time if the GPU does not do it")
    if on_error == "conceal":
        raise RefusedError("it does not tell which pictures are damaged, and --on-error conceal counts them")


def _place(uri: str, name: str, frame_rate: Fraction | None) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg is to open: the URL, the container's format where it must be told, and options.

    Raises:
        InputError: there is no such file, or it cannot be read.
        ValueError: ``frame_rate`` for what is no image sequence.
    """
    options: dict[str, str] = {}
    container_format = None
    url = uri
    if uri == "-":
        if sys.stdin is None:
            raise InputError(f"{name} is closed", hint="pipe a video into it, or name a file")
        url = "fd:" if _rewinds() else "pipe:0"
    elif sequence.is_pattern(uri):
        container_format, url = "image2", sequence.url_of(uri)
        start = sequence.first_number(uri)
        _check_first(sequence.named(uri, start))
        options = {"pattern_type": "sequence", "start_number": str(start), "framerate": str(frame_rate or 25)}
    elif not ffmpeg.is_url(uri):
        if os.path.isdir(uri):
            raise InputError(
                f"{name} is a folder", hint="its pictures can be derained one by one: run FOLDER OUTFOLDER"
            )
        try:
            os.stat(uri)
        except FileNotFoundError as error:
            raise InputError(f"{name} does not exist", hint="check the spelling of the path") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{name} cannot be read: {ffmpeg.explain(error)}", hint="check its name") from error
        if not os.access(uri, os.R_OK):
            raise InputError(f"{name} may not be read", hint="check its permissions")
        url = ffmpeg.local_url(uri)
        if "%" in uri:
            options = {"pattern_type": "none"}
    if frame_rate is not None and container_format is None:
        raise ValueError(f"frame_rate is for image sequences such as f%05d.png, got {frame_rate} for {name}")
    return url, container_format, options


def _check_first(picture: Path) -> None:
    """Raises UnsupportedInputError as `stills.check_decodable`, and InputError: it cannot be read."""
    try:
        stills.check_decodable(picture.read_bytes(), name=str(picture))
    except OSError as error:
        raise InputError(f"{picture} cannot be read: {error.strerror}", hint="check its permissions") from error


def _open_container(
    uri: str, name: str, frame_rate: Fraction | None, read_timeout: float, gpu: torch.device | None, *, insecure: bool
) -> InputContainer:
    url, container_format, options = _place(uri, name, frame_rate)
    limits, timeout = patience(uri, read_timeout)
    options |= limits | certificates.checking(uri, insecure=insecure)
    began = time.monotonic()
    with ffmpeg.listening() as lines, cuda.current(gpu):
        try:
            container = av.open(
                url, "r", format=container_format, container_options=options, timeout=timeout,
                metadata_errors="replace", hwaccel=None if gpu is None else cuda.acceleration(gpu, kept=True),
            )  # fmt: skip
        except ffmpeg.ERRORS as error:
            reason, hint = ffmpeg.explain(error, lines), None
            if ffmpeg.is_url(uri):
                # Cut off by the time limit, RTSP says that what it got so far makes no sense.
                senseless = isinstance(error, av.error.InvalidDataError)
                late = isinstance(error, TIMED_OUT) or (senseless and time.monotonic() - began > 0.9 * read_timeout)
                reason, hint = refusal(error, uri, within=read_timeout if late else None, options=options)
            raise InputError(
                f"{name} cannot be opened: {reason}", hint=hint or "is it a video file, and whole?"
            ) from ffmpeg.redacted(error)
    called = uri.partition("?")[0] if ffmpeg.is_url(uri) else uri
    if container.format.name == "concat" and not called.lower().endswith(_LISTS):
        container.close()
        raise InputError(
            f"{name} is a list of other files, and not called one", hint="if it is yours, name it .ffconcat"
        )
    return container


def _rewinds() -> bool:
    """Whether standard input is a file, from its beginning, in which FFmpeg may go to and fro."""
    try:
        return stat.S_ISREG(os.fstat(0).st_mode) and os.lseek(0, 0, os.SEEK_CUR) == 0
    except OSError:
        return False


def _seekable(uri: str) -> bool:
    """False for what comes as a stream; what is served may be either."""
    return os.path.isfile(uri) or (uri == "-" and _rewinds())


def _start(
    container: InputContainer, uri: str, name: str, start: float | None, duration: float | None, frames: int | None,
    on_error: Literal["fail", "conceal"], gpu: torch.device | None, *, audio: bool, subtitles: bool,
) -> VideoSource:  # fmt: skip
    video = probe.video_stream(container, name)
    _set_threads(video.codec_context, gpu)
    if container.format.name == "image2":
        stills.set_strict(video.codec_context)
    side, notes = side_streams(uri, container, video, audio=audio, subtitles=subtitles, conceal=on_error == "conceal")
    rate = probe.rate_of(video)
    tick: Fraction = video.time_base
    origin: int = video.start_time or 0
    missing = missing_bytes(uri) if os.path.isfile(uri) else 0
    make = partial(Decoder, container, video, side, name=name, rate=rate, cut_off=missing > 0)
    with ffmpeg.listening() as lines:
        try:
            if start is None:
                decoder = make()
                pictures = decoder.pictures()
                first = next(pictures, None)
            else:
                target = origin + math.ceil(_exact(start) / tick)
                piped = not ffmpeg.is_url(uri) and not sequence.is_pattern(uri) and not _seekable(uri)
                decoder, pictures, first = _seek(container, video, side, make, target, piped=piped)
        except InputError as error:
            said = ffmpeg.last_error(lines)
            if "partial file" in f"{error} {said}" and not _seekable(uri):
                raise InputError(
                    f"{name} is an MP4 or MOV with its index at the end, which cannot be had before the pictures there",
                    hint="name the file instead, or have it written with -movflags +faststart",
                ) from error
            if said and said not in str(error):
                raise InputError(f"{error} ({said})") from error
            raise
    if first is None:
        if start:
            raise InputError(f"{name} ends before {start} s", hint="choose an earlier start")
        raise InputError(f"{name} holds no picture that can be decoded", hint="is the file whole?")
    colour.check_supported(colour.colour_of(first.frame), name=name)
    turned, note = probe.orientation(first.frame, video.codec_context.name)
    notes += [*([note] if note else []), *probe.notes_on(first.frame, video.codec_context.name, video.metadata)]
    if gpu is not None:
        context = video.codec_context
        nvdec.check_first(
            first.frame, codec=context.name, profile=context.profile, size=(context.width, context.height),
            turned=turned != probe.Orientation(), said=ffmpeg.first_error(lines),
        )  # fmt: skip
        notes.append(f"decoding on {gpu}, by NVDEC")
    spans = [_exact(duration)] if duration is not None else []
    if frames is not None and rate:
        spans.append(frames / Fraction(rate))
    begin = first.pts * tick
    before = Fraction(0) if start is None else begin - origin * tick
    info = probe.video_info(first.frame, video, container, turned=turned, before=before, span=min(spans, default=None))
    if start is not None:
        notes += side.advance_timecode(before, rate)
    if missing:
        notes.append(f"cut off: {missing:,} bytes are missing at the end of the file")
    side.begin = begin if start is not None else None
    side.end = begin + _exact(duration) if duration is not None else None
    side.expected_end = begin + min(spans) if spans else None
    return VideoSource(
        container,
        decoder,
        _limited(chain([first], pictures), decoder, side, tick, frames),
        info=info,
        side=side,
        first=first.frame,
        turned=turned,
        notes=notes,
        name=name,
        description=probe.describe(container, video, first.frame, info),
        offset=first.pts if start is not None else 0,
        missing=missing,
    )


def _set_threads(context: Any, gpu: torch.device | None) -> None:
    """Raises RefusedError: a GPU is to decode what FFmpeg decodes on the CPU alone."""
    if gpu is None:
        context.thread_type = "AUTO"
        context.thread_count = min(_THREADS, os.cpu_count() or 1)
    elif not context.is_hwaccel:
        codec, by = context.codec.canonical_name, context.name
        raise RefusedError(f"FFmpeg decodes {codec}{f' by {by}' if by != codec else ''} on the CPU alone")
    else:
        context.thread_count = 1  # the GPU does the work


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)


def _seek(
    container: InputContainer, video: Any, side: SideStreams, make: Callable[[], Decoder], target: int, *, piped: bool
) -> tuple[Decoder, Iterator[Picture], Picture | None]:
    """Decoder, its pictures and the first at or after ``target`` ticks; exact, however coarse the container's index."""
    tick, origin = video.time_base, video.start_time or 0
    side.begin = target * tick
    beginning = origin - round(10 / tick) if container.format.name in _WITHOUT_INDEX else origin
    if container.format.name == "image2":
        beginning = target  # the pictures of a sequence lean on nothing
    for back in (1, 10, None):
        goal = beginning if back is None or piped else max(beginning, target - round(back / tick))
        side.clear()
        if not piped:  # FFmpeg would look for the time in what then is gone
            try:
                container.seek(goal, stream=video, backward=True)
            except ffmpeg.ERRORS:
                goal = beginning  # it cannot be gone to: what comes first is all there is
        decoder = make()
        pictures = decoder.pictures()
        first = next(pictures, None)
        if goal == beginning or (first is not None and first.pts <= target):
            break
    while first is not None and first.pts < target:
        first = next(pictures, None)
    return decoder, pictures, first


def _limited(
    pictures: Iterator[Picture], decoder: Decoder, side: SideStreams, tick: Fraction, frames: int | None
) -> Iterator[Picture]:
    """Ends ``pictures`` after ``frames`` of them or at ``side.end``, and the side streams with them."""
    until = side.end
    for count, picture in enumerate(pictures, start=1):
        if until is not None and picture.pts * tick >= until:
            break
        shown = (picture.pts + (picture.duration or 1)) * tick
        if frames is not None:
            side.hold = shown
        yield picture
        if count == frames:
            side.end = shown if until is None else min(shown, until)
            break
    else:
        side.hold = None
        return
    assert side.end is not None
    decoder.skim(side.end)
    side.hold = None
