"""Live sources against a real camera on loopback: how they open, what they say when they cannot, what they yield."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from streamderain.errors import InputError, StreamLostError
from streamderain.frame import Frame
from streamderain.observe import Observer
from streamderain.video import live
from streamderain.video.address import Address
from streamderain.video.connection import Arrival, Connection, LostError
from streamderain.video.live import LiveOptions, LiveSource, open_live
from streamderain.video.live_frames import Captured
from tests.live.cameras import FakeCamera
from tests.live.fake_camera import now_ms, read_stamp
from tests.video.clips import write_clip
from tests.waiting import wait_until

Make = Callable[..., FakeCamera]
QUICK = LiveOptions(read_timeout=0.5, open_timeout=2.0)


def _take(source: LiveSource, count: int, within: float = 20.0) -> list[Captured]:
    found: list[Captured] = []
    end = time.monotonic() + within
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} frames within {within} s"
        captured = source.take(0.1)
        if captured is not None:
            found.append(captured)
    return found


def _take_of(source: LiveSource, connection: int, count: int = 5) -> list[Captured]:
    """The first frames of that connection; some of the one before may still be on their way."""
    found = _take(source, 1)
    while found[-1].connection < connection:
        found = _take(source, 1)
    found += _take(source, count - 1)
    assert {captured.connection for captured in found} == {connection}
    return found


def _age(frame: Frame) -> float:
    return (now_ms() - read_stamp(frame.pixels.numpy())) / 1000


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_come_by_either_transport_fresh_and_with_the_cameras_intervals(camera: Make, transport: str) -> None:
    made = camera("--transport", transport, "--fps", 20)
    with open_live(made.url(), LiveOptions(newest=False)) as source:
        assert source.info.live
        assert (source.info.width, source.info.height) == (64, 48)
        ages = []
        taken: list[Captured] = []
        for _ in range(30):
            taken += _take(source, 1)
            ages.append(_age(taken[-1].frame))
    pts = [captured.frame.pts for captured in taken]
    steps = {b - a for a, b in pairwise(pts[2:])}  # the first has no time of its own
    assert all(abs(step - 4500) <= 1 for step in steps), steps
    assert sorted(ages)[len(ages) // 2] < 0.25


def test_the_first_picture_is_the_keyframe_that_a_new_client_gets(camera: Make) -> None:
    made = camera("--gop", 250)
    time.sleep(1.0)
    began = time.monotonic()
    with open_live(made.url()) as source:
        _take(source, 1)
    assert time.monotonic() - began < 3.0  # the next keyframe by plan is ten seconds away


def test_the_capture_time_agrees_with_the_stamp_in_the_picture(camera: Make) -> None:
    made = camera()
    with open_live(made.url()) as source:
        for captured in _take(source, 40)[30:]:  # by then the camera has reported its clock
            stamped = read_stamp(captured.frame.pixels.numpy()) / 1000
            assert abs(captured.at % (1 << 32) - stamped) < 0.1


@pytest.mark.parametrize(
    ("user", "path", "words"),
    [("", "/cam", "401"), ("root:letmein", "/cam", "401"), ("admin:hunter2", "/nowhere", "404")],
)
def test_a_camera_that_refuses_is_one_line_and_no_password(camera: Make, user: str, path: str, words: str) -> None:
    made = camera("--password", "admin:hunter2")
    with pytest.raises(InputError, match=words) as raised:
        open_live(made.url(user=user, path=path), QUICK)
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)
    for secret in ("letmein", "hunter2"):
        assert secret not in str(raised.value)


def test_the_right_password_opens(camera: Make) -> None:
    made = camera("--password", "admin:hunter2")
    with open_live(made.url(user="admin:hunter2")) as source:
        assert "hunter2" not in source.name
        _take(source, 3)


def test_nothing_listening_unknown_hosts_and_silent_ones_are_told_apart(camera: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=r"refused.*nothing listens at"):
        open_live(f"rtsp://127.0.0.1:{port}/cam", QUICK)
    with pytest.raises(InputError, match=r"no host of this name is known: check the name: nosuchhost"):
        open_live("rtsp://nosuchhost.invalid/cam", QUICK)
    with pytest.raises(InputError, match="does not speak it"):
        open_live("srt://127.0.0.1:9", QUICK)
    for password in ("pa/77", "8/77"):  # before the slash, no port and what could be one
        with pytest.raises(InputError, match=r"its password ends the address: write / in it as %2F") as caught:
            open_live(f"rtsp://user:{password}@127.0.0.1:{port}/cam", QUICK)
        assert password not in str(caught.value)
    with pytest.raises(InputError, match=r"its port is none: ports are numbers from 1 to 65535"):
        open_live("rtsp://127.0.0.1:99999/cam", QUICK)
    made = camera()
    made.tell("mute")
    time.sleep(0.3)
    began = time.monotonic()
    with pytest.raises(InputError, match="no answer within 1 s"):
        open_live(made.url(), LiveOptions(open_timeout=1.0))
    assert time.monotonic() - began < 5


def test_a_final_refusal_is_not_waited_on_but_a_camera_that_starts_late_is(camera: Make) -> None:
    made = camera("--password", "admin:hunter2")
    began = time.monotonic()
    with pytest.raises(InputError, match="401"):
        open_live(made.url(), LiveOptions(wait=30))
    assert time.monotonic() - began < 10
    made.kill()
    late = threading.Timer(1.0, made.start)
    late.start()
    with open_live(made.url(user="admin:hunter2"), LiveOptions(wait=30)) as source:
        _take(source, 1)
    late.join()


def test_waiting_for_a_camera_ends_when_told_to_stop() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(InputError, match="before its first picture"):
        open_live("rtsp://127.0.0.1:9/cam", LiveOptions(wait=600), stop=stop)
    assert time.monotonic() - began < 5


def test_a_killed_camera_comes_back_with_times_that_grow(camera: Make) -> None:
    made = camera()
    seen = Observer()
    with open_live(made.url(), QUICK, observer=seen) as source:
        before = _take(source, 5)
        made.kill()
        wait_until(lambda: source.state == "connecting")
        assert seen.snapshot().state == "connecting"
        made.start()
        after = _take(source, 6)
        assert source.state == "up"
        assert source.reconnects == 1
    pts = [captured.frame.pts for captured in (*before, *after)]
    assert all(a < b for a, b in pairwise(pts))
    snapshot = seen.snapshot()
    assert snapshot.reconnects == 1
    assert snapshot.camera_frames >= 10


def test_a_stalled_camera_is_lost_after_the_read_timeout_and_back_when_it_goes_on(camera: Make) -> None:
    made = camera()
    with open_live(made.url(), QUICK) as source:
        _take(source, 5)
        made.tell("stall")
        began = time.monotonic()
        wait_until(lambda: source.state == "connecting")
        assert time.monotonic() - began < 2.5
        made.tell("go")
        _take_of(source, 2)


def test_dropped_connections_are_made_again_at_once(camera: Make) -> None:
    made = camera()
    with open_live(made.url(), QUICK) as source:
        for number in (1, 2, 3):
            _take_of(source, number)
            made.tell("drop")


@pytest.mark.parametrize(("lasted", "few"), [(1.0, True), (0.1, False)])
def test_only_a_connection_that_has_lasted_is_made_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasted: float, few: bool
) -> None:
    write_clip(tmp_path / "in.mp4", count=8)  # 0.3 s
    monkeypatch.setattr(live, "_LASTED", lasted, raising=False)
    with open_live(tmp_path / "in.mp4") as source:
        began = time.monotonic()
        while time.monotonic() - began < 3:
            source.take(0.1)
        assert (source.reconnects <= 3) == few


@pytest.mark.parametrize(
    ("size", "border"), [("128x48", (slice(10), slice(None))), ("48x64", (slice(None), slice(10)))]
)
def test_a_change_of_size_is_fitted_into_the_first_size(camera: Make, size: str, border: tuple[slice, slice]) -> None:
    made = camera()
    with open_live(made.url(), QUICK) as source:
        _take(source, 5)
        made.tell(f"size {size}")
        note = f"the picture is {size} now, fitted into 64x48"
        wait_until(lambda: note in source.notes, meanwhile=lambda: source.take(0.05))
        captured = _take(source, 3)[-1]
        assert (captured.frame.width, captured.frame.height) == (64, 48)
        assert int(captured.frame.pixels[border].max()) == 0  # black above or beside it
        assert int(captured.frame.pixels[34].max()) > 50  # below the stamp, which may be black


@pytest.mark.parametrize("jump", [-5.0, 1000.0])
def test_a_clock_that_jumps_leaves_no_gap(camera: Make, jump: float) -> None:
    made = camera()
    with open_live(made.url(), LiveOptions(newest=False)) as source:
        taken = _take(source, 30)
        made.tell(f"clock {jump}")
        taken += _take(source, 60)
        assert source.reconnects == 0
    pts = [captured.frame.pts for captured in taken]
    steps = [b - a for a, b in pairwise(pts)]
    assert min(steps) > 0
    assert max(steps) < 90000


def test_lost_packets_are_patched_up_and_counted(camera: Make) -> None:
    made = camera("--transport", "udp", "--loss", 0.05, "--size", "320x240", "--gop", 12)
    with open_live(made.url(), LiveOptions(newest=False)) as source:
        taken = _take(source, 100, within=30)
        assert source.concealed > 0
        assert source.reconnects == 0
    pts = [captured.frame.pts for captured in taken]
    assert all(a < b for a, b in pairwise(pts))


def test_each_damaged_picture_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4", count=6)
    connect = live.connect

    def damaged(address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> Connection:
        connection = connect(address, read_timeout=read_timeout, busy=busy)
        pictures = connection.pictures

        def counted() -> Iterator[Arrival]:
            for number, arrival in enumerate(pictures()):
                connection.damaged += number in (1, 3)
                yield arrival

        connection.pictures = counted  # type: ignore[method-assign]
        return connection

    monkeypatch.setattr(live, "connect", damaged)
    options = LiveOptions(newest=False, reconnect=False)
    with open_live(tmp_path / "in.mp4", options) as source, pytest.raises(StreamLostError):
        _take(source, 100)
    assert source.concealed == 2


def test_a_loss_beyond_the_limit_is_the_end(camera: Make) -> None:
    made = camera()
    options = LiveOptions(read_timeout=0.5, reconnect_limit=1.0)
    with open_live(made.url(user="admin:hunter2"), options) as source:
        _take(source, 3)
        made.kill()
        with pytest.raises(StreamLostError, match=r"lost after [12] s") as raised:
            _take(source, 1000)
        assert raised.value.exit_code == 6
        assert "hunter2" not in str(raised.value)
        assert source.state == "lost"


def test_without_reconnecting_the_first_loss_is_the_end(camera: Make) -> None:
    made = camera()
    with open_live(made.url(), LiveOptions(reconnect=False)) as source:
        _take(source, 3)
        made.tell("drop")
        with pytest.raises(StreamLostError, match="stream ended"):
            _take(source, 1000)


@pytest.mark.parametrize("count", [1, 10])
def test_the_end_comes_after_the_pictures_that_the_decoder_held(tmp_path: Path, count: int) -> None:
    write_clip(tmp_path / "in.mp4", count=count, options={"bf": "3"})
    options = LiveOptions(newest=False, reconnect=False)
    taken: list[Frame] = []
    with open_live(tmp_path / "in.mp4", options) as source, pytest.raises(StreamLostError, match="stream ended"):
        taken.extend(source)
    assert len(taken) == count


def test_a_reader_that_no_time_limit_frees_is_left_behind(camera: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = camera()
    release = threading.Event()
    connect = live.connect
    hangs = False

    def hanging(address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> Connection:
        nonlocal hangs
        if hangs:
            hangs = False
            busy(True)
            release.wait(30)  # a driver that does not come back
        return connect(address, read_timeout=read_timeout, busy=busy)

    monkeypatch.setattr(live, "connect", hanging)
    monkeypatch.setattr(live, "_GRACE", 0.2)
    try:
        with open_live(made.url(), LiveOptions(read_timeout=0.5, open_timeout=0.8)) as source:
            _take(source, 3)
            hangs = True
            made.tell("drop")
            _take_of(source, 2)
            release.set()  # it comes back after all, and keeps its hands off
            _take(source, 20)
            made.tell("drop")
            _take_of(source, 3)
    finally:
        release.set()


@pytest.mark.parametrize(
    ("options", "first", "says"),
    [
        (LiveOptions(reconnect_limit=0.2), "connects", r"is lost after 0 s without it: the stream ended"),
        (LiveOptions(), "connects", r"is lost: its reader has been stuck for 0\.15 s"),
        (LiveOptions(), "hangs", r"cannot be opened: its reader has been stuck for 0\.15 s"),
    ],
    ids=["limit", "no limit", "first"],
)
def test_readers_that_all_hang_are_no_picture_held_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: LiveOptions, first: str, says: str
) -> None:
    write_clip(tmp_path / "in.mp4", count=2)
    release, connect, attempts = threading.Event(), live.connect, 0

    def hanging(address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 1 and first == "connects":
            return connect(address, read_timeout=read_timeout, busy=busy)
        busy(True)
        release.wait(30)
        raise LostError("it came back after all")

    def watch() -> None:
        with open_live(tmp_path / "in.mp4", replace(options, read_timeout=0.1, open_timeout=0.1)) as source:
            try:
                _take(source, 1000)
            finally:
                assert source.state == "lost"

    monkeypatch.setattr(live, "connect", hanging)
    monkeypatch.setattr(live, "_GRACE", 0.05 if "stuck" in says else 30)
    monkeypatch.setattr(live, "_STUCK_AT_MOST", 1)
    monkeypatch.setattr(live, "_PATIENCE", 0.0)
    try:
        with pytest.raises(StreamLostError if first == "connects" else InputError, match=says):
            watch()
    finally:
        release.set()


def test_reconnecting_leaves_no_descriptors_behind(camera: Make) -> None:
    made = camera()
    with open_live(made.url(), QUICK) as source:
        _take(source, 3)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            made.tell("drop")
            wait_until(lambda: source.reconnects > number, meanwhile=lambda: source.take(0.05))  # noqa: B023
        _take(source, 3)
        assert len(os.listdir("/proc/self/fd")) <= before


def test_a_slow_consumer_gets_the_newest_and_is_told_what_it_missed(camera: Make) -> None:
    made = camera()
    with open_live(made.url()) as source:
        ages = []
        for _ in range(8):
            time.sleep(0.25)
            ages.append(_age(_take(source, 1)[0].frame))
        assert source.skipped >= 8 * 3
        assert source.camera_frames >= source.skipped + 8
    assert statistics.median(ages) < 0.25  # of a queue all would be old; one may be, where the machine is busy
