"""Network outputs over real connections on loopback, watched by PyAV in another process."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import torch

from streamderain.errors import OutputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.redaction import redact_target
from streamderain.video import link, open_sink, publish
from streamderain.video.link import Link
from streamderain.video.sink import check_output

VIEWER = Path(__file__).with_name("viewer.py")
TICK = Fraction(1, 25)
INFO = VideoInfo(width=64, height=48, time_base=TICK, frame_rate=Fraction(25))
LIVE = VideoInfo(width=64, height=48, time_base=TICK, frame_rate=Fraction(25), live=True)

Watch = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.timeout(120)


def grey(index: int, *, at: int | None = None) -> Frame:
    """A frame that tells its number by its brightness."""
    return Frame(torch.full((48, 64, 3), index * 5 % 256, dtype=torch.uint8), index if at is None else at, TICK)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with closing(socket.socket(type=kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_listener(port: int) -> None:
    """Until somebody listens there; not by connecting, which a viewer would take for its publisher."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        listening = f":{port:04X} 00000000:0000 0A"
        if any(listening in Path(table).read_text() for table in ("/proc/net/tcp", "/proc/net/tcp6")):
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts a viewer of a URL; whoever still watches at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, **options: str) -> subprocess.Popen[str]:
        viewer = subprocess.Popen(
            [sys.executable, str(VIEWER), url, json.dumps(options)], stdout=subprocess.PIPE, text=True
        )
        started.append(viewer)
        return viewer

    yield start
    for viewer in started:
        viewer.kill()
        viewer.communicate()


def seen(viewer: subprocess.Popen[str]) -> list[tuple[float | None, float]]:
    """(time, brightness) of every frame that it saw, after the stream's end."""
    frames = [json.loads(line) for line in viewer.communicate(timeout=60)[0].splitlines()]
    return [(at, mean) for at, mean in frames if at != "end"]


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp"])
@pytest.mark.parametrize("info", [INFO, LIVE], ids=["file", "live"])
def test_every_frame_arrives_at_who_listens(watch: Watch, scheme: str, info: VideoInfo) -> None:
    port = free_port()
    url = f"{scheme}://127.0.0.1:{port}{'' if scheme == 'tcp' else '/live/street'}"
    listen = {"rtsp": {"rtsp_flags": "listen", "listen_timeout": "15"}, "rtmp": {"listen": "1"}, "tcp": {"listen": "1"}}
    viewer = watch(url, **listen[scheme])
    await_listener(port)
    with open_sink(url, info) as sink:
        assert "libx264" in sink.description
        for index in range(12):
            sink.write(grey(index))
    with pytest.raises(ValueError, match=f"{re.escape(redact_target(url))} is closed"):
        sink.write(grey(12))
    frames = seen(viewer)
    assert [mean for _, mean in frames] == pytest.approx([index * 5 for index in range(12)], abs=3)
    times = [at for at, _ in frames[1:] if at is not None]  # the first over RTSP has none
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([0.04] * 10)


def test_udp_carries_headers_for_who_tunes_in_late(watch: Watch) -> None:
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    with open_sink(url, INFO, options={"g": "10"}) as sink:
        for index in range(5):
            sink.write(grey(index))
        viewer = watch(url)
        for index in range(5, 100):  # a file is sent at its own pace: four seconds
            sink.write(grey(index % 50, at=index))
    frames = seen(viewer)
    assert len(frames) > 20
    assert frames[-1][1] == pytest.approx(49 * 5, abs=3)


