"""Video out over the network: encoded here, sent by a child process that may hang or die without harm."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import av
import torch
from av.codec.context import Flags
from av.video.frame import PictureType

from streamderain.errors import OutputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.redaction import redact_target
from streamderain.video import encoder, ffmpeg, nvenc
from streamderain.video.clock import APART, TICK
from streamderain.video.colour import YuvWriter
from streamderain.video.link import Link
from streamderain.video.outlet import Finishing, check_size, eight_bits
from streamderain.video.pace import Pace
from streamderain.video.remux import IN_WORDS, SideStreams

_OPEN_TIMEOUT = 10.0  # seconds that a target may take to answer
_WRITE_TIMEOUT = 10.0  # seconds that it may take nothing
_KEY_EVERY = 2  # seconds between key frames: as long as somebody who tunes in waits at most
_CRF = 23  # a network has less room than a disk
_PACED = {"rtsp", "flv", "mpegts"}  # muxers of targets that take a stream as it happens


class PublishSink(Finishing):
    """A FrameSink over a network target. Made by `open_publisher`; used by one thread.

    Live frames never wait for the target: while it is slow or away they are dropped, up to the next key frame, and the
    connection is made again. Frames of a file wait, and a lost connection is an error.
    """

    def __init__(
        self, context: Any, link: Link, info: VideoInfo, plan: encoder.EncoderPlan, *, name: str, pace: Pace | None
    ) -> None:
        self.description = f"{plan.title} {plan.pix_fmt} → {name}"
        self.notes = plan.notes
        self._context = context
        self._link = link
        self._info = info
        self._name = name
        self._writer = YuvWriter(info, pix_fmt=plan.pix_fmt, left=plan.chroma_left)
        self._latest: int | None = None
        self._pace = pace

    @property
    def dropped(self) -> int:
        """Frames that were not sent."""
        return self._link.dropped

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return self._link.reconnects

    @property
    def connected(self) -> bool:
        """Whether the target is there, as far as that is known."""
        return self._link.connected

    def write(self, frame: Frame) -> None:
        """Encodes one frame and hands it on; a file's at the time when it is due.

        Raises:
            OutputError: the encoder failed, or the connection is lost for good.
            ValueError: ``frame`` has not the size that ``info`` promised; or it is closed.
        """
        self._check_open()
        check_size(frame, self._info)
        ticks = round(frame.pts * frame.time_base / TICK)
        if self._latest is not None and ticks <= self._latest:
            ticks = self._latest + APART  # a time that does not grow closes streams
        self._latest = ticks
        if self._pace is not None:
            self._pace.await_moment(float(ticks * TICK))
        self.frames_written += 1
        if self._info.live and not self._link.connected:
            self._link.dropped += 1
            return  # encoding for nobody would only keep the machine from the next frame
        self._send(Frame(eight_bits(frame), ticks, TICK))

    def close(self) -> None:
        """Sends what is left and ends the stream.

        Raises:
            OutputError: it cannot be sent.
        """
        if not self._open:
            return
        self._open = False
        try:
            self._send(None)
        except OutputError:
            self._link.abort()
            raise
        self._link.finish()

    def abort(self) -> None:
        """Ends the connection at once. Never raises."""
        self._open = False
        self._link.abort()

    def _send(self, frame: Frame | None) -> None:
        """What the encoder makes of the frame; of None, what it still holds."""
        try:
            picture = None
            if frame is not None:
                picture = self._writer.picture(frame)
                picture.pict_type = PictureType.I if self._link.needs_key else PictureType.NONE
            for packet in self._context.encode(picture):
                key = bool(packet.is_keyframe)
                self._link.put(packet.pts, packet.dts, packet.duration or 0, bytes(packet), key=key)
        except ffmpeg.WRITE_ERRORS as error:
            raise OutputError(f"{self._name} cannot be written: {ffmpeg.explain(error)}") from ffmpeg.redacted(error)


def open_publisher(
    url: str,
    info: VideoInfo,
    *,
    muxer: str,
    side: SideStreams,
    codec: str | None,
    crf: int | None,
    preset: str | None,
    options: Mapping[str, str],
    pix_fmt: str | None,
    wait: float,
    stop: threading.Event | None,
) -> PublishSink:
    """Starts an encoder and connects to ``url``.

    Args:
        info: of the frames that will come. ``live`` decides what happens where the target is slow or goes away; see
            `PublishSink`.
        muxer: FFmpeg's name of what is sent: "rtsp", "flv", "mpegts" or another.
        side: the source's; sound and subtitles are not sent, which the notes say where there are any.
        codec, crf, preset, options, pix_fmt: as of `open_sink`; libx264 at crf 23, veryfast, without delay, in 4:2:0 of
            8 bits, if not given.
        wait: seconds that the first connection is tried for.
        stop: when it gets set, waiting ends, for the connection and for the times at which a file's frames are due.

    Raises:
        OutputOptionError: what was asked for cannot be had.
        OutputError: the target cannot be reached.
        DeviceError: the encoder is one of GPUs, and there is none.
    """
    name = redact_target(url)
    info = replace(info, rotation=0, time_base=TICK, chroma="420", colour=replace(info.colour, bit_depth=8))
    chosen, crf = _defaults(info, codec, crf, preset, options)
    plan = encoder.plan_encoder(info, codec=codec, muxer=muxer, crf=crf, preset=preset, options=chosen, pix_fmt=pix_fmt)
    info = replace(info, colour=plan.colour)
    nvenc.require(plan.codec, None)
    try:
        clip = _clip(plan, info)
        context: Any = av.CodecContext.create(plan.codec, "w")
        _configure(context, plan, info)
        encoder.open_codec(context, plan)
    except ffmpeg.WRITE_ERRORS as error:
        kind = OutputOptionError if isinstance(error, ValueError) else OutputError
        raise kind(
            f"{name} cannot be written with {plan.codec}: {ffmpeg.explain(error)}",
            hint="see --codec, --crf, --preset and -e",
        ) from ffmpeg.redacted(error)
    listening = "listen" in url.partition("?")[2]
    ask = {
        "url": _with_packet_size(url),
        "muxer": muxer,
        "options": {"rtsp_transport": "tcp"} if muxer == "rtsp" else {"flush_packets": "1"},
        "time_base": [TICK.numerator, TICK.denominator],
        "open_timeout": 0.0 if listening else _OPEN_TIMEOUT,
        "write_timeout": _WRITE_TIMEOUT,
    }
    link = Link(ask, clip, name=name, keep_trying=info.live)
    paced = not info.live and muxer in _PACED and not url.lower().startswith("tcp:")
    sink = PublishSink(context, link, info, plan, name=name, pace=Pace(stop) if paced else None)
    kinds = {stream.kind for stream in side.streams}
    lost = [word for kind, (word, _) in IN_WORDS.items() if kind in kinds]
    if lost:
        sink.notes += (f"{' and '.join(lost)} left out: only the picture is sent over the network",)
    link.open(wait=wait, stop=stop)
    return sink


def _defaults(
    info: VideoInfo, codec: str | None, crf: int | None, preset: str | None, options: Mapping[str, str]
) -> tuple[dict[str, str], int | None]:
    """Options and crf with what suits a stream where nothing was asked for."""
    suits = {"g": str(max(1, round(_KEY_EVERY * (info.frame_rate or ffmpeg.ASSUMED_RATE))))}
    if codec in (None, "libx264", "libx265", "h264", "hevc"):
        suits |= {"tune": "zerolatency", "forced-idr": "1"}
        if preset is None:
            suits["preset"] = "veryfast"
        if crf is None and not any(map(encoder.sets_quality, options)):
            crf = _CRF
    return encoder.with_defaults(options, suits), crf


def _configure(context: Any, plan: encoder.EncoderPlan, info: VideoInfo) -> None:
    encoder.configure(context, plan, info)
    if info.frame_rate:
        context.framerate = info.frame_rate
    context.flags |= Flags.global_header


def _clip(plan: encoder.EncoderPlan, info: VideoInfo) -> bytes:
    """One black picture, from which the other process learns codec, headers and colour.

    As NUT, which keeps the headers as the encoder made them: Matroska would rewrite them, and not the packets.
    """
    memory = io.BytesIO()
    with av.open(memory, "w", format="nut") as container:
        stream: Any = container.add_stream(plan.codec)
        _configure(stream.codec_context, plan, info)
        black = torch.zeros((info.height, info.width, 3), dtype=torch.uint8, device="cpu")
        picture = YuvWriter(info, pix_fmt=plan.pix_fmt, left=plan.chroma_left).picture(Frame(black, 0, TICK))
        container.mux([*stream.encode(picture), *stream.encode(None)])
    return memory.getvalue()


def _with_packet_size(url: str) -> str:
    """Seven packets of a transport stream fit a datagram of the Internet; FFmpeg's own default does not."""
    if not url.lower().startswith("udp:") or "pkt_size" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}pkt_size=1316"
