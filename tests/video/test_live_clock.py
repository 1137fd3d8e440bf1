"""Times of live streams by themselves: output clocks, capture times, waits between attempts, letterboxes, addresses."""

from __future__ import annotations

import math
import random
import threading
import time
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch

from streamderain.observe import Observer
from streamderain.video import pace
from streamderain.video.address import address
from streamderain.video.clock import CaptureClock, OutputClock
from streamderain.video.letterbox import Letterbox
from streamderain.video.live import LiveOptions
from streamderain.video.live_frames import LiveFrames
from streamderain.video.reconnect import Backoff

BASE = Fraction(1, 90000)


def test_intervals_within_a_connection_are_the_cameras_own_whatever_the_network_does() -> None:
    clock, chance = OutputClock(3600), random.Random(1)
    out = [clock.stamp(i * 3600, BASE, 10 + i / 25 + chance.uniform(0, 0.2)) for i in range(100)]
    assert {b - a for a, b in pairwise(out)} == {3600}


def test_pictures_that_waited_for_us_keep_the_cameras_intervals_however_late_they_are() -> None:
    clock = OutputClock(3600, waits=True)
    out = [clock.stamp(i * 3600, BASE, 10 + i / 5) for i in range(300)]
    assert {b - a for a, b in pairwise(out)} == {3600}
    for number, seconds in enumerate((100, -50)):  # that the camera's clock is set to and fro
        moved = (300 + number + 25 * seconds) * 3600
        out.append(clock.stamp(moved, BASE, 10 + (300 + number) / 5))
    assert out[-1] - out[-2] == out[-2] - out[-3] == 3600


def test_another_time_base_is_converted_exactly() -> None:
    clock = OutputClock(3000)
    out = [clock.stamp(i, Fraction(1, 30), 5 + i / 30) for i in range(60)]
    assert {b - a for a, b in pairwise(out)} == {3000}


@pytest.mark.parametrize("jump", [-1e6, -3.0, 3.0, 1e6])
def test_a_camera_clock_that_jumps_does_not_move_the_output(jump: float) -> None:
    clock = OutputClock(3600)
    out = []
    for i in range(200):
        moved = jump if i >= 100 else 0.0
        out.append(clock.stamp(round((i / 25 + moved) * 90000), BASE, i / 25))
    assert all(a < b for a, b in pairwise(out))
    assert abs(out[-1] / 90000 - 199 / 25) < 5.5
    assert max(b - a for a, b in pairwise(out)) < 90000


def test_a_camera_clock_that_drifts_is_followed() -> None:
    clock = OutputClock(3600)
    out = [clock.stamp(round(i * 3600 * 1.002), BASE, i / 25) for i in range(25 * 600)]
    assert abs(out[-1] / 90000 - (len(out) - 1) / 25) < 0.5
    assert all(a < b for a, b in pairwise(out))


def test_times_grow_over_connections_pictures_without_time_and_bursts() -> None:
    clock, chance, out, at = OutputClock(3600), random.Random(2), [], 0.0
    for _ in range(50):
        clock.restart()
        start = chance.randrange(1 << 32)
        for i in range(chance.randrange(1, 20)):
            at += chance.choice([0.0, 0.0001, 0.04, 2.0])
            out.append(clock.stamp(None if i == 0 else start + i * 3600, BASE, at))
    assert all(a < b for a, b in pairwise(out))
    assert abs(out[-1] / 90000 - at) < 40  # bursts may run ahead; nothing runs away


def test_pictures_that_come_with_one_time_are_a_millisecond_apart() -> None:
    clock = OutputClock(3600)
    out = [clock.stamp(pts, BASE, 10 + i / 25) for i, pts in enumerate([0, 3600, 3600, 3601, 3599, 7200])]
    assert out == [0, 3600, 3690, 3780, 3870, 7200]


def test_a_picture_that_comes_at_once_from_the_next_connection_lies_a_step_after_the_last() -> None:
    clock = OutputClock(3600)
    before = [clock.stamp(i * 3600, BASE, 10 + i / 25) for i in range(3)]
    clock.restart()
    assert clock.stamp(77, BASE, 10 + 2 / 25) == before[-1] + 3600


