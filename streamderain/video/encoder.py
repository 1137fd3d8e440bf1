"""Choosing how to encode: pixel format, quality and speed of whatever codec FFmpeg has, checked before any work."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.codec.codec
from av.codec.hwaccel import HWAccel
from av.container import OutputContainer

from streamderain.errors import OutputOptionError
from streamderain.frame import Colour, VideoInfo
from streamderain.video import ffmpeg
from streamderain.video.colour import FULL, IDENTITY, LIMITED, matrix_or_guess, written_colour
from streamderain.video.colour_names import MATRICES, name
from streamderain.video.muxer import CONSTANT_RATE, MP4, PROGRAM
from streamderain.video.nvenc import ON_THE_CPU

_H264_AND_H265 = {"libx264", "libx265", "h264_nvenc", "hevc_nvenc"}
# What they refuse at an odd width or height is 4:2:0 (and 4:2:2 at an odd width).
_EVEN_SIZES_ONLY = _H264_AND_H265
_FULL_RANGE_ONLY = {"mjpeg"}
# Streams and containers that say full range is meant. Elsewhere readers take limited range for granted, and decoders of
# the last kind whatever the container says.
_STREAMS_WITH_RANGE = _H264_AND_H265 | {"av1_nvenc", "libsvtav1", "libaom-av1", "libvpx-vp9", "dnxhd", "mjpeg"}
_MUXERS_WITH_RANGE = {"matroska", "webm", "mp4", "ipod", "mxf", "yuv4mpegpipe"}
_LIMITED_ONLY = {"mpeg1video", "mpeg2video", "libvpx", "prores", "prores_aw", "prores_ks", "magicyuv"}
_BT601_BY_6 = {"prores", "prores_aw"}  # of the two numbers of BT.601's matrix; the other one they make R'G'B'
_MATRIX = {"dnxhd": 1, "mjpeg": 5, "libvpx": 5}  # that their decoders say, whatever was meant: BT.709, BT.601
# Their decoders take it for granted that chroma lies on the left one of two luma samples; the others say nothing.
_CHROMA_LEFT = _H264_AND_H265 | {"libopenh264", "mpeg2video", "mpeg4"}
_LOSSLESS = {"ffv1", "png", "rawvideo", "wrapped_avframe", "gif", "huffyuv", "ffvhuff", "utvideo", "qtrle", "apng"}
_Y4M = [f"yuv{chroma}p{depth}" for chroma in (420, 422, 444) for depth in ("", "10le")]  # of what every reader knows
_RAW = {"yuv4mpegpipe": "wrapped_avframe", "rawvideo": "rawvideo"}
# Where the scale is not 0..63. FFmpeg itself lets others pass: x264 clamps them, and to NVENC 0 means "automatic".
_BEST_AND_WORST = {"libx264": (0, 51), "libx265": (0, 51), "h264_nvenc": (1, 51), "hevc_nvenc": (1, 51),
                   "av1_nvenc": (1, 63)}  # fmt: skip
_EIGHT_BITS = {"h264_nvenc"}  # on most GPUs, although it takes deeper formats
_HALVED = {"av1_nvenc"}  # encodes 4:2:0 alone, although it takes other formats
# What puts pictures out of order if nobody says otherwise, and containers that cannot say when each of them is shown.
_REORDERING = {"libx264", "libx264rgb", "libx265", *ON_THE_CPU}
_IN_ORDER_ONLY = {"nut", "avi", "asf", "asf_stream", "mxf", "hls"}
# Which codecs say themselves what shape a pixel has, and which containers take it from the codec. Matroska and y4m take
# it from FFmpeg's stream, where PyAV 18.1 does not set it.
_CODECS_WITH_SHAPE = _H264_AND_H265 | {"libx264rgb", "mpeg4", "mpeg2video", "mjpeg", "png"}
_MUXERS_WITH_SHAPE = MP4 | {"asf", "asf_stream", "mxf", "gif"}
# What phones, browsers and televisions play of what is shared in these containers.
_PLAYED_ANYWHERE = MP4 | {"hls"}
_PLAYED = {"libx264": {"yuv420p"}, "libx265": {"yuv420p", "yuv420p10le"}}
_TAGGED_HVC1 = {"mp4", "mov", "ipod", "hls"}
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_ELSEWHERE = {"an .mkv": "matroska", "a .mov": "mov", "an .avi": "avi"}  # for what a container cannot hold
_SUGGESTED = {"vp9": "libvpx-vp9", "av1": "libsvtav1", "h264": "libx264", "hevc": "libx265"}
# What is encoded with where nothing was asked for; all other containers take the first.
_DEFAULT_CODEC = "libx264"
_DEFAULTS = {**_RAW, **dict.fromkeys(PROGRAM, "mpeg2video"), "webm": "libvpx-vp9", "gif": "gif"}
# Their streams hold a rate: one of these, or in MPEG-2 a ratio of one.
_MPEG = {"mpeg1video", "mpeg2video"}
_MPEG_RATES = [Fraction(n, d) for d, n in ((1001, 24000), (1, 24), (1, 25), (1001, 30000), (1, 30), (1, 50),
                                           (1001, 60000), (1, 60))]  # fmt: skip
_MPEG2_RATES = {
    rate * Fraction(n, d) for rate in _MPEG_RATES for n in range(1, 5) for d in range(1, 33) if rate * n <= 60 * d
}
_SAME_RATE = Fraction(1, 50_000)  # of it, by which a measured rate may be off: 0.07 s in an hour
# As good as x264 at 18 is to the eye; the scales end at 63 instead of 51.
_DEFAULT_CRF = {"libvpx-vp9": 24, "libsvtav1": 24, "libaom-av1": 24}
_CRF = 18
_NAMES = {"wrapped_avframe": "raw video", "rawvideo": "raw video"}
_SETS_QUALITY = {"crf", "qp", "cq", "b", "q", "global_quality"}
_BY_QUANTISER = {"mpeg1video", "mpeg2video", "mpeg4", "libxvid", "mjpeg", "flv", "h263p"}
_LAMBDA = 118  # FF_QP2LAMBDA: a quantiser of 1 in the unit of global_quality


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What to open: the codec's name, its pixel format and options, and words for people.

    Attributes:
        rate: in frames/s, where codec or container know no other times than its multiples; else None.
        colour: what the pictures are to be written as: the source's, as far as readers will know.
    """

    codec: str
    pix_fmt: str
    options: Mapping[str, str]
    quantiser: int | None
    quality: str
    notes: tuple[str, ...]
    rate: Fraction | None
    colour: Colour

    @property
    def title(self) -> str:
        """Codec and quality, for people."""
        return _NAMES.get(self.codec) or f"{self.codec} {self.quality}"

    @property
    def chroma_left(self) -> bool:
        """Whether decoders will read chroma samples on the left one of their luma samples, instead of between them."""
        return self.codec in _CHROMA_LEFT