@pytest.mark.parametrize(
    ("options", "quality"),
    [
        ({"crf:v": "20"}, "crf:v 20"),
        ({"qp:v": "20"}, "qp:v 20"),
        ({"global_quality": "200"}, "global_quality 200"),
        ({"b:v": "1M"}, "b:v 1M"),
        ({"preset": "fast"}, "crf 23"),
        ({"g:v": "10", "tune:v": "film"}, "crf 23"),
    ],
)
def test_what_was_asked_for_takes_the_place_of_what_suits_a_stream(options: dict[str, str], quality: str) -> None:
    with open_sink(f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", LIVE, options=options) as sink:
        sink.write(grey(0))
        assert sink.description.startswith(f"libx264 {quality} yuv420p")


@pytest.mark.parametrize(
    ("url", "opened", "patience"),
    [
        ("udp://127.0.0.1:9", "udp://127.0.0.1:9?pkt_size=1316", 10.0),
        ("udp://127.0.0.1:9?ttl=3", "udp://127.0.0.1:9?ttl=3&pkt_size=1316", 10.0),
        ("UDP://127.0.0.1:9?pkt_size=188", "UDP://127.0.0.1:9?pkt_size=188", 10.0),
        ("tcp://127.0.0.1:9?listen=1", "tcp://127.0.0.1:9?listen=1", 0.0),  # whoever watches may come at any time
    ],
)
def test_datagrams_fit_the_internet_and_viewers_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, url: str, opened: str, patience: float
) -> None:
    asked = MagicMock(side_effect=OutputError("it is not sent"))
    monkeypatch.setattr(publish, "Link", asked)
    with pytest.raises(OutputError, match="it is not sent"):
        open_sink(url, LIVE)
    (ask, _), _ = asked.call_args
    assert (ask["url"], ask["open_timeout"]) == (opened, patience)


def test_a_stream_has_a_key_frame_every_two_seconds_and_each_picture_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, keys = Link.put, list[bool]()

    def noted(self: Link, *packet: Any, key: bool) -> None:
        keys.append(key)
        put(self, *packet, key=key)

    monkeypatch.setattr(Link, "put", noted)
    url, info = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", replace(LIVE, frame_rate=Fraction(2))
    with open_sink(url, info, options={"sc_threshold": "0"}) as sink:
        for index in range(9):
            sink.write(grey(index))
            assert len(keys) == index + 1
    assert keys == [index % 4 == 0 for index in range(9)]


def _pretender(then: str) -> Callable[[Path], subprocess.Popen[bytes]]:
    """Starts what says that it is connected, in place of a sender."""
    script = f"""head -c 9 > /dev/null; echo '{{"event": "connected"}}'; {then}"""
    return lambda path: subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(("lasted", "anew"), [(0.0, True), (60.0, False)])
def test_only_a_target_that_has_lasted_is_reached_again_at_once(
    monkeypatch: pytest.MonkeyPatch, lasted: float, anew: bool
) -> None:
    backoff = MagicMock()
    backoff.next.return_value = 0.0
    monkeypatch.setattr(link, "Backoff", lambda: backoff)
    monkeypatch.setattr(link, "_LASTED", lasted)
    monkeypatch.setattr(link, "start_child", _pretender("exit"))
    made = Link({"url": "tcp://x", "open_timeout": 1.0}, b"", name="x", keep_trying=True)
    made.open()
    until = time.monotonic() + 30
    while made.reconnects < 2:
        assert time.monotonic() < until
        made.put(0, 0, 0, b"", key=True)
        time.sleep(0.01)
    made.abort()
    assert backoff.reset.called == anew


def test_every_packet_is_sent_or_counted_and_what_follows_a_gap_is_a_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "start_child", _pretender("exec sleep 60"))
    made = Link({"url": "tcp://x", "open_timeout": 1.0}, b"", name="x", keep_trying=True)
    made.open()
    made.put(0, 0, 0, bytes(200_000), key=True)  # more than a pipe holds: it is in hand for good
    until = time.monotonic() + 30
    while made._packets:
        assert time.monotonic() < until
        time.sleep(0.01)
    for _ in range(link._MOST_PACKETS):
        made.put(0, 0, 0, b"", key=False)
    assert (made.dropped, made.needs_key) == (0, False)
    made.put(0, 0, 0, b"", key=False)  # there is no room, and without those before it is of no use
    assert (made.dropped, made.needs_key) == (link._MOST_PACKETS + 1, True)
    made.put(0, 0, 0, b"", key=False)
    made.put(0, 0, 0, b"", key=True)
    assert (made.dropped, made.needs_key) == (link._MOST_PACKETS + 2, False)
    monkeypatch.setattr(link, "start_child", MagicMock(side_effect=OSError("no more")))
    assert made._child is not None
    made._child.kill()
    while made.connected:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert (made.dropped, made.needs_key) == (link._MOST_PACKETS + 3, True)
    made.abort()


