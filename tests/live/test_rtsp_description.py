"""What cameras say of their streams: which one is taken, and which are left to FFmpeg."""

from __future__ import annotations

import base64
import time
from fractions import Fraction

import pytest

from streamderain.video.rtsp.description import Track, UnknownToUsError, parse

_BASE = "rtsp://cam/live?x=1"
_H264 = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\na=control:*\r\n"
    "m=application 0 RTP/AVP 107\r\na=control:meta\r\n"
    "m=video 0 RTP/AVP 96\r\nb=AS:5000\r\na=rtpmap:96 H264/90000\r\na=framerate:29.97\r\n"
    "a=fmtp:96 packetization-mode=1; profile-level-id=4D0028;sprop-parameter-sets={},{}\r\na=control:{}\r\n"
)


def _track(text: str, base: str = _BASE) -> Track:
    track, _ = parse(text.encode(), base)
    assert track is not None
    return track


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_an_ordinary_camera() -> None:
    text = _H264.format(_encoded(b"\x67sps"), _encoded(b"\x68pps"), "trackID=1")
    assert _track(text) == Track(
        codec="h264",
        kind=96,
        clock=90000,
        parameter_sets=b"\0\0\0\1\x67sps\0\0\0\1\x68pps",
        rate=Fraction("29.97"),
        control="rtsp://cam/live?x=1/trackID=1",
        session=_BASE,
    )
    assert parse(text.encode(), _BASE)[1] == ["application", "video"]


def test_h265_and_its_three_parameter_sets() -> None:
    sets = ";".join(f"sprop-{name}={_encoded(name.encode())}" for name in ("pps", "vps", "sps"))
    text = f"m=video 0 RTP/AVP 98\na=rtpmap:98 h265/90000\na=fmtp:98 {sets}\n"
    track = _track(text)
    assert (track.codec, track.parameter_sets) == ("hevc", b"\0\0\0\1vps\0\0\0\1sps\0\0\0\1pps")
    assert track.control == track.session == _BASE


@pytest.mark.parametrize(
    ("control", "base", "url"),
    [
        ("track1", "rtsp://h/a/", "rtsp://h/a/track1"),
        ("/track1", "rtsp://h/a", "rtsp://h/a/track1"),
        ("rtsp://10.0.0.1/a/track1", "rtsp://h/a", "rtsp://10.0.0.1/a/track1"),
        ("*", "rtsp://h/a", "rtsp://h/a"),
    ],
)
def test_control_urls_stand_behind_the_base(control: str, base: str, url: str) -> None:
    assert _track(_H264.format("", "", control), base).control == url


@pytest.mark.parametrize("sets", ["%%%", "A", "\u00e4", ",,,"])
def test_parameter_sets_that_cannot_be_read_are_left_out(sets: str) -> None:
    assert _track(_H264.format(sets, "", "x")).parameter_sets == b""


def test_a_description_full_of_parameter_sets_takes_no_time() -> None:
    began = time.process_time()
    _track(_H264.format("AAAA," * 50_000, "", "x"))
    assert time.process_time() - began < 0.3


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("m=video 0 RTP/AVP 26", "it sends JPEG"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 MP4V-ES/90000", "it sends MP4V-ES"),
        ("m=video 0 RTP/SAVP 96\na=rtpmap:96 H264/90000", "it sends RTP/SAVP"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/0", "its description makes no sense"),
        ("m=video 0 RTP/AVP ²\na=rtpmap:² H264/90000", "its description makes no sense"),
        (f"m=video 0 RTP/AVP {'9' * 5000}\na=rtpmap:{'9' * 5000} H264/90000", "its description makes no sense"),
        (f"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/000000001{'9' * 5000}", "its description makes no sense"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 packetization-mode=2", "out of order"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 sprop-max-don-diff=2", "out of order"),
        ("m=video", r"it sends "),
    ],
)
def test_video_that_is_left_to_ffmpeg(lines: str, why: str) -> None:
    with pytest.raises(UnknownToUsError, match=why):
        parse(lines.encode(), _BASE)


def test_the_first_video_that_is_known_is_taken() -> None:
    text = "m=video 0 RTP/AVP 26\na=control:1\nm=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000\na=control:2\n"
    assert _track(text).control.endswith("/2")


@pytest.mark.parametrize("text", ["", "nonsense", "m=audio 0 RTP/AVP 0", "\0\xff" * 1000])
def test_no_video_is_none(text: str) -> None:
    assert parse(text.encode("latin-1"), _BASE)[0] is None
