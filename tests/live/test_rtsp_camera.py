"""Cameras of every manner, read by ourselves: what they are asked, what their pictures are, and what FFmpeg gets."""

from __future__ import annotations

import shutil
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from streamderain.errors import InputError
from streamderain.video.address import address
from streamderain.video.connect import connect
from streamderain.video.connection import Connection, LostError
from streamderain.video.demuxed import Demuxed
from streamderain.video.live import LiveOptions, open_live
from streamderain.video.rtsp.camera import Camera
from streamderain.video.rtsp.client import _parts
from tests.live.cameras import FakeCamera
from tests.live.fake_camera import now_ms, read_stamp
from tests.live.rtp_clips import WAYS, decoded, rtp_clip, same, sdp
from tests.live.scripted import Request, Scripted, interleaved, reply

Make = Callable[..., FakeCamera]
Script = Callable[..., Scripted]


@pytest.fixture
def scripted() -> Iterator[Script]:
    started: list[Scripted] = []

    def make(*arguments: Any, **options: Any) -> Scripted:
        started.append(Scripted(*arguments, **options))
        return started[-1]

    yield make
    for one in started:
        one.close()


def _connect(url: str, *, read_timeout: float = 2.0, open_timeout: float = 5.0, transport: Any = "auto") -> Connection:
    where = address(url, transport=transport, open_timeout=open_timeout)
    return connect(where, read_timeout=read_timeout, busy=lambda on: None)


def _pictures(connection: Connection, count: int) -> list[NDArray[Any]]:
    try:
        return [arrival.picture.to_ndarray() for arrival in islice(connection.pictures(), count)]
    finally:
        connection.close()


@pytest.fixture
def clip(tmp_path: Path) -> list[bytes]:
    return rtp_clip(tmp_path / "a.ts", "h264")


@pytest.mark.parametrize("way", WAYS)
def test_pictures_are_the_files_and_in_order_whatever_their_coding(scripted: Script, tmp_path: Path, way: str) -> None:
    packets = rtp_clip(tmp_path / "a.ts", way, count=24)
    camera = scripted(sdp(way.split()[0]), packets)
    connection = _connect(camera.url())
    assert isinstance(connection, Camera)
    arrivals = list(islice(connection.pictures(), 20))  # the last of those out of order come when more follow
    connection.close()
    assert same([arrival.picture.to_ndarray() for arrival in arrivals], decoded(tmp_path / "a.ts")[:20])
    pts = [arrival.pts or 0 for arrival in arrivals]
    steps = {b - a for a, b in pairwise(pts)}
    assert steps == {3600}
    assert connection.damaged == 0


def test_parameter_sets_may_be_in_the_description_alone(camera: Make) -> None:
    made = camera()
    connection = _connect(made.url())
    assert isinstance(connection, Camera)
    assert bytes(connection._decoder.extradata).startswith(b"\0\0\0\1\x67")
    connection.close()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_picture_is_here_before_the_next_one_begins(camera: Make, transport: Any) -> None:
    made = camera("--fps", 1)  # by FFmpeg's reader each would be a second old
    with open_live(made.url(), LiveOptions(transport=transport)) as source:
        ages = []
        while len(ages) < 3:
            captured = source.take(0.1)
            if captured is not None:
                ages.append((now_ms() - read_stamp(captured.frame.pixels.numpy())) / 1000)
    assert max(ages) < 0.5, ages


def test_what_is_asked_of_the_camera(scripted: Script, clip: list[bytes]) -> None:
    camera = scripted(sdp("h264"), clip)
    _pictures(_connect(camera.url(path="/a/b?c=d")), 3)
    while len(camera.requests) < 4:
        time.sleep(0.01)
    base = camera.url(path="/a/b?c=d")
    asked = [(request.method, request.url) for request in camera.requests]
    assert asked == [("DESCRIBE", base), ("SETUP", f"{base}/track1"), ("PLAY", base), ("TEARDOWN", base)]
    assert camera.requests[0].headers["accept"] == "application/sdp"
    assert camera.requests[1].headers["transport"] == "RTP/AVP/TCP;unicast;interleaved=0-1"
    assert camera.requests[2].headers["range"] == "npt=0.000-"
    assert [request.headers.get("session") for request in camera.requests] == [None, None, "7", "7"]
    assert [request.headers["cseq"] for request in camera.requests] == ["1", "2", "3", "4"]


