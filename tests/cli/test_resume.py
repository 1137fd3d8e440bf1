"""``run --resume``: a run that was killed or interrupted is gone on with, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from streamderain.cli.origin import origin_of
from streamderain.cli.run_options import RunOptions

from ..waiting import wait_until
from .conftest import COMMAND, environment, times

Clip = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[bytes]"]

_COUNT = 80
_OPTIONS = ("-m", "balanced", "--backend", "eager", "--device", "cpu", "--preset", "ultrafast", "-e", "g=10")


def _run(*arguments: object, **options: Any) -> tuple[int, dict[str, Any], str]:
    """Exit code, the last event, and all that was said."""
    done = subprocess.run(
        [*COMMAND, "run", *map(str, arguments), "--log-format", "json"],
        capture_output=True, text=True, env=environment(), timeout=300, check=False, **options,
    )  # fmt: skip
    return done.returncode, json.loads(done.stderr.splitlines()[-1]), done.stderr


def _pictures(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24").astype(float) for picture in container.decode(video=0)]


@pytest.mark.parametrize(("signum", "suffix"), [(signal.SIGKILL, "mkv"), (signal.SIGINT, "mp4")])
def test_a_run_that_ended_early_is_gone_on_with(clip: Clip, start: Start, signum: signal.Signals, suffix: str) -> None:
    source = clip(frames=_COUNT, sound=True)
    out, whole = source.with_name(f"out.{suffix}"), source.with_name(f"whole.{suffix}")
    part = Path(f"{out}.part")
    process = start("run", source, out, *_OPTIONS, "--no-progress")
    wait_until(lambda: process.poll() is not None or (part.exists() and part.stat().st_size > 20_000))
    assert process.poll() is None, process.communicate()
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert out.exists() == (signum is signal.SIGINT)

    code, end, said = _run(source, out, *_OPTIONS, "--resume")
    assert code == 0, said
    assert end["taken_over"] >= 20
    assert end["frames"] == _COUNT - end["taken_over"] > 0
    assert _run(source, whole, *_OPTIONS)[0] == 0
    assert times(out) == times(whole) == times(source)
    for number, (ours, theirs) in enumerate(zip(_pictures(out), _pictures(whole), strict=True)):
        # The network begins anew where it goes on.
        assert np.abs(ours - theirs).mean() <= (0 if number < end["taken_over"] else 2)
    assert sorted(source.parent.iterdir()) == sorted([source, out, whole])

    before = out.stat()
    code, end, said = _run(source, out, *_OPTIONS[2:], "-m", "classic", "--resume")
    assert code == 2, said
    assert "not of the same input and options" in end["message"]
    assert out.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("name", ["http://server/rainy.mp4", "rainy.m3u8", "missing.mp4"])
def test_what_may_be_another_video_by_now_has_no_origin(clip: Clip, name: str) -> None:
    source = clip("rainy.mp4")
    options: Any = SimpleNamespace(**{**dict.fromkeys(RunOptions.__slots__), "model": "classic"})
    assert origin_of(str(source), options) is not None
    (source.parent / "rainy.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nrainy.mp4\n")
    assert origin_of(name if ":" in name else str(source.parent / name), options) is None


def test_what_comes_from_a_pipe_cannot_be_resumed(clip: Clip) -> None:
    source = clip("rainy.mkv")
    with source.open("rb") as stdin:
        code, end, _ = _run("-", source.with_name("out.mp4"), "--resume", stdin=stdin)
    assert code == 2
    assert "--resume needs a file as INPUT" in end["message"]
    assert list(source.parent.iterdir()) == [source]
