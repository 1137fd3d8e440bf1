"""What travels beside the picture: audio, subtitles, cover art, attachments, chapters and metadata, copied in sync."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Disposition

from streamderain.errors import InputError, OutputError
from streamderain.redaction import redact
from streamderain.video import ffmpeg, timecode

_HOLDS_COVERS = {"mp4", "mov", "ipod", "matroska"}
_MP4_ONLY = {"mov_text"}
_ADTS = {"mpegts", "adts", "rtsp"}
_HOLDS_TIMECODE = {"mp4", "mov", "matroska", "mxf", "nut"}
_NOT_BEFORE_ZERO = {"nut"}
_WANTS_LAYOUT = {"mp4", "hls"}  # of PCM: which channels there are, not only how many
_CLOCKED = {"mpegts", "mpeg"}  # their times are those of a clock, which may stand at ten hours
_EARLY = Fraction(1, 25)  # seconds that sound may be ahead of its picture by before it is noticed (EBU R 37)
_PICTURES_ONLY = "none"
# Written by muxers for the file they were in; wrong in any other.
_OF_THE_OLD_FILE = {"encoder", "encoding_tool", "encoder_settings", "major_brand", "minor_version", "compatible_brands",
                    "duration", "number_of_frames", "number_of_bytes", "bps", "handler_name", "vendor_id",
                    "alpha_mode"}  # fmt: skip
# Languages that FFmpeg writes into MOV by the other one of their two codes alone.
_IN_QUICKTIME = {
    "bod": "tib", "cym": "wel", "cze": "ces", "deu": "ger", "ell": "gre", "eus": "baq", "fas": "per", "fre": "fra",
    "hye": "arm", "isl": "ice", "kat": "geo", "mkd": "mac", "msa": "may", "mya": "bur", "nld": "dut", "rum": "ron",
    "slo": "slk", "sqi": "alb", "swe": "sve", "zho": "chi",
}  # fmt: skip
#: What is to be copied: what it is called, and the option that decides on it.
IN_WORDS = {"audio": ("sound", "--audio"), "subtitle": ("subtitles", "--subs")}
_IMAGE_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


@dataclass(frozen=True, slots=True)
class SideStream:
    """One stream that can be copied.

    Attributes:
        kind: "audio", "subtitle", "cover" or "attachment".
        start: seconds of its first packet, as far as the container tells.
        template: the source's own; of a source that is closed it must not be used.
    """

    index: int
    kind: str
    codec: str
    language: str | None
    start: Fraction | None
    template: Any

    def __str__(self) -> str:
        language = f", {self.language}" if self.language not in (None, "", "und") else ""
        return f"{self.kind} stream #{self.index} ({self.codec}{language})"


class SideStreams:
    """The streams beside the video and the queue of their packets.

    The source puts, on its thread; the one sink that took ``attach`` drains, on another. Before a sink is
    attached packets wait; when iteration starts without one they are dropped, so nothing grows for ever.

    Attributes:
        streams: what can be copied.
        metadata, chapters: of the container.
        video_metadata, video_disposition: of the video stream.
        uri: where it all comes from, so that a sink can refuse to overwrite it; empty where there is nothing to copy.
        begin, end: seconds of the source; packets outside are dropped, and ``begin`` becomes 0. None is no limit.
        hold: packets from this time on wait, because the end is not known yet.
        expected_end: seconds of the source where a count of frames or a duration will end it, as far as its rate tells;
            of chapters, which are written first, none goes on beyond.
        clock: seconds at which the source's video begins, where that means nothing: the state of a clock.
        since: seconds of the source that become 0 where there is no ``begin``.
        conceal: damage does not end the job: packets are left out and counted in ``damaged``, pictures made up for.
    """

    def __init__(
        self, uri: str = "", streams: tuple[SideStream, ...] = (), *, metadata: Mapping[str, str] = {},
        video_metadata: Mapping[str, str] = {}, video_disposition: int = 0, chapters: Sequence[Any] = (),
        conceal: bool = False,
    ) -> None:  # fmt: skip
        self.uri = uri
        self.streams = streams
        self.metadata = kept(metadata)
        self.video_metadata = kept(video_metadata)
        self.video_disposition = video_disposition
        self.chapters = chapters
        self.begin: Fraction | None = None
        self.end: Fraction | None = None
        self.hold: Fraction | None = None
        self.expected_end: Fraction | None = None
        self.clock = self.since = Fraction(0)
        self.conceal = conceal
        self.damaged = 0
        self._wanted: frozenset[int] | None = None
        self._timeless = frozenset(stream.index for stream in streams if stream.kind == "cover")
        self._sound_until = {stream.index: Fraction(0) for stream in streams if stream.kind == "audio"}
        self._queue: deque[tuple[int, Any]] = deque()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def copied(self) -> bool:
        """Whether a sink copies any stream."""
        return bool(self._wanted)

    def sound_to_come(self, end: Fraction) -> bool:
        """Whether a sink copies sound that has not come as far as ``end`` seconds of the source."""
        return any(index in (self._wanted or ()) and until < end for index, until in self._sound_until.items())

    def put(self, packet: Any, *, moved: Fraction = Fraction(0)) -> None:
        """Queues one packet of a side stream; ``moved`` seconds are added to its time stamps."""
        index = packet.stream.index
        if packet.size == 0:  # the flush at the end
            return
        if moved:
            _move(packet, moved)
        time = self._time(index, packet)
        with self._lock:
            if self._wanted is not None and index not in self._wanted:
                return
            if time is not None and index in self._sound_until:
                self._sound_until[index] = time
            if time is not None and self.begin is not None and time < self.begin:
                return
            self._queue.append((index, packet))

    def attach(self, indices: Iterable[int]) -> None:
        """From here on only packets of these streams are kept."""
        with self._lock:
            self._wanted = frozenset(indices)
            self._queue = deque(item for item in self._queue if item[0] in self._wanted)

    def settle(self) -> None:
        """Called when iteration begins: without a sink by now there will be none."""
        if self._wanted is None:
            self.attach(())

    def clear(self) -> None:
        """Forgets what waits: reading begins again elsewhere."""
        with self._lock:
            self._queue.clear()

    def close(self) -> None:
        """The source is closed: packets that wait can still be had, but no stream can be copied from here on."""
        self._closed = True

    def check_open(self, streams: Sequence[SideStream]) -> None:
        """Raises ValueError if one of these was to be copied from a source that is closed."""
        if self._closed and streams:
            raise ValueError(
                f"{redact(self.uri)} is closed, {streams[0]} cannot be copied: open the output before the input is read"
            )

    def chosen(self, *, audio: bool, subtitles: bool) -> list[SideStream]:
        """The streams without sound or without subtitles, where these are not asked for."""
        unwanted = {kind for kind, wanted in (("audio", audio), ("subtitle", subtitles)) if not wanted}
        return [stream for stream in self.streams if stream.kind not in unwanted]

    def advance_timecode(self, seconds: Fraction, rate: Fraction | None) -> list[str]:
        """Makes the timecode that of the first frame after ``seconds`` are left out, at ``rate`` frames/s; notes."""
        notes: list[str] = []
        for metadata in (self.metadata, self.video_metadata):
            if "timecode" in metadata:
                advanced = timecode.advanced(metadata["timecode"], round(seconds * rate), rate) if rate else None
                if advanced is None:
                    notes = [f"the timecode {metadata.pop('timecode')} is left out: it cannot be counted on"]
                else:
                    metadata["timecode"] = advanced
        return notes

    def leave_out(self, at: Fraction, error: Exception) -> None:
        """A packet of sound is damaged; ``at`` is its time in the output, in seconds.

        Raises:
            InputError: damage is not to be concealed.
        """
        if self.conceal:
            self.damaged += 1
            return
        name = redact("standard input" if self.uri == "-" else self.uri)
        raise InputError(
            f"{name}: a packet of sound, at {float(at):.2f} s of the output, is damaged: {ffmpeg.explain(error)}",
            hint="--on-error conceal leaves it out, --audio none all sound",
        ) from error

    def peek(self, index: int) -> bytes | None:
        """The data of the first packet waiting of stream ``index``: cover art arrives whole and first."""
        with self._lock:
            return next((bytes(packet) for at, packet in self._queue if at == index), None)

    def drain(self) -> list[tuple[int, Any]]:
        """Takes what is waiting, in order of arrival, cut to ``begin`` and ``end`` and moved to begin at 0."""
        with self._lock:
            taken, self._queue = self._queue, deque()
        since = self.since if self.begin is None else self.begin
        ready, waiting = [], []
        for index, packet in taken:
            time = self._time(index, packet)
            if time is not None:
                if self.hold is not None and time >= self.hold:
                    waiting.append((index, packet))
                    continue
                if (self.begin is not None and time < self.begin) or (self.end is not None and time >= self.end):
                    continue
                if since:
                    _move(packet, -since)
            ready.append((index, packet))
        if waiting:
            with self._lock:
                self._queue.extendleft(reversed(waiting))
        return ready

    def _time(self, index: int, packet: Any) -> Fraction | None:
        """Seconds at which the packet counts; None for pictures, which belong to the whole video."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if index in self._timeless or ticks is None or not packet.time_base:
            return None
        return Fraction(ticks * packet.time_base)