def test_times_that_go_back_are_sent_growing(watch: Watch) -> None:
    port = free_port()
    viewer = watch(f"tcp://127.0.0.1:{port}?listen=1")
    await_listener(port)
    with open_sink(f"tcp://127.0.0.1:{port}", INFO) as sink:
        for index, at in enumerate((0, 1, 2, 2, 1, 3)):
            sink.write(grey(index, at=at))
    times = [at for at, _ in seen(viewer) if at is not None]
    assert len(times) == 6
    assert min(later - earlier for earlier, later in pairwise(times)) == pytest.approx(0.001)


def test_nobody_there_is_one_line_without_the_password() -> None:
    url = f"rtsp://me:secret@127.0.0.1:{free_port()}/x"
    with pytest.raises(OutputError, match=r"127\.0\.0\.1.* cannot be reached: Connection refused") as caught:
        open_sink(url, LIVE)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=r"its password ends the address: write / in it as %2F") as caught:
        open_sink(url.replace("secret", "sec/ret"), LIVE)
    assert "sec/ret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rtmp://127.0.0.1:{}/app/abcd", "Connection refused: nothing listens at 127.0.0.1:{}: is it switched on"),
        ("tcp://127.0.0.1:{}", "Connection refused: nothing listens at 127.0.0.1:{}: is it switched on"),
        ("rtsp://nobody.invalid:{}/x", "no host of this name is known: check the name: nobody.invalid:{}"),
    ],
)
def test_what_cannot_be_reached_is_told_as_of_inputs(url: str, said: str) -> None:
    port = free_port()
    with pytest.raises(OutputError) as caught:
        open_sink(url.format(port), INFO)
    assert f"cannot be reached: {said.format(port)}" in str(caught.value)
    assert "abcd" not in str(caught.value)
    assert "tcp_nodelay" not in str(caught.value)


@pytest.mark.parametrize("url", ["srt://127.0.0.1:9", "http://127.0.0.1:9/x.mp4", "ftp://127.0.0.1/x.mp4"])
def test_what_nothing_is_sent_by_is_known_from_the_name(url: str) -> None:
    with pytest.raises(OutputOptionError, match=r"send by rtsp, .*tcp, or write a file"):
        check_output(url, None, overwrite=False)


