"""Live runs: an output that stays open over everything that a camera does, and never falls behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from streamderain.errors import EngineError
from streamderain.frame import Frame, VideoInfo
from streamderain.live import run_live
from streamderain.observe import Observer
from streamderain.session import Session
from streamderain.video import open_sink
from streamderain.video.live import LiveOptions, open_live
from streamderain.video.live_frames import Captured
from tests.live.cameras import Collect, FakeCamera, Stub, is_slate
from tests.live.conftest import Running
from tests.live.fake_camera import now_ms, read_stamp
from tests.video.clips import times, write_clip
from tests.waiting import wait_until

Make = Callable[..., FakeCamera]
Start = Callable[..., Running]
QUICK = LiveOptions(read_timeout=0.5, open_timeout=2.0)


def _age(frame: Frame) -> float:
    return (now_ms() - read_stamp(frame.pixels.numpy())) / 1000


def test_every_restart_and_stall_is_recovered_from_within_two_seconds(camera: Make, running: Start) -> None:
    made, sink, stub = camera(), Collect(), Stub()
    run = running(open_live(made.url(), QUICK), sink, stub)
    sink.wait_more(5)
    recoveries = []
    for round_ in range(6):
        kind = ("kill", "stall", "kill", "stall", "kill", "drop")[round_]
        if kind == "kill":
            made.kill()
            time.sleep(0.3 * round_)
            made.start()
        elif kind == "stall":
            made.tell("stall")
            wait_until(lambda: run.source.state == "connecting")
            made.tell("go")
        else:
            made.tell("drop")
        back, reconnects = time.monotonic(), round_
        wait_until(lambda: run.source.reconnects > reconnects)  # noqa: B023
        recoveries.append(time.monotonic() - back)
        sink.wait_more(3)
    stats = run.finish()
    assert max(recoveries) < 2.0, recoveries
    assert stats.reconnects == stats.resets == stub.resets == 6
    assert sink.closed
    assert not sink.aborted
    assert sink.grows
    assert stats.interrupted


def test_reconnecting_leaves_no_threads_behind(camera: Make, running: Start) -> None:
    made, sink = camera(), Collect()
    run = running(open_live(made.url(), QUICK), sink)
    sink.wait_more(3)
    before = {thread.name for thread in threading.enumerate()}
    count = threading.active_count()
    for number in range(4):
        made.tell("drop")
        wait_until(lambda: run.source.reconnects > number)  # noqa: B023
    sink.wait_more(3)
    assert threading.active_count() == count, {thread.name for thread in threading.enumerate()} - before
    run.finish()


@pytest.mark.parametrize("on_loss", ["hold", "slate", "pause"])
def test_what_is_written_while_the_camera_is_away(camera: Make, running: Start, on_loss: str) -> None:
    made = camera()
    sink = Collect(lambda frame: (is_slate(frame), read_stamp(frame.pixels.numpy())))
    run = running(open_live(made.url(), QUICK), sink, on_loss=on_loss)
    sink.wait_more(5)
    made.kill()
    wait_until(lambda: run.source.state == "connecting")
    seen = len(sink.pts)
    time.sleep(3.0)
    away = sink.seen[seen + 1 :]
    made.start()
    wait_until(lambda: run.source.reconnects == 1)
    sink.wait_more(5)
    stats = run.finish()
    assert sink.grows
    if on_loss == "pause":
        assert stats.held == 0
        assert len(away) <= 1
    else:
        assert 6 <= stats.held <= 40
        assert all(slate == (on_loss == "slate") for slate, _ in away[1:])
        if on_loss == "hold":
            assert len({number for _, number in away}) == 1
        # Held pictures have the time of the moment: the output's time goes with the clock on the wall.
        drift = (sink.pts[-1] - sink.pts[0]) / 90000 - (sink.at[-1] - sink.at[0])
        assert abs(drift) < 0.5


def test_stopping_at_the_first_loss_finishes_the_output(camera: Make, running: Start) -> None:
    made, sink = camera(), Collect()
    run = running(open_live(made.url(), QUICK), sink, on_loss="stop")
    sink.wait_more(5)
    made.kill()
    stats = run.ended(within=10)
    assert stats.lost is not None
    assert stats.lost.exit_code == 6
    assert sink.closed
    assert not stats.interrupted


def test_stopping_at_a_loss_that_is_over_at_once(tmp_path: Path, running: Start) -> None:
    write_clip(tmp_path / "in.mp4", count=30)  # 1.2 s, and it plays again without a wait
    sink = Collect()
    stats = running(open_live(tmp_path / "in.mp4"), sink, on_loss="stop", duration=3.0).ended(within=10)
    assert stats.lost is not None
    assert stats.frames <= 30
    assert sink.closed


def test_a_network_twice_too_slow_stays_with_the_newest_frame(camera: Make, running: Start) -> None:
    cost, fps = 0.1, 20
    made, sink, seen = camera("--fps", fps), Collect(_age), Observer()
    run = running(open_live(made.url()), sink, Stub(cost), observer=seen)
    sink.wait_more(40, within=30)
    stats = run.finish()
    ages = sorted(sink.seen[5:])
    # Two frames and one processing, and a busy machine's share; after 40 frames a queue would be 2 s behind.
    assert ages[len(ages) // 2] < 2 / fps + cost + 0.1, ages
    assert ages[-1] < 2 / fps + cost + 0.6, ages
    assert stats.skipped >= 30
    assert stats.camera_frames - stats.skipped - stats.frames <= 2
    snapshot = seen.snapshot()
    assert snapshot.skipped == pytest.approx(stats.skipped, abs=3)
    assert sum(snapshot.age_counts) == stats.frames
    assert stats.age_median == pytest.approx(ages[len(ages) // 2], abs=0.06)
    assert stats.resets == 0  # the network's past is not thrown away for a frame that was skipped


def test_an_adaptive_run_takes_the_cheaper_network_and_skips_no_more(camera: Make, running: Start) -> None:
    made, sink, seen = camera("--fps", 20), Collect(), Observer()
    cheap = Stub()
    run = running(open_live(made.url()), sink, Stub(0.1), cheaper=[cheap], observer=seen)
    wait_until(lambda: cheap.steps > 0)
    assert seen.snapshot().about["model"] == cheap.description
    before = run.source.skipped
    sink.wait_more(20)
    assert run.source.skipped - before <= 3
    assert run.finish().skipped > 10


def test_where_all_frames_are_wanted_none_is_skipped(camera: Make, running: Start) -> None:
    made, sink = camera("--fps", 20), Collect()
    run = running(open_live(made.url(), LiveOptions(newest=False)), sink, Stub(0.1))
    sink.wait_more(30, within=30)
    stats = run.finish()
    assert stats.skipped == 0
    steps = [b - a for a, b in pairwise(sink.pts[2:])]  # the camera's own count, however late it is
    assert max(steps) < 1.5 * 90000 / 20, steps


def test_the_network_forgets_over_a_gap(camera: Make, running: Start) -> None:
    made, sink, stub = camera(), Collect(), Stub()
    run = running(open_live(made.url(), LiveOptions(read_timeout=5)), sink, stub, on_loss="pause")
    sink.wait_more(10)
    made.tell("stall")
    time.sleep(1.5)
    made.tell("go")
    sink.wait_more(10)
    stats = run.finish()
    assert stats.reconnects == 0
    assert stub.resets == stats.resets == 1


def test_frames_that_are_too_old_are_skipped(camera: Make, running: Start) -> None:
    made, sink = camera("--fps", 20), Collect()
    source = open_live(made.url(), LiveOptions(newest=False))
    time.sleep(3.0)  # the camera goes on; its pictures wait in queues and sockets
    run = running(source, sink, Stub(), max_age=0.5)
    sink.wait_more(20)
    stats = run.finish()
    assert stats.skipped >= 20


def test_a_run_ends_after_the_frames_or_the_time_asked_for(camera: Make, running: Start) -> None:
    made = camera()
    first, second = Collect(), Collect()
    assert running(open_live(made.url()), first, frames=7).ended(within=10).frames == len(first.pts) == 7
    assert first.closed
    stats = running(open_live(made.url()), second, duration=1.0).ended(within=10)
    assert 10 <= stats.frames <= 30
    assert (second.pts[-1] - second.pts[0]) / 90000 < 1.2


class Punctual:
    """A source whose picture number n is taken at ``late`` + n / 25 s of the camera's time."""

    info = VideoInfo(width=16, height=16, time_base=Fraction(1, 90000), live=True)
    interval, name, state = 0.04, "cam", "open"
    camera_frames = skipped = reconnects = concealed = 0

    def __init__(self, late: float) -> None:
        self._pts = round(late * 90000)

    def take(self, within: float) -> Captured:
        self._pts += 3600
        frame = Frame(torch.zeros(16, 16, 3, dtype=torch.uint8), self._pts, self.info.time_base)
        return Captured(frame, time.monotonic(), time.monotonic(), 0)

    def elapsed(self) -> int:
        return self._pts

    def close(self) -> None: ...

    def __enter__(self) -> Punctual:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("late", [0.0, 5.0])