def test_the_capture_time_is_the_cameras_report_where_it_makes_sense() -> None:
    clock = CaptureClock()
    now = time.monotonic()
    assert clock.captured(0, BASE, now, time.time() - 0.3) == pytest.approx(now - 0.3, abs=0.05)
    for nonsense in (time.time() + 60, time.time() - 3600, 0.0):
        assert clock.captured(None, BASE, now, nonsense) == now


def test_without_a_report_waiting_somewhere_is_seen_against_the_least_delay() -> None:
    clock = CaptureClock()
    for i in range(50):
        assert clock.captured(i * 3600, BASE, 100 + i / 25, None) == pytest.approx(100 + i / 25, abs=0.01)
    # The network stops for two seconds, and then brings everything at once.
    late = [104.0 - clock.captured(i * 3600, BASE, 104.0, None) for i in range(50, 100)]
    assert late[0] == pytest.approx(2.0, abs=0.05)
    assert late[-1] == pytest.approx(0.04, abs=0.05)
    # Its clock is set back: old is not what it looks like then.
    assert clock.captured(0, BASE, 104.1, None) == pytest.approx(104.1)


def test_a_report_that_makes_no_sense_gives_no_age_that_its_neighbours_do_not_have() -> None:
    """Stamps of 25 pictures a second, half of which come: only the reports know how old one is."""
    clock = CaptureClock()
    past, now = time.time() - 60, time.monotonic() - 60
    for i in range(750):
        delay = -0.001 if i == 700 else 0.02
        at, sent = now + i * 0.08, past + i * 0.08 - delay
        age = at - clock.captured(i * 3600, BASE, at, sent if i else None)
        assert age == pytest.approx(0.02, abs=0.1)


def test_a_camera_whose_second_is_too_long_has_no_old_pictures() -> None:
    clock = CaptureClock()
    for second in range(3600):
        at = 100 + second * (1 + 50e-6)
        assert clock.captured(second * 90000, BASE, at, None) == pytest.approx(at, abs=0.01)


@pytest.mark.parametrize("behind", [0.0, 0.5, 3.0, 60.0])
def test_what_has_waited_is_told_whatever_the_cameras_clock_says(behind: float) -> None:
    clock = CaptureClock()
    past, now = time.time() - 60, time.monotonic() - 60
    for i in range(100):
        at = now + i * 0.04
        clock.captured(i * 3600, BASE, at, past + i * 0.04 - 0.02 - behind if i else None)
        assert clock.due == pytest.approx(at, abs=0.05)
    for i in range(100, 150):  # the network stops for two seconds, and then brings everything at once
        clock.captured(i * 3600, BASE, now + 6.0, past + i * 0.04 - 0.02 - behind)
        assert clock.due == pytest.approx(now + i * 0.04, abs=0.05)
    for i in range(150, 200):  # and the camera's clock is set
        clock.captured(i * 3600, BASE, now + i * 0.04, past + i * 0.04 - 2.0 - behind)
        assert clock.due == pytest.approx(now + i * 0.04, abs=0.05)


def test_what_has_waited_is_told_where_a_cameras_times_are_too_slow() -> None:
    """Stamps of 25 pictures a second, half of which come."""
    clock = CaptureClock()
    past, now = time.time() - 120, time.monotonic() - 120
    for i in range(750):
        clock.captured(i * 3600, BASE, now + i * 0.08, past + i * 0.08 - 0.02 if i else None)
        assert clock.due == pytest.approx(now + i * 0.08, abs=0.1)


def test_a_file_that_stands_in_for_a_camera_begins_at_once_wherever_its_times_begin() -> None:
    stop = MagicMock()
    paced = pace.Pace(stop, late=math.inf)
    for seconds in (3600.0, 3599.0, 3600.5):  # one picture far too late moves none of those after it
        paced.await_moment(seconds)
    assert [call.args[0] for call in stop.wait.call_args_list] == pytest.approx([0.0, 0.0, 0.5], abs=0.2)


def test_a_recording_that_falls_far_behind_goes_on_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, now = MagicMock(), 100.0
    monkeypatch.setattr("streamderain.video.pace.time", SimpleNamespace(monotonic=lambda: now))
    paced, waits = pace.Pace(stop), []
    for seconds, late in ((7.0, 0.0), (7.5, 0.2), (8.0, 3.0), (8.5, 3.0)):  # an encoder that hangs once
        now = 100.0 + (seconds - 7.0) + late
        paced.await_moment(seconds)
        waits.append(stop.wait.call_args.args[0])
    assert waits == pytest.approx([0.0, 0.0, 0.0, 0.0])
    paced.await_moment(9.0)
    assert stop.wait.call_args.args[0] == pytest.approx(0.5)