def test_a_target_that_comes_up_later_is_waited_for(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    listen: list[subprocess.Popen[str]] = []
    later = threading.Timer(
        1.0, lambda: listen.append(watch(f"rtsp://127.0.0.1:{port}/x", rtsp_flags="listen", listen_timeout="30"))
    )
    later.start()
    with open_sink(f"rtsp://127.0.0.1:{port}/x", LIVE, wait=30) as sink:
        sink.write(grey(7))
    assert [mean for _, mean in seen(listen[0])] == pytest.approx([35], abs=3)
    (waiting,) = [record for record in caplog.records if "waiting for it" in record.getMessage()]
    assert vars(waiting)["event"] == "away"
    assert vars(waiting)["about"]["reason"].startswith("Connection refused")


def test_waiting_for_a_target_can_be_ended() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(OutputError, match="interrupted"):
        open_sink(f"rtsp://127.0.0.1:{free_port()}/x", LIVE, wait=3600, stop=stop)
    assert time.monotonic() - begin < 20
    assert not psutil.Process().children()


def test_a_target_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_OPEN_TIMEOUT", 1.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        begin = time.monotonic()
        with pytest.raises(OutputError, match="no answer within 1 s"):
            open_sink(f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/x", LIVE)
        assert time.monotonic() - begin < 20
    assert not psutil.Process().children()


def test_live_goes_on_while_the_target_takes_nothing(watch: Watch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.settimeout(10)
        sink = open_sink(f"tcp://127.0.0.1:{silent.getsockname()[1]}", LIVE, crf=0)
        taken, _ = silent.accept()
        noise = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)
        slowest = 0.0
        for index in range(3000):  # far more than the buffers of a connection hold
            begin = time.perf_counter()
            sink.write(Frame(noise.roll(index, 0), index, TICK))
            slowest = max(slowest, time.perf_counter() - begin)
        assert slowest < 2  # a connection that is taken for slow lasts 10 s
        assert sink.dropped > 0  # type: ignore[attr-defined]
        sink.abort()
        taken.close()
    assert not psutil.Process().children()


def test_live_connects_again_and_begins_with_a_key_frame(watch: Watch) -> None:
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/x"
    listen = {"rtsp_flags": "listen", "listen_timeout": "30"}
    first = watch(url, **listen)
    await_listener(port)
    second: subprocess.Popen[str] | None = None
    with open_sink(url, LIVE, options={"g": "1000", "sc_threshold": "0"}) as sink:
        index, after = 0, 0
        while after < 20:
            sink.write(grey(index % 50, at=index))
            time.sleep(0.02)
            index += 1
            after += sink.reconnects > 0  # type: ignore[attr-defined]
            if index == 30:
                first.kill()
                second = watch(url, **listen)
            assert index < 2000, "it did not come back"
    assert second is not None
    frames = seen(second)
    assert len(frames) >= 15
    steps = [(after - before) % 250 for (_, before), (_, after) in pairwise(frames)]
    assert steps == pytest.approx([5] * len(steps), abs=3)  # nothing leans on what was never sent


def test_a_file_whose_target_goes_away_is_an_error(watch: Watch) -> None:
    port = free_port()
    viewer = watch(f"tcp://127.0.0.1:{port}?listen=1")
    await_listener(port)
    sink = open_sink(f"tcp://127.0.0.1:{port}", INFO)
    sink.write(grey(0))
    viewer.kill()
    viewer.wait()

    def write_on() -> None:
        index, until = 0, time.monotonic() + 20
        while time.monotonic() < until:  # on a busy machine the sender takes its time to see it
            index += 1
            sink.write(grey(index % 50, at=index))
            time.sleep(0.002)

    with pytest.raises(OutputError, match="cannot be written"):
        write_on()
    sink.abort()


def test_a_sender_that_cannot_be_started_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    def none_left(*args: object, **options: object) -> None:
        nonlocal attempts
        attempts += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(subprocess, "Popen", none_left)
    with pytest.raises(OutputError, match="cannot be reached: its process cannot be started: Too many open files"):
        open_sink("tcp://127.0.0.1:9", LIVE, wait=0.2)
    assert attempts > 1


def test_options_that_cannot_be_had_start_no_process() -> None:
    with pytest.raises(OutputOptionError, match="nonsense"):
        open_sink("rtsp://127.0.0.1:9/x", INFO, codec="nonsense")
    assert not psutil.Process().children()


def test_the_sender_ends_with_its_parent() -> None:
    """Even one that sits in a connection that is never answered."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/x"
        code = (
            "from tests.live.test_publish import LIVE, open_sink\n"
            f"open_sink({url!r}, LIVE)\n"
        )  # fmt: skip
        root = Path(__file__).parents[2]
        parent: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
        )
        silent.settimeout(30)
        taken, _ = silent.accept()
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=5)[0] == [child]
        taken.close()
