"""Access units out of RTP that FFmpeg made: the same pictures, bit for bit, each at its last packet."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import pytest

from streamderain.video.rtsp import rtp, units
from streamderain.video.rtsp.units import AccessUnit, Assembler
from tests.live.rtp_clips import WAYS, decoded, rtp_clip, same


def _codec(way: str) -> units.Codec:
    return "hevc" if way.startswith("hevc") else "h264"


def _units(way: str, packets: Iterable[bytes]) -> list[AccessUnit]:
    assembler = Assembler(_codec(way), 96)
    return [unit for packet in packets for unit in assembler.push(packet)]


def _pictures(way: str, found: list[AccessUnit]) -> list[Any]:
    decoder: Any = av.CodecContext.create(_codec(way), "r")
    pictures = []
    for unit in found:
        packet = av.Packet(len(unit.data))
        packet.update(unit.data)
        pictures += decoder.decode(packet)
    return [picture.to_ndarray() for picture in pictures + decoder.decode(None)]


def _marked(packet: bytes, marker: bool) -> bytes:
    return packet[:1] + bytes([packet[1] & 127 | marker << 7]) + packet[2:]


@pytest.mark.parametrize("way", WAYS)
def test_pictures_are_those_of_the_file_and_whole_at_their_last_packets(tmp_path: Path, way: str) -> None:
    packets = rtp_clip(tmp_path / "a.ts", way)
    assembler = Assembler(_codec(way), 96)
    found = []
    for packet in packets:
        new = list(assembler.push(packet))
        assert len(new) == packet[1] >> 7
        found += new
    assert len(found) == 12
    assert not any(unit.damaged for unit in found)
    assert same(_pictures(way, found), decoded(tmp_path / "a.ts"))


@pytest.mark.parametrize("way", WAYS)
def test_the_rtp_has_every_kind_of_packet_that_is_to_be_understood(tmp_path: Path, way: str) -> None:
    packets = rtp_clip(tmp_path / "a.ts", way)
    kinds = {packet[12] & 31 if _codec(way) == "h264" else packet[12] >> 1 & 63 for packet in packets}
    assert kinds >= ({24, 28} if _codec(way) == "h264" else {48, 49})


@pytest.mark.parametrize("way", WAYS)
def test_without_marker_bits_a_picture_ends_where_the_next_begins(tmp_path: Path, way: str) -> None:
    packets = [_marked(packet, False) for packet in rtp_clip(tmp_path / "a.ts", way)]
    found = _units(way, [*packets, _marked(_later(packets[-1]), False)])
    assert len(found) == 12
    assert same(_pictures(way, found), decoded(tmp_path / "a.ts"))


def test_a_camera_that_marks_parameter_sets_and_every_slice_is_read_all_the_same(tmp_path: Path) -> None:
    packets = []
    for packet in rtp_clip(tmp_path / "a.ts", "h264 in slices"):
        fragment = packet[12] & 31 == 28
        packets.append(_marked(packet, not fragment or bool(packet[13] & 0x40)))
    found = _units("h264", [*packets, _marked(_later(packets[-1]), True)])
    pictures = _pictures("h264", found)
    assert same(pictures[1:], decoded(tmp_path / "a.ts"))  # one slice of the first, and then all


@pytest.mark.parametrize("way", ["h264", "hevc"])
def test_a_packet_that_is_lost_damages_its_picture_and_no_other(tmp_path: Path, way: str) -> None:
    packets = rtp_clip(tmp_path / "a.ts", way, size=(320, 240))
    ends = [number for number, packet in enumerate(packets) if packet[1] > 127]
    for lost, damaged in ((ends[4] - 2, 4), (ends[3] - 1, 3), (ends[3] + 1, 4), (ends[3] + 2, 4)):
        found = _units(way, packets[:lost] + packets[lost + 1 :])
        assert [number for number, unit in enumerate(found) if unit.damaged] == [damaged]
        assert len(found) in (11, 12)  # one less where the lost one was the beginning of the only slice
    lost = ends[
        3
    ]  # with the marker: where the picture ends is seen later, and the next one may have lost its beginning
    found = _units(way, packets[:lost] + packets[lost + 1 :])
    assert [number for number, unit in enumerate(found) if unit.damaged] == [3, 4]
    _pictures(way, found)


@pytest.mark.parametrize("way", ["h264", "hevc"])
def test_what_arrives_broken_is_never_an_error(tmp_path: Path, way: str) -> None:
    chance = random.Random(1)
    packets = rtp_clip(tmp_path / "a.ts", way)
    for _ in range(30):
        assembler = Assembler(_codec(way), 96)
        for packet in packets:
            broken = bytearray(packet[: chance.randrange(len(packet) + 1)])
            for _ in range(chance.randrange(4)):
                if broken:
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
            list(assembler.push(bytes(broken)))
            rtp.parse_report(bytes(broken))


def test_a_picture_without_end_is_given_up() -> None:
    assembler = Assembler("h264", 96)
    for number in range(1 << 9):
        head = struct.pack(">BBHII", 0x80, 96, number, 0, 1)
        fragment = bytes([0x7C, 0x85 if number == 0 else 0x05]) + bytes(60000)
        assert list(assembler.push(head + fragment)) == []
    assert len(assembler._data) <= units._LARGEST


def test_numbers_of_packets_begin_again_after_the_last(tmp_path: Path) -> None:
    packets = [
        packet[:2] + struct.pack(">H", (0xFFF8 + number) & 0xFFFF) + packet[4:]
        for number, packet in enumerate(rtp_clip(tmp_path / "a.ts", "h264"))
    ]
    assert len(packets) > 8
    assert [unit.damaged for unit in _units("h264", packets)] == [False] * 12


def test_another_sender_that_takes_over_between_two_pictures_damages_none(tmp_path: Path) -> None:
    packets = rtp_clip(tmp_path / "a.ts", "h264")
    begins = [number + 1 for number, packet in enumerate(packets) if packet[1] > 127][5]
    taken = [packet[:2] + b"\0\1" + packet[4:8] + b"else" + packet[12:] for packet in packets[begins : begins + 1]]
    assert [unit.damaged for unit in _units("h264", packets[:begins] + taken)] == [False] * 7


def test_packets_of_another_payload_type_are_left_alone() -> None:
    def packet(kind: int) -> bytes:
        return struct.pack(">BBHII", 0x80, 0x80 | kind, 1, 0, 1) + b"\x65\x88"

    assembler = Assembler("h264", 96)
    assert list(assembler.push(packet(97))) == []
    assert list(assembler.push(packet(96))) == [AccessUnit(b"\0\0\0\1\x65\x88", 0, damaged=False)]


def test_headers_extensions_and_padding_are_taken_off() -> None:
    fixed = struct.pack(">HII", 7, 8, 9)
    assert rtp.parse(b"\x80\xe0" + fixed + b"abc") == (96, True, 7, 8, 9, b"abc")
    assert rtp.parse(b"\xb2\x60" + fixed + bytes(8) + b"\xbe\xde\0\1" + bytes(4) + b"abc\0\2") == (
        96, False, 7, 8, 9, b"abc",
    )  # fmt: skip
    for wrong in (b"", b"\x80", b"\x40\x60" + fixed, b"\x8f\x60" + fixed, b"\xa0\x60" + fixed + b"\xff"):
        assert rtp.parse(wrong) is None


def test_time_stamps_do_not_wrap_and_go_back_where_pictures_are_out_of_order() -> None:
    times = rtp.Times(90000)
    stamps = [0xFFFFF000, 0x000010, 0xFFFFFF00, 0x000020]
    first, *more = [times.unwrapped(stamp) for stamp in stamps]
    assert [stamp - first for stamp in more] == [0x1010, 0xF00, 0x1020]


def test_a_sender_report_tells_when_a_picture_was_taken() -> None:
    report = struct.pack(">BBHIIIIII", 0x80, 200, 6, 1, 2208988800 + 1000, 1 << 31, 0xFFFFFFF0, 0, 0)
    times = rtp.Times(90000)
    assert times.sent(times.unwrapped(0xFFFFFFF0)) is None
    times.report(rtp.parse_report(report + struct.pack(">BBHI", 0x81, 203, 1, 1)))
    assert times.sent(times.unwrapped(0xFFFFFFF0 + 45000 & 0xFFFFFFFF)) == pytest.approx(1001.0)
    assert rtp.parse_report(struct.pack(">BBHI", 0x81, 203, 1, 1)).goodbye
    times.unwrapped(0x10000000)  # its clock was set: the report says nothing of now
    assert times.sent(times.unwrapped(0x10000000)) is None


def _later(packet: bytes) -> bytes:
    """The next packet of another picture."""
    sequence, timestamp = struct.unpack_from(">HI", packet, 2)
    return packet[:2] + struct.pack(">HI", (sequence + 1) & 0xFFFF, (timestamp + 3600) & 0xFFFFFFFF) + packet[8:]
