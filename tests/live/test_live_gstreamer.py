"""Live inputs from GStreamer's RTSP server, a camera that nobody here wrote; skipped where it is not installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from streamderain.errors import InputError
from streamderain.video.live import LiveOptions, open_live
from tests.live.cameras import Collect
from tests.live.conftest import Running
from tests.live.gstreamer import GStreamer


@pytest.fixture
def peer() -> Iterator[GStreamer]:
    server = GStreamer("camera")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("transport", ["auto", "tcp", "udp"])
def test_its_pictures_come_steadily_with_digest_authentication(peer: GStreamer, transport: str) -> None:
    with open_live(peer.url(), LiveOptions(newest=False, transport=transport)) as source:  # type: ignore[arg-type]
        assert (source.info.width, source.info.height, source.info.frame_rate) == (160, 120, 25)
        pts = []
        end = time.monotonic() + 20
        while len(pts) < 30 and time.monotonic() < end:
            captured = source.take(0.1)
            if captured is not None:
                pts.append(captured.frame.pts)
    assert len(pts) == 30
    assert {round((b - a) / 90) for a, b in pairwise(pts[2:])} <= {39, 40, 41}


def test_its_refusals_are_understood(peer: GStreamer) -> None:
    with pytest.raises(InputError, match="401"):
        open_live(peer.url(user="admin:letmein"))
    with pytest.raises(InputError, match="404"):
        open_live(peer.url(path="/nowhere"))


def test_it_is_come_back_to_when_it_is_killed_and_started_again(
    peer: GStreamer, running: Callable[..., Running]
) -> None:
    sink = Collect()
    run = running(open_live(peer.url(), LiveOptions(read_timeout=1)), sink)
    sink.wait_more(5)
    for number in (1, 2):
        peer.stop()
        peer.start()
        began = time.monotonic()
        while run.source.reconnects < number:
            assert time.monotonic() - began < 20
            time.sleep(0.01)
        sink.wait_more(5)
    stats = run.finish()
    assert stats.reconnects == stats.resets == 2
    assert sink.closed
    assert sink.grows
