"""What metrics and the health check say, read by Prometheus's own parser."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from streamderain.errors import StreamderainError
from streamderain.frame import Frame
from streamderain.metrics import exposition, serve_metrics
from streamderain.observe import Observer
from streamderain.web import WebServer, parse_address

FRAME = Frame(torch.zeros((2, 2, 3), dtype=torch.uint8), 0, Fraction(1, 25))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observer(clock: Clock) -> Observer:
    return Observer('front "left"\\', about={"model": "fast"}, clock=clock)


@pytest.fixture
def server(observer: Observer) -> Iterator[WebServer]:
    with serve_metrics([observer], ("127.0.0.1", 0), idle=3) as serving:
        yield serving


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def samples(text: str) -> dict[tuple[str, str], float]:
    """By name and the one label beside ``stream``, as Prometheus's own client reads them."""
    parser = pytest.importorskip("prometheus_client.parser")
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            rest = {key: value for key, value in sample.labels.items() if key != "stream"}
            assert sample.labels["stream"] == 'front "left"\\'
            found[sample.name.removeprefix("streamderain_"), ",".join(rest.values())] = sample.value
    return found


def test_prometheus_reads_what_happened(observer: Observer, clock: Clock, server: WebServer) -> None:
    for _ in range(51):
        observer.camera_frame()
        clock.now += 0.04
    for age in (0.02, 0.2, 0.21, 30.0):
        observer.processed(FRAME, FRAME, age=age)
    observer.skip(47)
    observer.held()
    observer.reconnected()
    observer.tell_output(dropped=5, reconnects=2)
    status, body = get(server.url + "metrics")
    read = samples(body.decode())
    assert status == 200
    assert read["camera_frames_total", ""] == 51
    assert read["camera_fps", ""] == pytest.approx(25, rel=0.01)
    assert read["skipped_frames_total", ""] == 47
    assert read["held_frames_total", ""] == 1
    assert read["reconnects_total", ""] == 1
    assert (read["output_dropped_frames_total", ""], read["output_reconnects_total", ""]) == (5, 2)
    assert read["output_away_seconds", ""] == 0
    assert (read["state", "up"], read["state", "lost"]) == (1, 0)
    assert read["info", "fast"] == 1
    assert read["frame_age_seconds_count", ""] == read["frame_age_seconds_bucket", "+Inf"] == 4
    assert [read["frame_age_seconds_bucket", bound] for bound in ("0.2", "0.3", "5.0")] == [2, 3, 3]
    assert read["frame_age_seconds_sum", ""] == pytest.approx(30.43)


def test_a_stream_whose_output_is_away_for_long_is_ill(observer: Observer, clock: Clock, server: WebServer) -> None:
    for dropped, status in ((0, 200), (99, 200), (300, 503)):
        observer.processed(FRAME, FRAME)
        observer.tell_output(dropped=dropped, reconnects=0, up=False)
        assert get(server.url + "healthz")[0] == status
        clock.now += 2
    assert samples(get(server.url + "metrics")[1].decode())["output_away_seconds", ""] == 6
    observer.tell_output(dropped=400, reconnects=1)
    observer.processed(FRAME, FRAME)
    assert get(server.url + "healthz")[0] == 200


def test_no_digit_of_a_large_counter_is_lost(observer: Observer) -> None:
    months = replace(observer.snapshot(), camera_frames=123_456_789, idle_seconds=1234.5678)
    assert '"} 123456789\n' in exposition([months])  # a count stays an integer
    read = samples(exposition([months]))
    assert (read["camera_frames_total", ""], read["idle_seconds", ""]) == (123_456_789, 1234.5678)


def test_rates_fall_when_frames_stop(observer: Observer, clock: Clock) -> None:
    for _ in range(25):
        observer.camera_frame()
        clock.now += 0.04
    assert observer.snapshot().camera_fps == pytest.approx(25)
    clock.now += 2
    assert observer.snapshot().camera_fps < 10
    clock.now += 10
    assert observer.snapshot().camera_fps == 0


def test_health_is_503_when_lost_or_idle(observer: Observer, clock: Clock, server: WebServer) -> None:
    assert get(server.url + "healthz")[0] == 200
    clock.now += 3.5
    status, body = get(server.url + "healthz")
    assert (status, json.loads(body)["status"]) == (503, "ill")
    assert "no frame for 3.5 s" in body.decode()
    observer.camera_frame()
    observer.processed(FRAME, FRAME)
    assert get(server.url + "healthz")[0] == 200
    observer.end()
    clock.now += 60  # it came to its end
    assert get(server.url + "healthz")[0] == 200
    observer.set_state("lost")
    status, body = get(server.url + "healthz")
    assert status == 503
    assert "lost" in body.decode()


def test_other_paths_say_where_to_look(server: WebServer) -> None:
    status, body = get(server.url + "secret")
    assert (status, b"/metrics" in body) == (404, True)


def test_a_taken_port_is_one_clear_line(observer: Observer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StreamderainError, match=f"127.0.0.1:{port}: Address already in use"):
            serve_metrics([observer], ("127.0.0.1", port))


def test_several_streams_share_a_family(clock: Clock) -> None:
    text = exposition([Observer(name, clock=clock).snapshot() for name in ("front", "rear")])
    assert text.count("# TYPE streamderain_camera_fps gauge") == 1
    assert 'streamderain_camera_fps{stream="rear"} 0' in text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("car.local:9464", ("car.local", 9464)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "http", "0", "70000", "http://x:80", "1.2.3.4:"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)