def test_the_time_asked_for_begins_with_the_first_frame_written(late: float) -> None:
    """However long the network takes to get ready: the camera's time has begun long before."""
    sink = Collect()
    run_live(Punctual(late), sink, Stub(), duration=1.0)
    assert sink.pts[0] == 0
    assert sink.pts[-1] / 90000 == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    "wrong", [{"frames": "5"}, {"frames": 0}, {"duration": float("nan")}, {"max_age": 0.0}, {"depth": 1.5}]
)
def test_an_argument_that_means_nothing_is_refused_before_anything_is_touched(wrong: dict[str, Any]) -> None:
    sink = Collect()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        run_live(Punctual(0.0), sink, Stub(), **wrong)
    assert not sink.closed
    assert not sink.aborted


class Waiting(Punctual):
    """Eight frames by a clock that is three seconds slow, then frames that have waited for a second, or none."""

    def __init__(self, *, comes: bool) -> None:
        super().__init__(0.0)
        self._comes, self._taken = comes, 0

    def take(self, within: float) -> Captured | None:  # type: ignore[override]
        self._taken += 1
        captured = super().take(within)
        now = time.monotonic()
        if self._taken <= 8:
            return captured._replace(at=now - 3.0, due=now)
        time.sleep(0.02)
        return captured._replace(at=now - 4.0, due=now - 1.0) if self._comes else None

    def lost_for(self) -> float:
        return 0.0


