"""From a camera that goes away to somebody who watches: their connection outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from streamderain.live import run_live
from streamderain.video import open_sink
from streamderain.video.live import LiveOptions, open_live
from tests.live.cameras import FakeCamera, Stub
from tests.live.test_publish import await_listener, free_port


@pytest.mark.parametrize("scheme", ["tcp", "rtsp"])
def test_who_watches_the_output_does_not_notice_that_the_camera_was_away(
    camera: Callable[..., FakeCamera], scheme: str
) -> None:
    made, port, stop = camera(), free_port(), threading.Event()
    theirs = f"tcp://127.0.0.1:{port}?listen=1" if scheme == "tcp" else f"rtsp://127.0.0.1:{port}/clear"
    options = {} if scheme == "tcp" else {"rtsp_flags": "listen", "listen_timeout": "20"}
    ours = f"tcp://127.0.0.1:{port}" if scheme == "tcp" else f"rtsp://127.0.0.1:{port}/clear"
    command = [sys.executable, str(Path(__file__).parent / "viewer.py"), theirs, json.dumps(options)]
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        await_listener(port)
        source = open_live(made.url(), LiveOptions(read_timeout=0.5))
        sink = open_sink(ours, source.info)

        def trouble() -> None:
            time.sleep(2.0)
            made.kill()
            time.sleep(2.5)
            made.start()
            while source.reconnects == 0:
                time.sleep(0.01)
            time.sleep(2.0)
            stop.set()

        worker = threading.Thread(target=trouble)
        worker.start()
        stats = run_live(source, sink, Stub(), stop=stop)
        worker.join()
        assert viewer.stdout is not None
        seen = [json.loads(line) for line in viewer.stdout]
    finally:
        viewer.kill()
        viewer.communicate()
    assert stats.reconnects == 1
    assert stats.held > 5
    times = [at for at, _ in seen if isinstance(at, float)]
    assert len(times) > 0.8 * stats.frames
    assert all(a < b for a, b in pairwise(times))
    assert max(b - a for a, b in pairwise(times)) < 2.0  # the picture stood still, the stream did not
    assert times[-1] - times[0] > 5.0