def _move(packet: Any, seconds: Fraction) -> None:
    ticks = round(seconds / packet.time_base)
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


def _rebase(packet: Any, base: Fraction) -> None:
    """Rescales times as the muxer would, but before they are compared: two of the source's may fall together."""
    scale = packet.time_base / base
    packet.pts, packet.dts = round(packet.pts * scale), round(packet.dts * scale)
    packet.duration = round((packet.duration or 0) * scale)
    packet.time_base = base


def _name_channels(context: Any) -> None:
    """Of sound from containers that count channels and name none (AVI, MXF): FFmpeg's names for so many.

    Raises:
        ValueError: it has none for so many.
    """
    count = context.layout.nb_channels
    if context.layout == av.AudioLayout(f"{count} channels"):
        context.layout = f"{count}c"


def kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without what describes the old file itself."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OF_THE_OLD_FILE and not key.upper().startswith("_STATISTICS")
    }


def about_stream(metadata: Mapping[str, str], muxer: str) -> dict[str, str]:
    """Metadata of one stream, as the muxer wants it."""
    about = kept(metadata)
    if "name" in about:  # what MP4 calls a stream's title
        about.setdefault("title", about.pop("name"))
    if muxer == "mov" and "language" in about:
        about["language"] = _IN_QUICKTIME.get(about["language"], about["language"])
    return about


