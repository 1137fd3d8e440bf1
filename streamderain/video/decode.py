"""From packets to pictures in presentation order: decoding, damage, deinterlacing, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.container import InputContainer

from streamderain.errors import InputError
from streamderain.video import ffmpeg, nvdec, stills
from streamderain.video.awaited import At, Awaited
from streamderain.video.concatenation import Concatenation, is_back
from streamderain.video.deinterlace import Deinterlacer
from streamderain.video.remux import SideStreams

# Codecs in which every packet is one picture, so that a picture that never came out can be told.
# Not VP8 (its hidden reference frames are packets) nor MPEG-2 and MPEG-4 (fields, packed B-frames).
_ONE_PICTURE_A_PACKET = {"h264", "hevc", "vp9", "libdav1d", "av1", "mjpeg", "png", "ffv1"}
# Seconds that a container may hold a stream back behind another; of sound, which never pauses, it is seen.
_INTERLEAVED, _SOUND_BEHIND = Fraction(1), Fraction(10)


class Picture(NamedTuple):
    """A decoded picture and its time: ``pts`` and ``duration`` in ticks of the video stream."""

    frame: av.VideoFrame
    pts: int
    duration: int | None


class Decoder:
    """Reads one container: pictures of ``video`` come out, packets of the side streams go into ``side``.

    Not thread-safe; iterated once. ``concealed`` counts pictures repeated, patched up, or left out at the beginning of
    a sequence, ``patched`` those patched up, ``decoded`` those that came out, ``ended`` is whether all were read,
    ``notes`` are things to say aloud.
    """

    def __init__(
        self,
        container: InputContainer,
        video: Any,
        side: SideStreams,
        *,
        name: str,
        rate: Fraction | None,
        cut_off: bool,
    ) -> None:
        self.concealed = 0
        self.patched = 0
        self.decoded = 0
        self.ended = False
        self.notes: list[str] = []
        self._container = container
        self._video = video
        self._side = side
        self._name = name
        self._cut_off = cut_off
        self._tick: Fraction = video.time_base
        self._origin: int = video.start_time or 0
        self._step = max(1, round(1 / (rate * self._tick))) if rate else 1
        self._awaited = Awaited(video.codec_context)
        self._concatenation = Concatenation(self._tick, self._step)
        self._shown = 0  # number of the recording that pictures come from
        self._last_shown: int | None = None
        self._latest: Picture | None = None
        self._deinterlacer: Deinterlacer | None = None
        self._damage: str | None = None
        self._packets = self._demux()

    def pictures(self) -> Iterator[Picture]:
        """Every picture, in order, with strictly growing pts.

        Raises:
            InputError: a picture or the container is damaged, and damage is not to be concealed.
        """
        for packet in self._packets:
            if not packet.is_discard and packet.size:
                if self._container.format.name == "asf":
                    packet.pts = self._of_asf(packet)
                self._awaited.read((self._concatenation.video(packet), packet.pts) if packet.pts is not None else None)
                self._put(self._concatenation.waiting())
            for frame in self._decode(packet):
                yield from self._place(frame)
        if self._deinterlacer is not None:
            for frame in self._whole(self._deinterlacer.rest()):
                yield from self._place(frame)
        yield from self._fill(self._awaited.rest())
        self.ended = True

    @property
    def interval(self) -> Fraction:
        """Seconds from one picture to the next, as far as the stream tells."""
        return self._step * self._tick

    def skim(self, end: Fraction) -> None:
        """Reads on, without decoding, for what belongs to the side streams before ``end`` seconds."""
        if not self._side.copied:
            return
        for packet in self._packets:
            if packet.pts is not None and packet.size:
                moved = self._concatenation.moved[self._concatenation.video(packet)]
                self._put(self._concatenation.waiting())
                beyond = ((packet.dts if packet.dts is not None else packet.pts) + moved) * self._tick - end
                if beyond > (_SOUND_BEHIND if self._side.sound_to_come(end) else _INTERLEAVED):
                    return

    def _demux(self) -> Iterator[Any]:
        """Video packets, and at the end the empty one that flushes the decoder; the others go to ``side``."""
        streams = [self._video, *(s.template for s in self._side.streams if s.kind != "attachment")]
        demuxed = self._container.demux(*streams)
        while True:
            try:
                packet = next(demuxed)
            except StopIteration:
                self._put(self._concatenation.waiting(end=True))
                return
            except ffmpeg.ERRORS as error:
                if not self._side.conceal:
                    raise self._failure("cannot be read on", error) from error
                self.notes.append(f"reading ended early: {ffmpeg.explain(error)}")
                packet = av.Packet()
                packet.stream = self._video
                yield packet
                return
            if packet.is_corrupt and self._cut_off and not self._side.conceal:
                continue  # the file ends within it
            if packet.stream.index == self._video.index:
                yield packet
            else:
                self._put(self._concatenation.side(packet))

    def _put(self, packets: list[tuple[Any, Fraction]]) -> None:
        for packet, moved in packets:
            self._side.put(packet, moved=moved)

    def _of_asf(self, packet: Any) -> int:
        """A packet's pts in ASF: FFmpeg gives none after a seek, and to the last packet that of the one before."""
        _, latest = self._awaited.latest or (0, -1)
        if packet.pts is None:
            return latest + 1
        return int(packet.pts) if packet.pts != latest else latest + (packet.duration or self._step)

    def _decode(self, packet: Any) -> Iterator[av.VideoFrame]:
        context = self._video.codec_context
        try:
            if self._container.format.name == "image2" and packet.size:
                frames = stills.decode(context, packet, name=f"{self._name} at {self.clock(packet.pts)}")
            else:
                frames = context.decode(packet if packet.size else None)
        except ffmpeg.ERRORS as error:
            if not self._side.conceal:
                raise self._failure("cannot be decoded", error) from error
            self._damage = ffmpeg.explain(error)
            return
        for frame in frames:
            if frame.is_corrupt and self._wanted(frame):
                # The decoder has patched it up. Not an error even where errors are: with threads FFmpeg's flag
                # may come too late to be seen, and a job must not fail by chance.
                if self.patched == 0:
                    self.notes.append("damaged: the decoder has patched up some pictures")
                self.concealed += 1
                self.patched += 1
            self.decoded += 1
            if frame.interlaced_frame and self._deinterlacer is None:
                self.notes.append("interlaced: deinterlaced with bwdif, one picture a frame")
                self._deinterlacer = Deinterlacer(self._tick)
            if self._deinterlacer is None:
                yield frame
            else:
                yield from self._whole(self._deinterlacer.through(nvdec.on_cpu(frame)))

    def _wanted(self, frame: av.VideoFrame) -> bool:
        """Whether the picture will be shown: those between a keyframe and the start asked for will not."""
        begin = self._side.begin
        return begin is None or frame.pts is None or frame.pts * (frame.time_base or self._tick) >= begin

    def _whole(self, pictures: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """What comes out of the deinterlacer."""
        try:
            yield from pictures
        except ffmpeg.ERRORS as error:
            after = ffmpeg.frames(self.decoded)
            raise InputError(f"{self._name} cannot be deinterlaced (after {after}): {ffmpeg.explain(error)}") from error

    def _place(self, frame: av.VideoFrame) -> Iterator[Picture]:
        """Gives the frame its time, after those that should have come before it."""
        base = frame.time_base or self._tick
        before = self._latest
        surplus = new = False
        if frame.pts is None:
            pts = before.pts + (before.duration or self._step) if before else 0
        else:
            raw = frame.pts if base == self._tick else round(frame.pts * base / self._tick)
            new = self._begins(raw)
            self._last_shown = raw
            at = self._shown, raw
            # Damage can make one packet two pictures, or one that comes after its turn was filled.
            surplus = self.concealed > 0 and at not in self._awaited
            (recording, raw), lost = self._awaited.came(at)
            yield from self._fill(lost)
            before = self._latest
            pts = raw + self._concatenation.moved[recording]
        duration = round(frame.duration * base / self._tick) if frame.duration else None
        if before is not None and (new or pts <= before.pts):
            if surplus and not new:
                return  # its moment has passed, and another picture was shown for its packet
            pts = self._forwards(pts, before, new=new)
        self._latest = Picture(frame, pts, duration)
        yield self._latest

    def _begins(self, raw: int) -> bool:
        """Whether the picture is the first of a new recording, which is `_shown` then."""
        last, before = self._last_shown, self._shown
        if last is None or raw < last:
            while self._shown < self._concatenation.recording and (self._shown, raw) not in self._awaited:
                self._shown += 1
        return self._shown > before

    def _forwards(self, pts: int, before: Picture, *, new: bool) -> int:
        """A time later than ``before``'s: by one tick, or for a real jump (a new recording begins) by one frame."""
        if not new and not is_back(before.pts * self._tick, pts * self._tick):
            return before.pts + 1
        if pts <= before.pts:
            pts += self._concatenation.push(self._shown, before.pts + (before.duration or self._step) - pts)
        self.notes.append(f"time jumps back at {self.clock(before.pts)}: what follows was moved after it")
        return pts

    def _fill(self, lost: list[At]) -> Iterator[Picture]:
        """Makes up for the packets at these times, which gave no picture, or raises because of them."""
        if not lost:
            return
        if self._latest is None:
            # They lean on a keyframe that the file does not have; the pictures of a sequence lean on nothing.
            if self._container.format.name == "image2":
                self.concealed += len(lost)
                self.notes.append(f"{ffmpeg.frames(len(lost))} at the beginning left out: damaged, and none before")
            return
        if self._video.codec_context.name not in _ONE_PICTURE_A_PACKET and self._damage is None:
            return
        if not self._side.conceal:
            recording, at = lost[0]
            since = self.clock(at + self._concatenation.moved[recording])
            raise self._failure(f"cannot be decoded: {ffmpeg.frames(len(lost))} missing from {since} on")
        for recording, at in lost:
            pts = at + self._concatenation.moved[recording]
            if pts > self._latest.pts:
                self.concealed += 1
                self._latest = Picture(self._latest.frame, pts, None)
                yield self._latest

    def clock(self, pts: int) -> str:
        """A time for people, as ``--start`` counts: from the video's beginning, and never later than it is."""
        return f"{math.floor((pts - self._origin) * self._tick * 1000) / 1000:.3f} s"

    def _failure(self, what: str, error: BaseException | None = None) -> InputError:
        after = f"after {ffmpeg.frames(self.decoded)}"
        if self._latest is not None:
            after += f", at {self.clock(self._latest.pts)}"
        reason = f": {ffmpeg.explain(error)}" if error is not None else ""
        if self._video.codec_context.is_hwaccel:
            return InputError(f"{self._name} {what} ({after}){reason}", hint="--decoder cpu may get further")
        return InputError(
            f"{self._name} {what} ({after}){reason}",
            hint="--on-error conceal repeats the last good frame instead" if self.decoded else None,
        )