@pytest.mark.parametrize("comes", [True, False])
def test_frames_that_wait_too_long_are_no_live_picture(comes: bool) -> None:
    sink, observer = Collect(lambda frame: int(frame.pixels[0, 0, 0]) == 24), Observer()
    stats = run_live(
        Waiting(comes=comes), sink, Stub(paint=lambda pixels, step: pixels + 200), max_age=0.5, on_loss="slate",
        frames=12, observer=observer,
    )  # fmt: skip
    assert (stats.frames, stats.held) == (12, 4)
    assert sink.seen == [False] * 8 + [comes] * 4
    assert observer.snapshot().held_frames == 4
    assert (stats.skipped > 0) == comes


def test_pictures_that_stand_in_go_through_the_view_each_by_itself() -> None:
    shown: list[tuple[int, int]] = []

    def view(rainy: Frame, clean: Frame) -> Frame:
        shown.append((int(rainy.pixels.max()), int(clean.pixels.max())))
        return Frame(clean.pixels + len(shown), clean.pts, clean.time_base)

    sink = Collect(lambda frame: int(frame.pixels.max()))
    stub = Stub(paint=lambda pixels, step: pixels + 100)
    run_live(Waiting(comes=False), sink, stub, view=view, frames=11)
    assert shown == [(0, 100)] * 11
    assert sink.seen == list(range(101, 112))
    run_live(Waiting(comes=True), sink, stub, view=view, frames=11, max_age=0.5, on_loss="slate")
    assert shown[19:] == [(24, 24)] * 3


def test_a_source_that_is_closed_ends_the_run(camera: Make, running: Start) -> None:
    source = open_live(camera().url(), QUICK)
    sink = Collect()
    run = running(source, sink)
    sink.wait_more(3)
    source.close()
    with pytest.raises(ValueError, match="is closed"):
        run.ended(within=5)
    assert sink.aborted
    with pytest.raises(ValueError, match="is closed"):
        run_live(source, Collect(), Stub())