def side_streams(
    uri: str, container: InputContainer, video: Any, *, audio: bool, subtitles: bool, conceal: bool
) -> tuple[SideStreams, list[str]]:
    """The streams of ``container`` that can be copied beside ``video``, and notes on those that cannot."""
    found, skipped = [], []
    chapters = container.chapters()
    for stream in container.streams:
        kind: str = stream.type
        if stream is video or stream.index == video.index:
            continue
        if kind == "video":
            if not stream.disposition & Disposition.attached_pic:
                skipped.append(f"#{stream.index} (a second video)")
                continue
            kind = "cover"
        if (kind == "audio" and not audio) or (kind == "subtitle" and not subtitles):
            continue
        if kind == "data" and "timecode" in stream.metadata:
            continue  # FFmpeg tells it as metadata of the video too, from which muxers make such a stream
        if kind == "data" and stream.discard >= Discard.all and chapters:
            continue  # MP4's chapters, which FFmpeg has read
        if kind not in ("audio", "subtitle", "cover", "attachment"):
            skipped.append(f"#{stream.index} ({kind})")
            continue
        context = stream.codec_context
        codec = context.codec.canonical_name if context is not None else "unknown codec"
        begins, tick = stream.start_time, stream.time_base
        start = None if begins is None or tick is None else Fraction(begins * tick)
        found.append(SideStream(stream.index, kind, codec, stream.language, start, stream))
    notes = [f"not copied: stream {', '.join(skipped)}"] if skipped else []
    side = SideStreams(
        uri, tuple(found), metadata=container.metadata, video_metadata=video.metadata,
        video_disposition=video.disposition, chapters=chapters, conceal=conceal,
    )  # fmt: skip
    if container.format.name in _CLOCKED and video.start_time is not None:
        side.clock = Fraction(video.start_time * video.time_base)
    return side, notes


