"""Encoded video into one container, at the source's own times; a file is whole under its name, or ``OUT.part``."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from av.container import OutputContainer
from av.video.frame import PictureType

from streamderain.errors import InputError, OutputError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import encoder, ffmpeg
from streamderain.video.colour import YuvWriter
from streamderain.video.earlier import Earlier
from streamderain.video.fragments import Fragments
from streamderain.video.muxer import CONSTANT_RATE, FRAGMENT, MP4
from streamderain.video.outlet import Finishing, check_size
from streamderain.video.planes import PlaneWriter
from streamderain.video.remux import Remuxer
from streamderain.video.segments import SegmentFiles
from streamderain.video.settling import Settling
from streamderain.video.target import Target
from streamderain.yuv import Delivery, YuvFrame

_COUNTED = {"libx264", "libx265", "ffv1"}  # one packet a frame, always
_REORDERED = 17  # packets at the end whose times depend on each other: a picture and the B-frames before it, at most


class ContainerSink(Finishing):
    """A FrameSink over one container. Made by ``open_sink``; opened on one thread, then used by one other.

    A file is written as ``OUT.part`` and renamed by ``close()``; ``abort()`` finishes it and leaves it as ``OUT.part``.

    Attributes:
        delivery: the planes that it would rather have than R'G'B'; None where it would not.
        held: how many pictures an earlier run has made: they are taken over, whatever `write` is given of their frames.
    """

    def __init__(
        self, container: OutputContainer, stream: Any, remuxer: Remuxer, info: VideoInfo, plan: encoder.EncoderPlan,
        target: Target, planes: Delivery | None, segments: SegmentFiles | None, earlier: Sequence[Earlier],
    ) -> None:  # fmt: skip
        self.delivery = planes
        self.replaces = target.replaces
        self.notes = (*target.notes, *plan.notes, *remuxer.notes)
        self._fragments = Fragments(FRAGMENT) if container.format.name in MP4 else None
        remuxer.watch = self._fragments.side if self._fragments is not None else None
        self._constant = plan.rate is not None
        self._latest: int | None = None
        self._moved = 0  # ticks; at a constant rate the first picture is counted from 0
        self._clock = Fraction(0)  # seconds that the source's clock stood at, where the output holds none
        if self._constant:
            counts = container.format.name if container.format.name in CONSTANT_RATE else plan.codec
            self.notes += (
                f"y4m holds no times: pictures follow each other at {plan.rate} frames/s, and pauses are lost"
                if counts == "yuv4mpegpipe"
                else f"{counts} has a constant rate: times are rounded to {info.time_base} s",
            )
        self.description = f"{plan.title} {plan.pix_fmt} → {target.name}"
        self._container = container
        self._stream = stream
        self._remuxer = remuxer
        self._writer = YuvWriter(info, pix_fmt=plan.pix_fmt, left=plan.chroma_left)
        self._planes = PlaneWriter(info)
        self._info = info
        self._counted = plan.codec in _COUNTED
        self._target = target
        self._segments = segments
        self._settling = Settling(target.part) if info.live and target.part is not None else None
        self._earlier = earlier[0] if earlier else None  # the longest
        self.held = self._earlier.frames if self._earlier is not None else 0
        self._pieces = [found.path for found in earlier if found.path != target.final]
        self._decoded: int | None = None  # when the latest packet that was taken over, or one after it, is
        # FFmpeg's MP4 has the first packet of a fragment decoded when the one before has lasted for its duration.
        self._lasts_until_next = self._fragments is not None or segments is not None
        self._waiting: deque[Any] = deque()  # packets that are not muxed yet
        self._name = target.name
        self._packets = 0
        self._latest_picture = (0, 0)  # pts and duration

    def write(self, frame: Frame | YuvFrame) -> None:
        """Encodes one frame, and copies what the side streams have brought since the last.

        One in planes must be in those of ``delivery``, and its planes are the encoder's from here on.

        Raises:
            OutputError: the disk is full, the reader went away, the encoder failed; or what an earlier run left has no
                picture at the time of this frame.
            InputError: sound that is to be copied is damaged.
            ValueError: ``frame`` has not the size that ``info`` promised, comes in other planes, or is not later than
                the one before; or the sink is closed.
        """
        self._check_open()
        taken_over = self._earlier if self.frames_written < self.held else None
        if taken_over is None:
            check_size(frame, self._info)
            if isinstance(frame, YuvFrame) and (self.delivery is None or frame.format != self.delivery.format):
                raise ValueError(f"{self._name} takes {self.delivery and self.delivery.format}, got {frame.format}")
        frame = self._timed(frame)
        try:
            if taken_over is not None:
                self._waiting.extend(taken_over.take(self.frames_written, frame))
                self._decoded = self._waiting[-1].dts
                self._mux(kept=_REORDERED)
            else:
                writer: Any = self._planes if isinstance(frame, YuvFrame) else self._writer
                picture = writer.picture(frame)
                if self._segments is not None and self._segments.begins(frame.pts * frame.time_base):
                    picture.pict_type = PictureType.I
                self._waiting.extend(self._encoded(picture))
                self._mux(kept=int(self._lasts_until_next))
            self.frames_written += 1
            self._remuxer.pump()
        except ffmpeg.WRITE_ERRORS as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Flushes and finishes; only then does the file get its name.

        Raises:
            OutputError: it cannot be finished, no frame was written, or its name was taken meanwhile.
            InputError: sound that is to be copied is damaged.

        What there is stays as ``OUT.part``.
        """
        self._finish(named=True)

    def close_as_part(self) -> None:
        """Flushes and finishes, but leaves the file as ``OUT.part`` and whatever has its name as it is.

        Raises:
            OutputError: as ``close()``.
        """
        self._finish(named=False)

    def _finish(self, *, named: bool) -> None:
        if not self._open:
            return
        if not self.frames_written:
            self.abort()
            raise OutputError(f"no frame came, {self._name} was not written")
        if self._earlier is not None and self.frames_written < self.held:
            self.abort()
            raise OutputError(
                f"{self._earlier.path} has {ffmpeg.frames(self.held)}, of which"
                f" {self.frames_written} came, and stays as it is",
                hint="leave out --resume to make a shorter video",
            )
        self._open = False
        try:
            self._flush()
            self._remuxer.pump()
            self._container.close()
            if self._settling is not None:
                self._settling.end()
            if self._segments is not None:
                self._segments.check()
                self._segments.tidy()
            if self._counted and self._packets != self.frames_written:
                raise OutputError(
                    f"{self._name}: {ffmpeg.frames(self.frames_written)} went in,"
                    f" {self._packets} came out of the encoder"
                )
            if named:
                self._target.commit()
                for piece in self._pieces:
                    piece.unlink(missing_ok=True)  # all of it is in the new file
        except ffmpeg.WRITE_ERRORS as error:
            raise self._failure(error) from error
        finally:
            self._let_go()
            self._target.release()

    def abort(self) -> None:
        """Finishes what was written so far, so that ``OUT.part`` plays, and gives it no other name. Never raises.

        With no frame written, none that an earlier run had not, or none that the disk had room for, there is nothing
        worth keeping, and ``OUT.part`` is removed.
        """
        if not self._open:
            return
        self._open = False
        worth = self._worth
        # The reason for aborting is what the user must hear.
        with contextlib.suppress(*ffmpeg.WRITE_ERRORS, InputError):
            if self._segments is not None:
                self._segments.check()  # what is muxed after an error would push good segments out of the playlist
            if worth:
                self._flush()
                self._remuxer.pump()
        self._let_go()
        if worth and not self._target.empty:
            self._target.release()
        else:
            self._target.discard()

    def _let_go(self) -> None:
        """Closes what is not closed yet. Never raises."""
        with contextlib.suppress(*ffmpeg.WRITE_ERRORS):
            self._container.close()
        with contextlib.suppress(OSError):
            if self._settling is not None:
                self._settling.end()

    def _timed(self, frame: Frame | YuvFrame) -> Frame | YuvFrame:
        """The frame with the time that is written. It must be later than the one before; at a constant rate it is."""
        tick = self._info.time_base
        pts = frame.pts if frame.time_base == tick else round(frame.pts * frame.time_base / tick)
        before = self._latest
        if self._constant:
            if before is None:
                at, told = frame.pts * frame.time_base, len(self._remuxer.notes)
                # Down, not to the next: the priming of a sound is no pause.
                self._moved = pts - math.floor((at - self._remuxer.begin(at)) / tick)
                self.notes += tuple(self._remuxer.notes[told:])
            pts = pts - self._moved if before is None else max(pts - self._moved, before + 1)
            frame = replace(frame, pts=pts, time_base=tick, duration=1)
        elif before is not None and pts <= before:
            raise ValueError(f"pts must grow, got {pts} after {before}, in ticks of {tick} s")
        elif before is None:
            self._clock = self._remuxer.reset_clock()
        if self._clock:
            frame = replace(frame, pts=frame.pts - round(self._clock / frame.time_base))
        self._latest = pts
        return frame

    def _flush(self) -> None:
        self._waiting.extend(self._encoded(None))
        if self._fragments is None or not self._waiting:
            self._mux(kept=0)
            return
        # FFmpeg's MP4 ends with the latest picture of its last fragment, and readers hide one that begins then.
        # B-frames may be all that is in there: then they last until the end of the picture that came before them.
        end = sum(max([self._latest_picture, *map(self._lasting, self._waiting)]))
        begins = self._begins(self._waiting[0])
        for packet, following in pairwise(self._waiting):
            begins = self._begins(following)
            # Within a fragment MP4 tells how long a picture is shown by the next one's time of decoding.
            packet.duration = following.dts - packet.dts if begins else end - packet.pts
            self._send(packet)
        last = self._waiting[-1]
        last.duration = end - last.pts if begins else min(last.duration, end - last.pts)
        self._send(last)
        self._waiting.clear()

    def _encoded(self, picture: Any) -> list[Any]:
        """The encoder's packets; behind those that were taken over, of which it knows nothing."""
        packets: list[Any] = self._stream.encode(picture)
        if self._decoded is not None:
            for packet in packets:
                self._decoded = packet.dts = max(packet.dts, self._decoded + 1)
        return packets

    def _lasting(self, packet: Any) -> tuple[int, int]:
        """Its time and duration, which it is given if it has none."""
        if not packet.duration:
            packet.duration = max(1, round(1 / (self._info.frame_rate or ffmpeg.ASSUMED_RATE) / packet.time_base))
        return packet.pts, packet.duration

    def _mux(self, *, kept: int) -> None:
        """All that waits, but for the last ``kept`` packets."""
        while len(self._waiting) > kept:
            packet = self._waiting.popleft()
            if self._fragments is not None:
                self._latest_picture = max(self._latest_picture, self._lasting(packet))
                self._begins(packet)
            if self._lasts_until_next and self._waiting:
                packet.duration = self._waiting[0].dts - packet.dts
            self._send(packet)

    def _begins(self, packet: Any) -> bool:
        """Whether a fragment may begin with this packet, which is muxed next."""
        return self._fragments is not None and self._fragments.begins(packet.dts * packet.time_base)

    def _send(self, packet: Any) -> None:
        self._packets += 1
        self._container.mux(packet)
        if self._segments is not None:
            self._segments.check()

    @property
    def _worth(self) -> bool:
        """Whether there is a picture that no earlier run had."""
        return self.frames_written > self.held

    def _failure(self, error: BaseException) -> OutputError:
        after = f"after {ffmpeg.frames(self.frames_written)}"
        part = self._target.part
        if isinstance(error, BrokenPipeError):
            return OutputError(f"the reader of {self._name} went away {after}")
        nothing = isinstance(error, OSError) and self._target.empty  # as on a full disk
        kept = f"what was written is in {part}" if part is not None and self._worth and not nothing else None
        return OutputError(f"{self._name} cannot be written {after}: {ffmpeg.explain(error)}", hint=kept)