def test_the_network_remembers_the_last_frame_of_a_slow_camera() -> None:
    class Slow(Punctual):
        interval = 1.0

        def take(self, within: float) -> Captured:
            self._pts += 90000 - 3600
            return super().take(within)

    assert run_live(Slow(0.0), Collect(), Stub(), frames=5).resets == 0


class Aged(Punctual):
    """A source whose pictures are so many seconds old when they come."""

    def __init__(self, ages: Iterable[float]) -> None:
        super().__init__(0.0)
        self._ages = iter(ages)

    def take(self, within: float) -> Captured:
        taken = time.monotonic() - next(self._ages)
        return super().take(within)._replace(at=taken, due=taken)


def test_ages_are_of_the_last_frames_and_the_worst_of_99_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamderain.live._REMEMBERED", 100)
    ages = [900.0] * 50 + [100.0] * 98 + [300.0, 600.0]
    stats = run_live(Aged(ages), Collect(), Stub(), frames=len(ages))
    assert stats.age_median == pytest.approx(100, abs=50)
    assert stats.age_worst == pytest.approx(600, abs=50)


def test_frames_that_were_too_old_are_told_to_who_watches() -> None:
    seen = Observer()
    stats = run_live(Aged([9.0, 0.0, 9.0, 9.0, 0.0]), Collect(), Stub(), max_age=5.0, frames=2, observer=seen)
    assert (stats.frames, stats.skipped, seen.snapshot().skipped, seen.snapshot().processed_frames) == (2, 3, 3, 2)


def test_pictures_that_crowd_have_times_of_their_own_in_a_container_of_milliseconds(tmp_path: Path) -> None:
    class Crowded(Punctual):
        def take(self, within: float) -> Captured:
            self._pts += 10 - 3600
            return super().take(within)

    source = Crowded(0.0)
    run_live(source, open_sink(str(tmp_path / "out.mkv"), source.info), Stub(), frames=20)
    assert len(set(times(tmp_path / "out.mkv"))) == 20


def test_stopping_before_a_frame_leaves_no_file(camera: Make, running: Start) -> None:
    made, sink = camera(), Collect()
    source = open_live(made.url())
    stop = threading.Event()
    stop.set()
    run = running(source, sink, frames=None)
    run.stop.set()
    run.finish()
    assert sink.aborted or sink.pts


def test_a_failing_sink_is_told_of_while_the_camera_is_silent(camera: Make, running: Start) -> None:
    made = camera()

    class Broken(Collect):
        def write(self, frame: Frame) -> None:
            super().write(frame)
            if len(self.pts) == 3:
                made.tell("stall")
                raise OSError("disk full")

    sink = Broken()
    run = running(open_live(made.url()), sink, on_loss="pause")
    with pytest.raises(OSError, match="disk full"):
        run.ended(within=10)
    assert sink.aborted


def test_both_ends_are_finished_without_a_session_and_untouched_by_a_wrong_argument(tmp_path: Path) -> None:
    class Nothing(Stub):
        def session(self, height: int, width: int) -> Session:
            raise EngineError("there is no engine yet")

    write_clip(tmp_path / "camera.mp4")
    source, sink = open_live(str(tmp_path / "camera.mp4")), Collect()
    for wrong in ({"depth": 0}, {"max_age": 0.0}, {"on_loss": "weep"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            run_live(source, sink, Nothing(), **wrong)
    for ends in (("rtsp://camera", sink, Nothing()), (source, "out.mp4", Nothing()), (source, sink, "fast")):
        with pytest.raises(TypeError, match=r"open_live.*camera|open_sink.*out\.mp4|Derainer.*fast"):
            run_live(*ends)
    assert source.wait_first(5)  # it goes on reading
    assert not sink.aborted
    with pytest.raises(EngineError, match="no engine yet"):
        run_live(source, sink, Nothing(), on_loss="pause")
    assert sink.aborted
    assert not [one.name for one in threading.enumerate() if one.name.startswith("streamderain-")]