def test_a_gap_of_segments_that_are_gone_is_not_waited_for() -> None:
    stop = MagicMock()
    paced = pace.Pace(stop, gap=1.0)
    for seconds in (10.0, 10.5, 16.0, 16.5):
        paced.await_moment(seconds)
    assert [call.args[0] for call in stop.wait.call_args_list] == pytest.approx([0.0, 0.5, 0.0, 0.5], abs=0.1)


def test_the_camera_s_interval_is_followed_and_one_hiccup_is_no_rate() -> None:
    seen = Observer()
    frames = LiveFrames("cam", newest=True, closing=threading.Event(), observer=seen)
    for number in range(200):
        frames._count(10 + number * 0.2)
    assert frames.interval == pytest.approx(0.2, rel=0.01)
    frames._count(10 + 199 * 0.2 + 30)
    assert frames.interval < 0.25
    assert frames.camera_frames == seen.snapshot().camera_frames == 201


def test_waits_are_short_in_the_first_minute_then_grow_to_ten_seconds_and_begin_anew() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    waits = [backoff.next() for _ in range(100)]
    assert waits[:5] == [0.0, 0.5, 0.75, 1.0, 1.0]
    assert all(a <= b for a, b in pairwise(waits))
    assert waits[-1] == 10.0
    gone = 0.0
    for wait in waits:
        assert wait <= 1.0 or gone >= 60
        gone += wait
    backoff.reset()
    assert [backoff.next() for _ in range(5)] == [0.0, 0.5, 0.75, 1.0, 1.0]
    shaken = Backoff(chance=lambda: 1.0)
    shaken.next()
    assert shaken.next() == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("size", "inner"), [((96, 48), (0, 8, 64, 32)), ((48, 48), (8, 0, 48, 48)), ((640, 480), (0, 0, 64, 48))]
)
def test_a_letterbox_shows_the_whole_picture_in_its_proportions(
    size: tuple[int, int], inner: tuple[int, int, int, int]
) -> None:
    width, height = size
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 200 // width + 30, y * 200 // height + 30, (x + y) % 7 + 100], axis=2).astype(np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.5)
    fitted = Letterbox(64, 48).fit(torch.from_numpy(picture)).numpy()
    left, top, wide, high = inner
    assert fitted.shape == (48, 64, 3)
    oracle = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
    inside = fitted[top : top + high, left : left + wide]
    assert np.abs(inside.astype(int) - oracle).mean() < 3
    outside = fitted.copy()
    outside[top : top + high, left : left + wide] = 0
    assert not outside.any()


def test_a_picture_of_the_right_size_is_left_alone_and_depth_is_kept() -> None:
    box = Letterbox(64, 48)
    same = torch.zeros(48, 64, 3, dtype=torch.uint8)
    assert box.fit(same) is same
    deep = box.fit(torch.full((24, 32, 3), 40000, dtype=torch.int32).to(torch.uint16))
    assert deep.dtype == torch.uint16
    assert abs(int(deep[24, 32, 0]) - 40000) < 64


def test_addresses_name_no_credentials_and_ask_for_what_they_mean() -> None:
    made = address("rtsp://admin:hunter2@camera:554/x")
    assert made.name == "rtsp://camera:554/x"
    assert "hunter2" in made.url
    assert made.options["rtsp_flags"] == "prefer_tcp"
    assert "fflags" not in made.options  # "nobuffer" would throw the first keyframe away
    assert address("rtsp://camera/x", transport="udp").options["rtsp_transport"] == "udp"
    assert address("rtsp://0.0.0.0:8554/x?a=b&listen=1").url == "rtsp://0.0.0.0:8554/x?a=b"
    assert address("rtsp://0.0.0.0:8554/x?listen=1").listens
    assert not address("rtsp://0.0.0.0:8554/x?listen=10").listens
    assert address("0").url == "/dev/video0"
    with pytest.raises(ValueError, match="'http'"):
        address("rtsp://camera/x", transport="http")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["read_timeout", "open_timeout", "reconnect_limit", "wait"])
def test_options_that_mean_nothing_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}.*-1"):
        LiveOptions(**{field: -1.0})
