"""Live inputs other than an RTSP camera: publishers that connect to us, transport streams, HTTP, pipes and files."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamderain.cli import cli
from streamderain.errors import InputError, StreamLostError
from streamderain.video.address import is_live
from streamderain.video.connect import connect
from streamderain.video.live import LiveOptions, LiveSource, open_live
from tests.live.cameras import ROOT
from tests.live.fake_camera import now_ms, read_stamp
from tests.video.clips import write_clip

Publish = Callable[..., "subprocess.Popen[bytes]"]


def _port(kind: int = socket.SOCK_STREAM) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def publish() -> Iterator[Publish]:
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str, container: str, *options: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.live.publisher", url, container, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        more = {"stderr": subprocess.DEVNULL, **more}
        started.append(subprocess.Popen(command, env=environment, cwd=ROOT, **more))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def _fresh(source: LiveSource, count: int = 25, within: float = 20.0) -> None:
    """So many frames come, and the last of them are young: the first may have waited while we looked at what it is."""
    ages: list[float] = []
    end = time.monotonic() + within
    while len(ages) < count:
        assert time.monotonic() < end, f"{len(ages)} of {count} frames"
        captured = source.take(0.1)
        if captured is not None:
            ages.append((now_ms() - read_stamp(captured.frame.pixels.numpy())) / 1000)
    assert min(ages[-4:]) < 0.3, ages


def _again(source: LiveSource, within: float = 20.0) -> None:
    """It comes back after a loss."""
    end = time.monotonic() + within
    while source.reconnects == 0:
        assert time.monotonic() < end
        source.take(0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "container", "options"),
    [
        ("rtsp://127.0.0.1:{}/x?listen=1", "rtsp://127.0.0.1:{}/x", "rtsp", ("--options", "rtsp_transport=tcp")),
        ("tcp://127.0.0.1:{}?listen=1", "tcp://127.0.0.1:{}", "mpegts", ()),
        ("rtmp://127.0.0.1:{}/live/x?listen=1", "rtmp://127.0.0.1:{}/live/x", "flv", ()),
    ],
)
def test_a_publisher_is_waited_for_and_may_come_again(
    publish: Publish, ours: str, theirs: str, container: str, options: tuple[str, ...]
) -> None:
    port = _port()
    first: list[subprocess.Popen[bytes]] = []
    late = threading.Timer(0.5, lambda: first.append(publish(theirs.format(port), container, *options)))
    late.start()
    with open_live(ours.format(port), LiveOptions(read_timeout=1)) as source:
        _fresh(source)
        late.join()
        first[0].kill()
        while source.state == "up":
            source.take(0.1)
        publish(theirs.format(port), container, *options)
        _again(source)
        _fresh(source)


@pytest.mark.parametrize("rate", [8, 40])
def test_mjpeg_by_http_is_timed_by_its_arrival(rate: int) -> None:
    """It has no times, and FFmpeg has it come at 25 frames/s."""

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
            head = b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            began, number = time.monotonic(), 0
            with suppress(OSError):
                while True:
                    self.wfile.write(head + picture + b"\r\n")
                    number += 1
                    time.sleep(max(0.0, began + number / rate - time.monotonic()))

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        assert is_live(url)
        with open_live(url) as source:
            taken: list[tuple[float, float, float]] = []  # ours, the frame's, how old
            while not taken or taken[-1][0] - taken[0][0] < 4.0:
                captured = source.take(0.1)
                if captured is not None:
                    now = time.monotonic()
                    taken.append((now, captured.frame.pts / 90000, now - captured.at))
        server.shutdown()
    ours, theirs = (taken[-1][i] - taken[1][i] for i in (0, 1))
    assert theirs == pytest.approx(ours, abs=0.3)
    assert sorted(age for _, _, age in taken)[len(taken) // 2] < 0.3


def test_a_transport_stream_by_udp_that_stops_and_goes_on(publish: Publish) -> None:
    port = _port(socket.SOCK_DGRAM)
    first = publish(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts")
    with open_live(f"udp://127.0.0.1:{port}", LiveOptions(read_timeout=1, open_timeout=30)) as source:
        _fresh(source)
        first.kill()
        while source.state == "up":
            source.take(0.1)
        publish(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts")
        _again(source)
        _fresh(source)


def test_a_port_where_nothing_arrives_is_an_error_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no answer within 1 s: is 127\.0\.0\.1:\d+ reachable"):
        open_live(f"udp://127.0.0.1:{_port(socket.SOCK_DGRAM)}", LiveOptions(open_timeout=1.0))
    assert time.monotonic() - began < 8


_LISTENING = ["rtsp://127.0.0.1:{}/x?listen=1", "tcp://127.0.0.1:{}?listen=1", "rtmp://127.0.0.1:{}/live/x?listen=1"]


@pytest.mark.parametrize("ours", _LISTENING)
def test_a_publisher_is_waited_for_as_long_as_was_said(ours: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"nobody connected and sent a picture within 1 s: does the publisher"):
        open_live(ours.format(_port()), LiveOptions(wait=1.0))
    assert 0.9 < time.monotonic() - began < 8


def test_a_publisher_that_comes_in_time_is_read_on(publish: Publish) -> None:
    port = _port()
    late = threading.Timer(0.5, lambda: publish(f"tcp://127.0.0.1:{port}", "mpegts"))
    late.start()
    with open_live(f"tcp://127.0.0.1:{port}?listen=1", LiveOptions(wait=20.0)) as source:
        _fresh(source)
    late.join()


@pytest.mark.parametrize("ours", _LISTENING)
@pytest.mark.parametrize("wait", [0.0, 1.5])
def test_a_port_that_another_listens_on_is_told_and_not_hammered(
    monkeypatch: pytest.MonkeyPatch, ours: str, wait: float
) -> None:
    tries: list[float] = []

    def counted(*args: Any, **options: Any) -> Any:
        tries.append(time.monotonic())
        return connect(*args, **options)

    monkeypatch.setattr("streamderain.video.live.connect", counted)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match=r"Address already in use: does another program listen there\?"):
            open_live(ours.format(other.getsockname()[1]), LiveOptions(wait=wait))
    assert len(tries) == 1 if wait == 0 else 2 <= len(tries) <= 5


def test_standard_input_can_be_live(publish: Publish) -> None:
    publisher = publish("-", "mpegts", stdout=subprocess.PIPE)
    assert publisher.stdout is not None
    before = os.dup(0)
    try:
        os.dup2(publisher.stdout.fileno(), 0)
        with open_live("-", LiveOptions(reconnect=False, open_timeout=30)) as source:
            _fresh(source)
            publisher.kill()
    finally:
        os.dup2(before, 0)
        os.close(before)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files of a folder, and at /live whatever ``stream`` brings, for ever."""

    stream: Callable[[], Any]

    def do_GET(self) -> None:
        if self.path != "/live":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        pipe = type(self).stream()
        try:
            while data := pipe.read1(4096):
                self.wfile.write(data)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def web(tmp_path: Path, publish: Publish) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"stream": lambda: publish("-", "mpegts", stdout=subprocess.PIPE).stdout})

    def make(*arguments: Any) -> http.server.BaseHTTPRequestHandler:
        return handler(*arguments, directory=str(tmp_path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_http_is_live_when_it_has_no_end_and_a_recording_is_not(web: str, tmp_path: Path, publish: Publish) -> None:
    assert is_live(f"{web}/live")
    recording = tmp_path / "old.mp4"
    publish(str(recording), "mp4", "--seconds", "1").wait()
    assert not is_live(f"{web}/old.mp4")
    publish(str(tmp_path / "old.m3u8"), "hls", "--seconds", "2").wait()
    assert (tmp_path / "old.m3u8").exists()
    assert not is_live(f"{web}/old.m3u8")
    assert not is_live(f"{web}/nothing.mp4")


def test_a_file_without_times_that_http_serves_keeps_its_rate(web: str, tmp_path: Path) -> None:
    """However fast it comes: it has a size, which no camera has."""
    write_clip(tmp_path / "in.h264", options={"bf": "0"})
    with open_live(f"{web}/in.h264", LiveOptions(newest=False, reconnect=False)) as source:
        pts: list[int] = []
        with suppress(StreamLostError):
            pts += (frame.pts for frame in source)
    assert pts == [3600 * number for number in range(len(pts))]
    assert len(pts) > 3


def test_an_endless_http_stream_opens_and_is_fresh(web: str) -> None:
    with open_live(f"{web}/live") as source:
        _fresh(source)


def _segment(folder: Path, number: int) -> None:
    """A second of video, numbered, in `SEGMENTS` of 25 pictures."""
    pts = [90000 * number + 3600 * i for i in range(25)]
    write_clip(folder / f"s{number}.ts", time_base=Fraction(1, 90000), pts=pts, options={"bf": "0"})


def _playlist(folder: Path, count: int, *, ended: bool = False) -> None:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
    for number in range(count):
        lines += ["#EXTINF:1.0,", f"s{number}.ts"]
    (folder / "new").write_text("\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else [])]) + "\n")
    (folder / "new").rename(folder / "live.m3u8")


def test_segments_that_come_as_a_whole_are_shown_picture_by_picture_and_once(web: str, tmp_path: Path) -> None:
    for number in range(7):
        _segment(tmp_path, number)
    _playlist(tmp_path, 3)
    assert is_live(f"{web}/live.m3u8")
    options = LiveOptions(reconnect_limit=2.0, read_timeout=2.0)
    pts: list[int] = []
    with open_live(f"{web}/live.m3u8", options) as source:
        began, there, ended = time.monotonic(), 3, ""
        while not ended and time.monotonic() - began < 30:
            try:
                captured = source.take(0.1)
            except StreamLostError as error:
                ended = str(error)
                break
            if captured is not None:
                pts.append(captured.frame.pts)
            if there < 7 and time.monotonic() - began > there - 2:
                there += 1
                _playlist(tmp_path, there, ended=there == 7)
        assert "it has come to its end, and what it serves now is a recording" in ended
        assert source.skipped < 10
    assert 160 <= len(pts) + source.skipped <= 175, "none is shown again"
    steps = sorted(b - a for a, b in pairwise(pts))
    assert steps[len(steps) // 10] == steps[len(steps) * 9 // 10] == 3600
    assert pts[-1] / 90000 == pytest.approx(7.0, abs=1.0)


def test_a_recording_on_a_server_that_plays_the_camera_comes_by_the_clock(web: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "old.mkv", count=50)
    with open_live(f"{web}/old.mkv") as source:
        began, count = time.monotonic(), 0
        while count < 60:
            count += source.take(0.1) is not None
        assert time.monotonic() - began > 1.5
        assert source.reconnects >= 1, "it begins again"


def test_a_camera_by_http_that_is_off_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.ts"
    assert is_live(url, unknown=True)
    result = CliRunner().invoke(cli, ["run", url, "null:", "-m", "identity", "--wait", "1"])
    assert result.exit_code == 4, result.output
    assert "cannot be opened within 1 s: Connection refused" in result.stderr
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.ts"
        assert is_live(url, read_timeout=0.5, unknown=True)


def test_a_file_that_plays_the_camera_comes_by_the_clock_and_begins_again(tmp_path: Path, publish: Publish) -> None:
    clip = tmp_path / "clip.mkv"
    publish(str(clip), "matroska", "--seconds", "1.5").wait()
    with open_live(str(clip)) as source:
        began = time.monotonic()
        pts = []
        while len(pts) < 60:
            captured = source.take(0.1)
            if captured is not None:
                pts.append(captured.frame.pts)
        assert time.monotonic() - began > 1.5
        assert source.reconnects >= 1
    assert all(a < b for a, b in pairwise(pts))


@pytest.mark.parametrize(
    ("uri", "live"),
    [
        ("rtsp://camera/x", True),
        ("RTSPS://camera/x", True),
        ("rtmp://server/app/key", True),
        ("udp://239.0.0.1:1234", True),
        ("tcp://host:1", True),
        ("/dev/video0", True),
        ("0", True),
        ("-", False),
        ("clip.mp4", False),
        ("file:clip.mp4", False),
        ("/dev/null", False),
    ],
)
def test_what_counts_as_live(uri: str, live: bool) -> None:
    assert is_live(uri) == live


def test_a_video_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match=r"/dev/video97 cannot be opened: .*v4l2-ctl"):
        open_live("97")