class Remuxer:
    """Copies ``streams`` of ``side`` into an output container. Opened by the caller, then used by one thread.

    Attributes:
        notes: what is left out although it was asked for, because no such container holds it.
        watch: told of each packet that is muxed: its stream's index, and seconds when it is to be decoded.
    """

    def __init__(
        self, container: OutputContainer, side: SideStreams, streams: Iterable[SideStream], *, name: str
    ) -> None:
        self.notes: list[str] = []
        self.watch: Callable[[int, Fraction], None] | None = None
        self._container = container
        self._side = side
        self._streams: dict[int, Any] = {}
        self._last: dict[int, int] = {}
        self._unwrap: dict[int, BitStreamFilterContext] = {}
        for stream in streams:
            self._add(stream, name)
        side.attach(self._streams)

    def describe(self) -> None:
        """Writes metadata and chapters; call before the header is written."""
        side = self._side
        self._container.metadata.update(side.metadata)
        muxer = self._container.format.name
        if muxer not in _HOLDS_TIMECODE and "timecode" in side.metadata | side.video_metadata:
            self.notes.append(f"the timecode is left out: {muxer} does not hold it")
        chapters: list[Any] = []
        shift = side.begin or Fraction(0)
        for chapter in side.chapters:
            base = chapter["time_base"]
            if not base:
                continue
            start, end = chapter["start"] * base, chapter["end"] * base
            begin, stop = side.begin or Fraction(min(start, 0)), side.expected_end or end
            if end > begin and start < stop:
                start, end = max(start, begin) - shift, min(end, stop) - shift
                chapters.append({**chapter, "start": round(start / base), "end": round(end / base)})
        if chapters:
            self._container.set_chapters(chapters)

    def begin(self, picture: Fraction) -> Fraction:
        """For a container that counts pictures from 0: moves all that is copied so that the earliest lies there.

        Args:
            picture: seconds at which the first one is shown.

        Returns:
            Seconds by which pictures are to be moved earlier as well.
        """
        side = self._side
        if side.begin is not None:  # cut there, and its pictures with it
            return Fraction(0)
        copied = [(one, one.start) for one in side.streams if one.index in self._streams and one.start is not None]
        side.begin = min([picture, *(start for _, start in copied)])
        for stream, start in copied:
            if stream.kind == "audio" and start - side.begin > _EARLY:
                early = f"{float(start - side.begin):.2f} s early"
                self.notes.append(f"{stream} begins {early}: {self._container.format.name} begins all sound at 0")
        return side.begin

    def reset_clock(self) -> Fraction:
        """Moves all that is copied to begin at 0 where its times are those of a clock that the output does not hold.

        Returns:
            Seconds by which pictures are to be moved earlier as well.
        """
        side = self._side
        if not side.clock or side.begin is not None or self._container.format.name in _CLOCKED:
            return Fraction(0)
        copied = (one.start for one in side.streams if one.index in self._streams and one.start is not None)
        side.since = min([side.clock, *copied])
        return side.since

    def pump(self) -> None:
        """Muxes the packets that have arrived since the last call.

        Raises:
            InputError: one is damaged, and damage is not to be concealed.
        """
        for index, packet in self._side.drain():
            out = self._streams[index]
            if packet.pts is None and packet.dts is None:
                packet.pts = packet.dts = 0  # cover art
            packet.dts = packet.dts if packet.dts is not None else packet.pts
            packet.pts = packet.pts if packet.pts is not None else packet.dts
            _rebase(packet, out.time_base)
            # A muxer ends the file at a time stamp that does not grow; some demuxers hand out such.
            # Of subtitles several may be shown at once.
            least = self._last.get(index, packet.dts - 1) + (out.type != "subtitle")
            if packet.dts < least:
                packet.dts = least
                packet.pts = max(packet.pts, packet.dts)
            self._last[index] = packet.dts
            if packet.pts < 0 and self._container.format.name in _NOT_BEFORE_ZERO:
                continue  # the priming of an audio codec, which is never heard
            at = packet.dts * packet.time_base
            if self.watch is not None:
                self.watch(index, at)
            ready = [packet]
            if index in self._unwrap:
                try:
                    ready = self._unwrap[index].filter(packet)  # which takes the packet away
                except (av.error.InvalidDataError, av.error.PatchWelcomeError) as error:
                    self._side.leave_out(at, error)
                    continue
            for bare in ready:
                bare.stream, bare.time_base = out, out.time_base
                self._container.mux(bare)

    def _add(self, stream: SideStream, name: str) -> None:
        muxer = self._container.format.name
        if stream.kind in ("cover", "attachment"):
            self._add_picture(stream, muxer)
            return
        if self._container.default_audio_codec == _PICTURES_ONLY:
            self.notes.append(f"{stream} is left out: {muxer} holds pictures only")
            return
        elsewhere = "the input's own kind of file" if muxer == "matroska" else "an .mkv"
        if stream.codec in _MP4_ONLY:
            elsewhere = "an .mp4"
        try:
            out = self._container.add_stream_from_template(stream.template)
            if muxer in _WANTS_LAYOUT and stream.codec.startswith("pcm"):
                _name_channels(out.codec_context)
        except ffmpeg.ERRORS as error:
            raise OutputError(
                f"{name}: {muxer} cannot hold {stream}",
                hint=f"use {IN_WORDS[stream.kind][1]} none, or write to {elsewhere}",
            ) from error
        out.metadata.update(about_stream(stream.template.metadata, muxer))
        out.disposition = stream.template.disposition
        self._streams[stream.index] = out
        if stream.codec == "aac" and not stream.template.codec_context.extradata and muxer not in _ADTS:
            # Transport streams say what it is in every packet, all others in the header.
            self._unwrap[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream.template)

    def _add_picture(self, stream: SideStream, muxer: str) -> None:
        holds = muxer == "matroska" if stream.kind == "attachment" else muxer in _HOLDS_COVERS
        if not holds:
            self.notes.append(f"{stream} is left out: {muxer} does not hold it")
        elif stream.kind == "attachment":
            self._container.add_stream_from_template(stream.template)
        elif muxer == "matroska":
            data = self._side.peek(stream.index)
            if data is not None:
                self._container.add_attachment(*_IMAGE_TYPES.get(stream.codec, ("cover", "image/jpeg")), data)
        else:
            out = self._container.add_stream_from_template(stream.template, opaque=True)
            out.disposition = stream.template.disposition
            self._streams[stream.index] = out
