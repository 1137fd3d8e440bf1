"""Cameras that share an engine: what one of them goes through, the others do not see, nor wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.observe import AGE_BOUNDS, Observer
from streamderain.turns import FifoLock, SharedDerainer
from streamderain.video.live import LiveOptions, open_live
from tests.live.cameras import Collect, FakeCamera
from tests.live.conftest import Running
from tests.live.fake_camera import now_ms, read_stamp
from tests.waiting import wait_until

Make = Callable[..., FakeCamera]
Start = Callable[..., Running]
QUICK = LiveOptions(read_timeout=0.5, open_timeout=2.0)
DEADLINE = 0.2  # seconds: far more than a step takes


def _age(frame: Frame) -> float:
    return (now_ms() - read_stamp(frame.pixels.numpy())) / 1000


def test_a_camera_that_stalls_returns_and_ends_is_nothing_to_the_other(camera: Make, running: Start) -> None:
    derainer = SharedDerainer(Derainer("identity", device="cpu"), FifoLock(), streams=2, deadline=DEADLINE)
    cameras, sinks = (camera(), camera()), (Collect(_age), Collect(_age))
    observers = Observer("one"), Observer("other")
    runs = [
        running(open_live(made.url(), QUICK, observer=observer), sink, derainer, observer=observer)
        for made, sink, observer in zip(cameras, sinks, observers, strict=True)
    ]
    for sink in sinks:
        sink.wait_more(15)
    (batcher,) = derainer._batchers.values()
    assert batcher.counts[2] > batcher.counts.get(1, 0)

    cameras[0].tell("stall")
    wait_until(lambda: runs[0].source.state == "connecting")
    sinks[1].wait_more(5)
    stalled = len(sinks[1].seen)
    time.sleep(1.5)  # the stalled one is not waited for any longer
    settled = len(sinks[1].seen)
    sinks[1].wait_more(20)
    assert median(sinks[1].seen[settled:]) < DEADLINE
    assert settled - stalled > 10  # and the other went on all the while

    cameras[0].tell("go")
    wait_until(lambda: runs[0].source.reconnects > 0)
    sinks[0].wait_more(5)
    stats = runs[0].finish()
    assert stats.resets == 1
    sinks[1].wait_more(10)
    other = runs[1].finish()
    assert (other.resets, other.reconnects) == (0, 0)
    assert sinks[0].grows
    assert sinks[1].grows


def test_the_age_of_a_frame_has_the_wait_for_others_in_it(camera: Make, running: Start) -> None:
    derainer = SharedDerainer(Derainer("identity", device="cpu"), FifoLock(), streams=2, deadline=DEADLINE)
    made, sink, observer = camera(), Collect(_age), Observer("camera")
    source = open_live(made.url(), QUICK, observer=observer)
    height, width = source.info.height, source.info.width
    derainer.session(height, width)  # of a stream that has begun just now, and gives no frame
    run = running(source, sink, derainer, observer=observer)
    sink.wait_more(3)
    snapshot = observer.snapshot()
    run.finish()
    assert sink.seen[0] >= DEADLINE
    late = [count for bound, count in zip((0.0, *AGE_BOUNDS), snapshot.age_counts, strict=True) if bound >= DEADLINE]
    assert sum(late) >= 1