def test_tracks_lie_where_the_description_says(scripted: Script, clip: list[bytes]) -> None:
    def answer(request: Request) -> bytes | None:
        base = f"Content-Base: {camera.url(path='/else/')}"
        return reply(request, "200 OK", base, body=sdp("h264")) if request.method == "DESCRIBE" else None

    camera = scripted(answer=answer)
    _connect(camera.url()).close()
    asked = [request.url for request in camera.requests[1:3]]
    assert asked == [camera.url(path="/else/track1"), camera.url(path="/else/")]


def test_packets_are_found_again_on_the_channels_agreed_on(scripted: Script, tmp_path: Path) -> None:
    packets = rtp_clip(tmp_path / "a.ts", "h264")

    def answer(request: Request) -> bytes | None:
        if request.method == "SETUP":
            return reply(request, "200 OK", "Transport: RTP/AVP/TCP;interleaved=4-5", "Session: 7")
        if request.method == "PLAY":
            return reply(request) + b"\0stray" + b"".join(interleaved(packet, 4) for packet in packets)
        return None

    connection = _connect(scripted(sdp("h264"), answer=answer).url())
    assert same(_pictures(connection, 12), decoded(tmp_path / "a.ts"))


def test_packets_before_the_answer_requests_and_stray_bytes_in_between_lose_nothing(
    scripted: Script, tmp_path: Path
) -> None:
    packets = rtp_clip(tmp_path / "a.ts", "h264")
    ends = [number for number, packet in enumerate(packets) if packet[1] > 127]

    def answer(request: Request) -> bytes | None:
        if request.method != "PLAY":
            return None
        early = b"".join(map(interleaved, packets[: ends[1] + 1]))
        theirs = b"OPTIONS * RTSP/1.0\r\nCSeq: 99\r\n\r\nREDIRECT * RTSP/1.0\r\nCSeq: 100\r\n\r\n\r\n"
        return early + b"\r\n" + reply(request) + b"\0\0stray" + interleaved(b"") + theirs + interleaved(b"", 3)

    camera = scripted(sdp("h264"), packets[ends[1] + 1 :], answer=answer)
    assert same(_pictures(_connect(camera.url()), 12), decoded(tmp_path / "a.ts"))
    answers = [(request.url, request.headers["cseq"]) for request in camera.asked("ANSWER")]
    assert answers == [("200", "99"), ("501", "100")]


def test_it_is_kept_alive_by_what_it_understands(scripted: Script, tmp_path: Path) -> None:
    def answer(request: Request) -> bytes | None:
        if request.method == "SETUP":
            return reply(request, "200 OK", "Transport: RTP/AVP/TCP;interleaved=4-5", "Session: 7;timeout=1")
        if request.method == "GET_PARAMETER":
            return None if request.number < 2 else reply(request, "501 Not Implemented")
        return reply(request, "200 OK", "Public: OPTIONS, GET_PARAMETER") if request.method == "OPTIONS" else None

    camera = scripted(sdp("h264"), rtp_clip(tmp_path / "a.ts", "h264", count=100), answer=answer)
    connection = _connect(camera.url())
    assert isinstance(connection, Camera)
    assert connection._client._timeout == 5  # a second would be a request with every few pictures
    connection._client._timeout = 0.5
    with pytest.raises(LostError, match="nothing came for 2 s"):  # what comes is not on the channels agreed on
        next(connection.pictures())
    connection.close()
    asked = [request for request in camera.requests[3:] if request.method != "TEARDOWN"]
    assert [request.method for request in asked][:6] == ["OPTIONS", *["GET_PARAMETER"] * 3, "OPTIONS", "OPTIONS"]
    assert {request.headers["session"] for request in asked} == {"7"}
    assert len(asked) <= 10


def test_a_session_for_a_time_that_is_no_number_is_read(scripted: Script, clip: list[bytes]) -> None:
    def answer(request: Request) -> bytes | None:
        return (
            reply(request, "200 OK", "Transport: RTP/AVP/TCP", "Session: 7;timeout=²")
            if request.method == "SETUP"
            else None
        )

    assert len(_pictures(_connect(scripted(sdp("h264"), clip, answer=answer).url()), 3)) == 3


