"""Publishing to GStreamer's RTSP server, a target that nobody here wrote; skipped where it is not installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from streamderain.errors import OutputError
from streamderain.video import open_sink
from tests.waiting import wait_until

from .gstreamer import GStreamer
from .test_publish import LIVE, grey

pytestmark = pytest.mark.timeout(120)


class Recorder(GStreamer):
    """What it took is in ``file``."""

    def __init__(self, file: Path) -> None:
        super().__init__("recorder", str(file))
        self.file = file

    def means(self) -> list[float]:
        """The brightness of every picture that it took."""
        if not self.file.exists() or not self.file.stat().st_size:
            return []
        with av.open(str(self.file), format="h264") as container:
            return [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    one = Recorder(tmp_path / "taken.h264")
    one.start()
    yield one
    one.stop()


def test_what_is_published_arrives(recorder: Recorder) -> None:
    with open_sink(recorder.url(), LIVE) as sink:
        for index in range(30):
            sink.write(grey(index))
            time.sleep(0.02)
    wait_until(lambda: len(recorder.means()) >= 28)
    assert recorder.means()[:28] == pytest.approx([index * 5 for index in range(28)], abs=3)


@pytest.mark.parametrize("user", ["admin:wrong", "nobody:secret"])
def test_a_wrong_password_is_said_and_never_shown(recorder: Recorder, user: str) -> None:
    with pytest.raises(OutputError, match=r"Unauthorized|401") as caught:
        open_sink(recorder.url(user), LIVE)
    assert user.partition(":")[2] not in str(caught.value)


def test_no_such_place(recorder: Recorder) -> None:
    with pytest.raises(OutputError, match=r"404|Not Found|not found"):
        open_sink(recorder.url(path="/other"), LIVE)


def test_a_server_that_is_killed_gets_the_stream_again(recorder: Recorder) -> None:
    index = 0
    with open_sink(recorder.url(), LIVE, options={"g": "1000", "sc_threshold": "0"}) as sink:
        for _ in range(3):
            before = len(recorder.means())
            recorder.stop()
            recorder.start()
            until = time.monotonic() + 30
            while len(recorder.means()) < before + 5:
                for _ in range(10):
                    sink.write(grey(index % 50, at=index))
                    index += 1
                    time.sleep(0.02)
                assert time.monotonic() < until, "it did not come back"
        assert sink.reconnects == 3  # type: ignore[attr-defined]
