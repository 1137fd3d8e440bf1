"""Counters for Prometheus and a health check for whatever restarts things, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import accumulate

from streamderain.observe import AGE_BOUNDS, STATES, Observer, Snapshot
from streamderain.web import Handler, WebServer

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_IDLE = 10.0  # seconds without a frame after which a stream is not well
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

# name, type, help, value
_NUMBERS: tuple[tuple[str, str, str, Callable[[Snapshot], float]], ...] = (
    ("camera_fps", "gauge", "Frames per second that come from the source.", lambda s: s.camera_fps),
    ("process_fps", "gauge", "Frames per second that go through the network.", lambda s: s.process_fps),
    ("camera_frames_total", "counter", "Frames that came from the source.", lambda s: s.camera_frames),
    ("processed_frames_total", "counter", "Frames that went through the network.", lambda s: s.processed_frames),
    ("skipped_frames_total", "counter", "Frames left out because newer ones were there.", lambda s: s.skipped),
    ("held_frames_total", "counter", "Pictures that stood in where no frame came in time.", lambda s: s.held_frames),
    ("reconnects_total", "counter", "Times that the source came back.", lambda s: s.reconnects),
    ("output_dropped_frames_total", "counter", "Frames that the output could not send.", lambda s: s.output_dropped),
    ("output_reconnects_total", "counter", "Times that the output came back.", lambda s: s.output_reconnects),
    ("output_away_seconds", "gauge", "Seconds since the output went away.", lambda s: s.output_away_seconds),
    ("idle_seconds", "gauge", "Seconds since the last processed frame.", lambda s: s.idle_seconds),
    ("up_seconds", "gauge", "Seconds since the stream was started.", lambda s: s.up_seconds),
)


def exposition(snapshots: Sequence[Snapshot]) -> str:
    """The text format of Prometheus, version 0.0.4; every sample has the label ``stream``."""
    lines: list[str] = []
    for name, kind, text, value in _NUMBERS:
        lines += _head(name, kind, text)
        lines += [f"streamderain_{name}{_labels(s)} {value(s)!r}" for s in snapshots]
    lines += _head("state", "gauge", "1 for the state that the stream is in.")
    lines += [
        f"streamderain_state{_labels(s, state=state)} {int(s.state == state)}" for s in snapshots for state in STATES
    ]
    lines += _head("info", "gauge", "What runs; always 1.")
    lines += [f"streamderain_info{_labels(s, **s.about)} 1" for s in snapshots]
    lines += _head("frame_age_seconds", "histogram", "From a frame's capture to its output.")
    for one in snapshots:
        cumulative = list(accumulate(one.age_counts))
        for bound, count in zip((*map(str, AGE_BOUNDS), "+Inf"), cumulative, strict=True):
            lines.append(f"streamderain_frame_age_seconds_bucket{_labels(one, le=bound)} {count}")
        lines.append(f"streamderain_frame_age_seconds_sum{_labels(one)} {one.age_sum:.6f}")
        lines.append(f"streamderain_frame_age_seconds_count{_labels(one)} {cumulative[-1]}")
    return "\n".join(lines) + "\n"


def ill(snapshot: Snapshot, *, idle: float = _IDLE) -> str | None:
    """What is wrong: the stream is lost, gave no frame or had no output for ``idle`` seconds; None if nothing is.

    A stream that has come to its end is well.
    """
    if snapshot.state == "lost":
        return "the stream is lost"
    if not snapshot.ended and snapshot.idle_seconds > idle:
        return f"no frame for {snapshot.idle_seconds:.1f} s"
    if not snapshot.ended and snapshot.output_away_seconds > idle:
        return f"its output has been away for {snapshot.output_away_seconds:.1f} s"
    return None


def serve_metrics(observers: Sequence[Observer], address: tuple[str, int], *, idle: float = _IDLE) -> WebServer:
    """Serves ``/metrics`` and ``/healthz`` until it is closed.

    ``/healthz`` answers 200, or 503 when any stream is `ill`, and says in JSON how each is.

    Args:
        idle: seconds without a frame, or without its output, after which a stream is ill.

    Raises:
        StreamderainError: the port is taken.
    """

    class Metrics(Handler):
        def page(self, path: str) -> None:
            snapshots = [observer.snapshot() for observer in observers]
            if path == "/metrics":
                self.answer(exposition(snapshots).encode(), kind=_TEXT)
            elif path == "/healthz":
                wrong = {s.name: ill(s, idle=idle) for s in snapshots}
                report = {
                    "status": "ill" if any(wrong.values()) else "ok",
                    "streams": [{"name": s.name, "state": s.state, "wrong": wrong[s.name]} for s in snapshots],
                }
                body = json.dumps(report).encode() + b"\n"
                self.answer(body, kind="application/json", status=503 if any(wrong.values()) else 200)
            else:
                self.answer(b"see /metrics and /healthz\n", kind="text/plain; charset=utf-8", status=404)

    return WebServer(address, Metrics, what="--metrics")


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP streamderain_{name} {text}", f"# TYPE streamderain_{name} {kind}"]


def _labels(snapshot: Snapshot, **more: str) -> str:
    pairs = {"stream": snapshot.name, **more}
    return "{" + ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in pairs.items()) + "}"