def sets_quality(key: str) -> bool:
    """Whether the codec's option ``key`` decides on the quality, as crf does."""
    return _plain(key) in _SETS_QUALITY


def with_defaults(options: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The codec's ``options``, and those ``defaults`` that they leave open."""
    asked = set(map(_plain, options))
    return {**options, **{key: value for key, value in defaults.items() if key not in asked}}


def plan_encoder(
    info: VideoInfo,
    *,
    codec: str | None,
    muxer: str,
    crf: int | None,
    preset: str | None,
    options: Mapping[str, str],
    pix_fmt: str | None = None,
) -> EncoderPlan:
    """Chooses for ``info``; keeps depth and chroma of the source where the codec can. None is not asked for.

    Raises:
        OutputOptionError: no such encoder, or it has no such preset, quality, pixel format or option, or two that
            contradict.
    """
    chosen_here = codec is None
    found = _encoder(codec if codec is not None else _DEFAULTS.get(muxer, _DEFAULT_CODEC), muxer)
    codec = found.name  # "h264" is FFmpeg's word for whichever of its encoders comes first, libx264 mostly
    formats = [f.name for f in found.video_formats or () if f.components]  # not those that name a GPU's memory
    notes: list[str] = []
    if pix_fmt is None:
        pix_fmt, notes = _pixel_format(info, codec, formats)
        played = pix_fmt in _PLAYED.get(codec, {pix_fmt}) or _is_odd(info, "yuv420p")
        if muxer in _PLAYED_ANYWHERE and not played and not notes:
            notes.append(f"many players want 4:2:0 in 8 bits, and this is {pix_fmt}: --pix-fmt yuv420p")
    elif pix_fmt not in (formats or _Y4M):
        raise OutputOptionError(
            f"{codec} takes no pixel format {pix_fmt!r}", hint=f"it takes {', '.join(formats or _Y4M)}"
        )
    elif codec in _EVEN_SIZES_ONLY and _is_odd(info, pix_fmt):
        raise OutputOptionError(
            f"{info.width}x{info.height} is odd, which {codec} takes only as 4:4:4, not as {pix_fmt}",
            hint="leave out --pix-fmt, or use --codec libvpx-vp9",
        )
    shape = info.sample_aspect_ratio
    if shape != 1 and muxer not in _MUXERS_WITH_SHAPE and codec not in _CODECS_WITH_SHAPE:
        notes.append(
            f"pixels will be shown square instead of {shape.numerator}:{shape.denominator}:"
            f" {_NAMES.get(codec, codec)} in {muxer} does not hold their shape; H.264, H.265 or an .mp4 would"
        )
    chosen, quantiser, quality = _options(codec, crf, preset, options)
    suits: dict[str, str] = {}
    if chosen_here and codec == "libvpx-vp9":
        suits |= {"cpu-used": "4", "row-mt": "1"}  # its own defaults use one thread and take a minute for a second
    if muxer in _IN_ORDER_ONLY and codec in _REORDERING:
        # NUT cannot say that B-frames are decoded before time 0, and FFmpeg would move everything later. AVI and ASF
        # hold one time a packet, that of decoding, and readers show the pictures at each other's times; MXF those of
        # H.264. HLS shows the first picture of a segment when the one before has lasted for the duration of its packet.
        suits["bf"] = "0"
    if muxer == "hls" and "forced-idr" in _known(codec)[0]:
        suits["forced-idr"] = "1"  # where a segment begins no picture may refer to one before
    colour, changes = _colour(info.colour, codec, muxer, pix_fmt)
    notes += changes
    rate = _rate(info, codec, muxer)
    return EncoderPlan(codec, pix_fmt, suits | chosen, quantiser, quality, tuple(notes), rate, colour)


def _encoder(codec: str, muxer: str) -> av.codec.codec.Codec:
    """Raises OutputOptionError: this FFmpeg has none of this name, or it is not for this container."""
    if muxer == "yuv4mpegpipe" and codec not in _NAMES:
        raise OutputOptionError(f"y4m holds raw video, not {codec}", hint="leave out --codec")
    try:
        found = av.codec.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise OutputOptionError(
            f"this FFmpeg has no encoder {codec!r}",
            hint="--codec takes libx264, libx265, libsvtav1, libvpx-vp9, ffv1 …",
        ) from error
    if found.type != "video":
        raise OutputOptionError(
            f"{found.name} encodes {found.type}, not video", hint="--codec takes libx264, libx265, ffv1 …"
        )
    return found


def _known(codec: str) -> tuple[set[str], set[str]]:
    """The names of the encoder's own options, and of those that all have."""
    supported = av.CodecContext.create(codec, "w").supported_options
    return {option.name for option in supported.private}, {option.name for option in supported.generic}


def _options(
    codec: str, crf: int | None, preset: str | None, options: Mapping[str, str]
) -> tuple[dict[str, str], int | None, str]:
    """What was asked of the codec, checked: its options, quantiser, and words for the quality."""
    private, generic = _known(codec)
    chosen, quantiser, quality = _quality(codec, crf, private, options)
    if preset is not None:
        if "preset" not in private:
            raise OutputOptionError(f"{codec} has no presets", hint="leave out --preset")
        chosen["preset"] = preset
    asked = {"preset": f"--preset {preset}"} if preset is not None else {}
    for key, value in options.items():
        plain = _plain(key)
        if plain in asked:
            raise OutputOptionError(f"{plain} is set twice", hint=f"pass one of {asked[plain]} and -e {key}={value}")
        asked[plain] = f"-e {key}={value}"
        if plain not in private | generic:
            raise OutputOptionError(f"{codec} has no option {key!r}", hint=f"ffmpeg -h encoder={codec} lists them")
        chosen[plain] = value
    speed = chosen.get("preset")
    if codec in ("libx264", "libx265") and speed is not None and speed not in _PRESETS:
        # Left to itself x264 says so on stderr, past FFmpeg's log.
        raise OutputOptionError(f"{codec} has no preset {speed!r}", hint=f"it has {', '.join(_PRESETS)}")
    if codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes to stderr by itself
    if codec == "libx265":
        # x265 writes to stderr by itself, past FFmpeg's log.
        chosen["x265-params"] = ":".join(filter(None, [chosen.get("x265-params"), "log-level=none"]))
    return chosen, quantiser, quality


def _plain(key: str) -> str:
    """The option's name; ffmpeg's own command line says "b:v" for "b"."""
    return key.removesuffix(":v")


def _rate(info: VideoInfo, codec: str, muxer: str) -> Fraction | None:
    rate = info.frame_rate or ffmpeg.ASSUMED_RATE
    if codec not in _MPEG:
        return rate if muxer in CONSTANT_RATE else None
    if codec == "mpeg2video" and rate in _MPEG2_RATES:
        return rate
    # The next one up: pictures last longer at times, where at a lower one they would fall behind.
    found = next((allowed for allowed in _MPEG_RATES if allowed >= rate * (1 - _SAME_RATE)), None)
    if found is None:
        raise OutputOptionError(
            f"{codec} holds 60 frames/s at most, not {float(rate):g}", hint="write an .mp4 or .mkv with --codec libx264"
        )
    return found


def _quality(
    codec: str, crf: int | None, private: set[str], options: Mapping[str, str]
) -> tuple[dict[str, str], int | None, str]:
    """Codec options, quantiser and words for ``crf``, in whatever way this codec has constant quality."""
    own = set(filter(sets_quality, options))
    if crf is not None and own:
        both = " and ".join(f"-e {key}={options[key]}" for key in sorted(own))
        raise OutputOptionError(f"--crf {crf} and {both} contradict each other", hint="pass one of them")
    if codec in _LOSSLESS or codec.startswith("pcm"):
        if crf is not None:
            what = "has 256 colours" if codec == "gif" else "is lossless"
            raise OutputOptionError(f"{_NAMES.get(codec, codec)} {what} and takes no crf", hint="leave out --crf")
        return {}, None, "lossless" if codec != "gif" else "256 colours"
    if own:
        return {}, None, " ".join(f"{key} {options[key]}" for key in sorted(own))
    name = next((name for name in ("crf", "cq") if name in private), None)
    if name is None and codec not in _BY_QUANTISER:
        if crf is not None:
            raise OutputOptionError(f"{codec} takes no crf", hint="leave out --crf, and set its quality with -e")
        return {}, None, "its own quality"
    value = crf if crf is not None else _DEFAULT_CRF.get(codec, _CRF)
    best, worst = (0, 51) if name is None else _BEST_AND_WORST.get(codec, (0, 63))
    if not best <= value <= worst:
        default = _DEFAULT_CRF.get(codec, _CRF)
        raise OutputOptionError(
            f"{codec} takes a crf from {best} to {worst}, not {value}", hint=f"{default} is the default"
        )
    if name is not None:
        # A bit rate of their own would make libvpx and NVENC take it as a mere limit.
        extra = {"b": "0"} if codec.startswith("libvpx") else {}
        extra = {"rc": "vbr", "b": "0"} if codec in ON_THE_CPU else extra
        return {name: str(value), **extra}, None, f"{name} {value}"
    quantiser = max(1, min(31, round((value - 12) / 3)))  # 18, as good as lossless to the eye, becomes 2
    return {}, quantiser, f"quantiser {quantiser}"


def _is_odd(info: VideoInfo, pix_fmt: str) -> bool:
    """Whether the stored picture, which is unrotated, has a pixel that is no half of a pair with the same chroma."""
    sideways = info.rotation in (90, 270)
    width, height = (info.height, info.width) if sideways else (info.width, info.height)
    format = av.VideoFormat(pix_fmt)
    return bool((width % 2 and format.chroma_width(2) == 1) or (height % 2 and format.chroma_height(2) == 1))


def _pixel_format(info: VideoInfo, codec: str, formats: list[str]) -> tuple[str, list[str]]:
    notes: list[str] = []
    chroma = info.chroma if info.chroma in ("420", "422", "444") and codec not in _HALVED else "420"
    odd = _is_odd(info, f"yuv{chroma}p")
    if codec in _EVEN_SIZES_ONLY and odd:
        notes.append(f"{info.width}x{info.height} is odd, which {codec} takes only as 4:4:4")
        chroma = "444"
    bits = info.colour.bit_depth
    deep: list[str] = []
    if bits > 8 and codec not in _EIGHT_BITS:
        deep = ["10le"] if bits <= 10 else ["12le", "16le", "10le"] if bits <= 12 else ["16le", "12le", "10le"]
    order = dict.fromkeys([chroma, "444" if codec in _EVEN_SIZES_ONLY and odd else "420", "422", "444"])
    wanted = [f"yuv{c}p{d}" for c in order for d in deep]
    if codec in ON_THE_CPU and deep:
        wanted.insert(0, "yuv444p16le" if chroma == "444" else "p010le")  # of its 16 bits it encodes 10
    wanted += ["p010le"] if deep else []
    prefix = "yuvj" if codec in _FULL_RANGE_ONLY else "yuv"
    wanted += [f"{prefix}{c}p" for c in order]
    if codec in ON_THE_CPU and chroma == "420":
        wanted.insert(len(wanted) - len(order), "nv12")  # as the GPU has its pictures
    wanted += ["nv12", "rgb48be", "rgb24", "bgr24", "bgra", "bgr0", "rgb8"] if not deep else ["rgb48be", "rgb24"]
    rgb = info.colour.matrix == IDENTITY and codec in _LOSSLESS
    if rgb and formats:
        wanted = [*(f"gbrp{depth}" for depth in deep), *([] if deep else ["bgr0", "gbrp", "rgb24"]), *wanted]
    chosen = next((name for name in wanted if not formats or name in formats), formats[0] if formats else wanted[0])
    format = av.VideoFormat(chosen)
    held = 10 if codec in ON_THE_CPU and deep else max(8, *(part.bits for part in format.components))
    if held < bits:
        notes.append(f"{codec} takes {held} bits at most: the source's {bits} are rounded")
    if rgb and not format.is_rgb:
        notes.append(f"R'G'B' is written as Y'CbCr, which rounds it: {chosen}")
    if info.chroma in ("422", "444") and format.chroma_width(2) == format.chroma_height(2) == 1:
        notes.append(f"chroma is halved to 4:2:0, for {codec} takes no 4:{info.chroma[1]}:{info.chroma[2]}")
    return chosen, notes


def _colour(source: Colour, codec: str, muxer: str, pix_fmt: str) -> tuple[Colour, list[str]]:
    """What to write as, and notes: the ``source``'s colour, but where readers would take it for another."""
    if av.VideoFormat(pix_fmt).is_rgb:
        return source, []
    colour = written_colour(source)
    notes = []
    span = colour.range
    if (
        span == FULL
        and codec not in _STREAMS_WITH_RANGE
        and (muxer not in _MUXERS_WITH_RANGE or codec in _LIMITED_ONLY)
    ):
        span = LIMITED
        notes.append(f"{codec} in {muxer} is read as limited range: written so, instead of full")
    matrix = _MATRIX.get(codec, colour.matrix)
    if matrix == 5 and codec in _BT601_BY_6:
        matrix = 6
    new, old = (name(MATRICES, code) for code in (matrix, source.matrix))
    if matrix != colour.matrix == source.matrix and name(MATRICES, matrix_or_guess(source.matrix)) != new:
        notes.append(f"{codec} is always read as {new}: written so, instead of {old}")
    return replace(colour, matrix=matrix, range=span), notes


def add_stream(
    container: OutputContainer, plan: EncoderPlan, info: VideoInfo, *, name: str, hwaccel: HWAccel | None = None
) -> Any:
    """A new video stream, configured for ``plan``.

    Args:
        hwaccel: takes pictures in a GPU's memory too.

    Raises:
        OutputOptionError: the container cannot hold this codec; the hint names one that it can.
    """
    rate = plan.rate or (info.frame_rate.limit_denominator(1001) if info.frame_rate else None)
    try:
        stream: Any = container.add_stream(plan.codec, rate=rate, time_base=info.time_base, hwaccel=hwaccel)
    except ValueError as error:
        own = container.default_video_codec
        sound_alone = own in ("none", "png")  # of an .mp3 it is its cover's
        elsewhere = next((file for file, muxer in _ELSEWHERE.items() if _takes(muxer, plan.codec)), None)
        hint = f"use --codec {_SUGGESTED.get(own, own)}" + (f", or write to {elsewhere}" if elsewhere else "")
        hint = "write to an .mp4" if sound_alone else hint
        raise OutputOptionError(f"{name}: {container.format.name} cannot hold {plan.codec}", hint=hint) from error
    if container.format.name in _TAGGED_HVC1 and stream.codec_context.codec.canonical_name == "hevc":
        stream.codec_context.codec_tag = "hvc1"  # Apple's players do not open FFmpeg's own choice, hev1
    configure(stream.codec_context, plan, info)
    return stream


def _takes(muxer: str, codec: str) -> bool:
    with contextlib.suppress(ValueError), av.open(io.BytesIO(), "w", format=muxer) as container:
        container.add_stream(codec)
        return True
    return False


def fits(plan: EncoderPlan, info: VideoInfo, *, muxer: str) -> bool:
    """Whether the container can be begun with the video alone: then it is the other streams that it cannot hold."""
    begun = False
    with (
        contextlib.suppress(OutputOptionError, *ffmpeg.ERRORS),
        av.open(io.BytesIO(), "w", format=muxer) as container,
    ):
        add_stream(container, plan, info, name=muxer)
        container.start_encoding()
        begun = True  # some cannot be ended without a picture
    return begun


def configure(context: Any, plan: EncoderPlan, info: VideoInfo) -> None:
    """Sets a new codec context up. The stored picture is unrotated."""
    sideways = info.rotation in (90, 270)
    context.width, context.height = (info.height, info.width) if sideways else (info.width, info.height)
    context.pix_fmt = plan.pix_fmt
    context.time_base = info.time_base
    context.sample_aspect_ratio = 1 / info.sample_aspect_ratio if sideways else info.sample_aspect_ratio
    context.flags |= av.codec.context.Flags.frame_duration
    if plan.codec.startswith("libx26"):
        # PyAV's own default, threads within a frame, makes x264 cut every picture into slices.
        context.thread_type = "AUTO"
    context.options = dict(plan.options)
    if plan.quantiser is not None:
        context.qscale = True
        context.global_quality = plan.quantiser * _LAMBDA
        # FFmpeg's own encoders take it from each frame, where PyAV puts none, and within these.
        context.qmin = context.qmax = plan.quantiser
    tag(context, plan, info)


def open_codec(context: Any, plan: EncoderPlan) -> None:
    """Opens the encoder. Raises what FFmpeg does.

    SVT-AV1 as root gives its threads, and the one that opens it, the highest real-time priority, which all later ones
    would inherit: nothing else would run beside them. They get back what the process had.
    """
    if plan.codec != "libsvtav1" or not hasattr(os, "sched_setscheduler"):
        context.open()
        return
    policy, parameters, others = os.sched_getscheduler(0), os.sched_getparam(0), set(_threads())
    try:
        context.open()
    finally:
        for thread in (0, *(set(_threads()) - others)):
            with contextlib.suppress(OSError):  # it may have ended
                os.sched_setscheduler(thread, policy, parameters)


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:  # no Linux
        return []


def tag(context: Any, plan: EncoderPlan, info: VideoInfo) -> None:
    """Says on the codec context which colour the pictures will have."""
    tags = written_colour(info.colour)
    context.color_primaries, context.color_trc = tags.primaries, tags.transfer
    if not av.VideoFormat(plan.pix_fmt).is_rgb:
        context.colorspace = tags.matrix
        context.color_range = FULL if plan.pix_fmt.startswith("yuvj") else tags.range