def test_digest_asks_again_when_the_nonce_is_stale(scripted: Script, clip: list[bytes]) -> None:
    def answer(request: Request) -> bytes | None:
        nonce = "second" if request.method in ("PLAY", "TEARDOWN") else "first"
        if f'nonce="{nonce}"' in request.headers.get("authorization", ""):
            return None
        stale = ", stale=true" if nonce == "second" else ""
        challenge = f'WWW-Authenticate: Digest realm="cam", nonce="{nonce}", qop="auth", algorithm=SHA-256{stale}'
        return reply(request, "401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"', challenge)

    camera = scripted(sdp("h264"), clip, answer=answer)
    assert len(_pictures(_connect(camera.url(user="admin:secret")), 5)) == 5
    said = [request.headers.get("authorization", "") for request in camera.requests]
    assert not any("Basic" in one or "secret" in one for one in said)
    assert [len(camera.asked(method)) for method in ("DESCRIBE", "SETUP", "PLAY")] == [2, 1, 2]


def test_a_wrong_password_is_said_twice_at_most_and_final(scripted: Script) -> None:
    def answer(request: Request) -> bytes:
        nonce = f'Digest realm="cam", nonce="{request.number}"'
        return reply(request, "401 Unauthorized", f"WWW-Authenticate: {nonce}")

    camera = scripted(sdp("h264"), answer=answer)
    with pytest.raises(LostError, match="401 Unauthorized") as raised:
        _connect(camera.url(user="admin:secret"))
    assert raised.value.final
    assert raised.value.hint is not None
    assert "secret" not in f"{raised.value} {raised.value.hint}"
    assert len(camera.requests) == 2


def test_a_password_of_any_signs_is_percent_encoded(camera: Make) -> None:
    made = camera("--password", "ad min:p@ss/w:rd%")
    connection = _connect(made.url(user="ad%20min:p%40ss%2Fw%3Ard%25"))
    assert len(_pictures(connection, 2)) == 2
    assert isinstance(connection, Camera)


def _asks(request: Request) -> bytes | None:
    """Wants a password for everything."""
    if "authorization" in request.headers:
        return None
    return reply(request, "401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"')


def test_redirects_are_followed_and_passwords_stay_with_their_host(scripted: Script, clip: list[bytes]) -> None:
    goal = scripted(sdp("h264"), clip, answer=_asks)
    there = goal.url(path="/new")
    first = scripted(answer=lambda request: reply(request, "302 Found", f"Location: {there}"))
    assert len(_pictures(_connect(first.url(user="admin:secret")), 3)) == 3
    assert goal.requests[0].url == there
    there = there.replace("127.0.0.1", "localhost")
    with pytest.raises(LostError, match="401"):
        _connect(first.url(user="admin:secret"))
    asked = [request for request in goal.requests if "localhost" in request.url]  # the first one's farewell may be late
    assert asked[0].url == there
    assert not any("authorization" in request.headers for request in asked)


@pytest.mark.parametrize("where", ["http://localhost/cam", "", "rtsp://[::1/cam"])
def test_no_password_goes_to_another_host_by_ffmpeg(scripted: Script, where: str) -> None:
    goal = scripted("m=video 0 RTP/AVP 26\r\n", answer=_asks)

    def answer(request: Request) -> bytes | None:
        if request.method == "OPTIONS":
            return reply(request)
        ours = request.headers["user-agent"] == "streamderain"
        there = where if ours else goal.url().replace("127.0.0.1", "localhost")
        return reply(request, "302 Found", f"Location: {there}")

    with pytest.raises(LostError, match="after a redirect"):
        _connect(scripted(answer=answer).url(user="admin:secret"), open_timeout=2.0)
    assert not goal.requests


def test_after_a_redirect_ffmpeg_reads_only_what_has_no_password(scripted: Script) -> None:
    goal = scripted("m=video 0 RTP/AVP 26\r\n")
    first = scripted(answer=lambda request: reply(request, "302 Found", f"Location: {goal.url()}"))
    with pytest.raises(LostError, match="after a redirect it sends JPEG"):
        _connect(first.url(user="admin:secret"))
    assert not goal.asked("OPTIONS")  # with which FFmpeg begins
    _connect(first.url()).close()
    assert goal.asked("OPTIONS")


@pytest.mark.parametrize(
    ("url", "first", "port", "login"),
    [
        ("rtsp://cam/x", "rtsp://u:p@cam/x", 554, True),
        ("rtsps://cam/x", "rtsps://u:p@cam/x", 322, True),
        ("rtsps://cam/x", "rtsp://u:p@cam/x", 322, True),
        ("rtsp://cam/x", "rtsps://u:p@cam/x", 554, False),  # what was secret must not be said aloud
        ("rtsp://a:b@cam:8554/x", "rtsps://u:p@cam/x", 8554, True),
        ("rtsp://other/x", "rtsp://u:p@cam/x", 554, False),
    ],
)
def test_where_a_redirect_leads_and_who_gets_the_password(url: str, first: str, port: int, login: bool) -> None:
    found = _parts(url, first)
    assert (found[2], found[3] is not None) == (port, login)
    assert "@" not in found[4]


@pytest.mark.parametrize("url", ["rtsp://u:hunter2@[::1/cam", "rtsp://u:hunter2@host:99999/cam", "rtsp:///cam"])
def test_an_address_that_makes_no_sense_is_one_line(url: str) -> None:
    with pytest.raises(InputError, match="cannot be opened") as raised:
        open_live(url, LiveOptions(open_timeout=2))
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_redirects_in_a_circle_end(scripted: Script) -> None:
    around = scripted(answer=lambda request: reply(request, "301 Moved", f"Location: {around.url()}"))
    with pytest.raises(LostError, match="on and on"):
        _connect(around.url())


def test_a_host_may_be_an_ipv6_address(scripted: Script, clip: list[bytes]) -> None:
    try:
        camera = scripted(sdp("h264"), clip, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    connection = _connect(camera.url(user="a:b"))
    assert isinstance(connection, Camera)
    assert len(_pictures(connection, 3)) == 3
    assert camera.requests[0].url == camera.url()


def test_tls_takes_the_cameras_own_certificate(scripted: Script, clip: list[bytes], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=camera", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    camera = scripted(sdp("h264"), clip, secure=context)
    connection = _connect(camera.url())
    assert isinstance(connection, Camera)
    assert len(_pictures(connection, 3)) == 3


def test_no_tls_where_tls_is_wanted_is_one_line(scripted: Script) -> None:
    camera = scripted(sdp("h264"))
    with pytest.raises(InputError, match=r"rtsps://.* cannot be opened") as raised:
        open_live(camera.url(user="admin:hunter2").replace("rtsp:", "rtsps:"), LiveOptions(open_timeout=1))
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_sound_is_left_out_and_said(scripted: Script, clip: list[bytes]) -> None:
    camera = scripted("m=audio 0 RTP/AVP 0\r\na=control:track0\r\n" + sdp("h264"), clip)
    connection = _connect(camera.url())
    assert connection.notes == ["sound left out: live inputs are taken without it"]
    assert len(_pictures(connection, 3)) == 3
    assert [request.url for request in camera.asked("SETUP")] == [camera.url() + "/track1"]


def test_a_camera_without_video_is_the_same_error_as_ffmpegs(scripted: Script) -> None:
    camera = scripted("v=0\r\ns=x\r\nm=audio 0 RTP/AVP 0\r\na=control:track0\r\n")
    with pytest.raises(InputError, match=r"holds no video \(only audio\): is it the right file\?"):
        _connect(camera.url())


def test_packets_that_a_camera_leaves_out_are_patched_up_and_counted(scripted: Script, tmp_path: Path) -> None:
    packets = rtp_clip(tmp_path / "a.ts", "h264", size=(160, 128), count=24)
    ends = [number for number, packet in enumerate(packets) if packet[1] > 127]
    del packets[ends[9] - 1]
    connection = _connect(scripted(sdp("h264"), packets).url())
    whole = decoded(tmp_path / "a.ts")
    ours = _pictures(connection, 20)
    assert same(ours[:9], whole[:9])
    assert not same(ours[9:10], whole[9:10])
    assert connection.damaged >= 1


def test_goodbye_and_hanging_up_are_ends_and_silence_is_told_in_seconds(scripted: Script, clip: list[bytes]) -> None:
    def leaving(request: Request) -> bytes | None:
        return (
            reply(request) + interleaved(struct.pack(">BBHI", 0x81, 203, 1, 1), 1) if request.method == "PLAY" else None
        )

    with pytest.raises(LostError, match="the stream ended"):
        _pictures(_connect(scripted(sdp("h264"), answer=leaving).url()), 1)
    hanging = scripted(sdp("h264"))
    connection = _connect(hanging.url())
    hanging.close()
    with pytest.raises(LostError, match="the stream ended"):
        next(connection.pictures())
    connection.close()
    with pytest.raises(LostError, match=r"nothing came for 0\.5 s"):
        _pictures(_connect(scripted(sdp("h264"), clip).url(), read_timeout=0.5), 100)


def test_reports_alone_are_silence(scripted: Script) -> None:
    def answer(request: Request) -> bytes | None:
        if request.method != "SETUP":
            return None
        return reply(request, "200 OK", "Transport: RTP/AVP/TCP;interleaved=1-0", "Session: 7")  # all are reports

    report = struct.pack(">BBHIIIIII", 0x80, 200, 6, 1, 0, 0, 0, 0, 0)
    began = time.monotonic()
    with pytest.raises(LostError, match=r"nothing came for 0\.3 s"):
        _pictures(_connect(scripted(sdp("h264"), [report] * 400, answer=answer).url(), read_timeout=0.3), 1)
    assert time.monotonic() - began < 6  # of 8 that they go on


def test_packets_without_a_picture_are_not_taken_for_long(
    scripted: Script, clip: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamderain.video.connection._NO_PICTURE", 0.1)
    monkeypatch.setattr("streamderain.video.connection._NO_PICTURE_AT_LEAST", 0.1)
    keyframe = next(number for number, packet in enumerate(clip) if packet[1] > 127)
    with pytest.raises(LostError, match="data comes, but no picture"):
        _pictures(_connect(scripted(sdp("h264"), clip[keyframe + 1 :]).url()), 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"RTSP/1.0 200 OK\r\n" + b"x: y\r\n" * 5000, "no end"),
        (b"RTSP/1.0 200 OK\r\nx: " + b"y" * 100_000, "no end"),
        (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 999999999\r\n\r\n", "too long"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no RTSP server"),
        (b"RTSP/1.0 gone\r\n\r\n", "no RTSP server"),
        (b"\0" * 3_000_000, "makes no sense"),
        (interleaved(b"") * 10_000, "does not answer"),
        (interleaved(bytes(60_000)) * 300, "does not answer"),
    ],
)
def test_what_a_hostile_server_sends_is_one_line_in_time(scripted: Script, answer: bytes, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(LostError, match=words):
        _connect(scripted(answer=lambda request: answer).url())
    assert time.monotonic() - began < 3


def test_an_answer_that_drips_is_given_up_in_time(scripted: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def dripping(request: Request) -> bytes:
        time.sleep(0.7)
        return b"RTSP/1.0 200 OK\r\nCSeq: 77\r\n\r\n"

    began = time.monotonic()
    with pytest.raises(LostError, match="no answer within 1 s"):
        _connect(scripted(answer=dripping).url(), open_timeout=1.0)
    assert time.monotonic() - began < 2


def test_what_is_not_known_is_left_to_ffmpeg_and_said(camera: Make) -> None:
    made = camera("--transport", "udp")
    connection = _connect(made.url())
    assert isinstance(connection, Demuxed)
    assert connection.notes == ["read by FFmpeg: it does not send by TCP"]
    assert len(_pictures(connection, 3)) == 3


@pytest.mark.parametrize(
    ("url", "transport", "ours"),
    [
        ("rtsp://h/x", "auto", True),
        ("rtsps://u:p@h:1/x?a=b", "tcp", True),
        ("rtsp://h/x", "udp", False),
        ("rtsp://h/x?udp", "auto", False),
        ("rtsp://h/x?listen=1", "auto", False),
        ("rtmp://h/x", "auto", False),
        ("udp://h:1", "auto", False),
        ("clip.mp4", "auto", False),
    ],
)
def test_which_addresses_we_read_ourselves(url: str, transport: Any, ours: bool) -> None:
    assert address(url, transport=transport).by_tcp == ours
