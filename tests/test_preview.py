"""The browser preview: its pictures read by OpenCV, its page driven in a real headless browser by WebDriver."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import torch

from streamderain.frame import Frame
from streamderain.metrics import serve_metrics
from streamderain.observe import Observer
from streamderain.preview import JpegEncoder, serve_preview
from streamderain.preview.jpeg import Pictures
from streamderain.web import Handler, WebServer
from tests.waiting import wait_until

TICK = Fraction(1, 25)
RAINY, CLEAN = (200, 40, 40), (40, 40, 200)

pytestmark = pytest.mark.timeout(120)


def plain(colour: tuple[int, int, int], *, height: int = 48, width: int = 64) -> Frame:
    return Frame(torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).contiguous(), 0, TICK)


@pytest.fixture
def observer() -> Observer:
    observer = Observer("front", about={"model": "fast"})
    observer.camera_frame()
    observer.processed(plain(RAINY), plain(CLEAN), age=0.05)
    return observer


@pytest.fixture
def server(observer: Observer) -> Iterator[WebServer]:
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        yield serving
        observer.end()


def decode(jpeg: bytes) -> np.ndarray[Any, Any]:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1].astype(int)


def test_jpeg_is_what_opencv_reads_as_the_same_picture() -> None:
    rows, columns = np.mgrid[0:120, 0:161]
    scene = np.stack([columns, rows * 2, 255 - columns], axis=2).astype(np.uint8)
    encoder = JpegEncoder(quantiser=2)
    for _ in range(3):
        back = decode(encoder.encode(Frame(torch.from_numpy(scene), 0, TICK)))
    assert back.shape == scene.shape
    assert np.abs(back - scene).mean() < 1.5


def test_coarser_jpegs_are_smaller() -> None:
    noise = torch.randint(0, 256, (96, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = [len(JpegEncoder(quantiser=q).encode(Frame(noise, 0, TICK))) for q in (2, 4, 16, 31)]
    assert all(finer > 1.2 * coarser for finer, coarser in pairwise(sizes))


def test_deep_wide_and_changing_pictures() -> None:
    encoder = JpegEncoder(width=64)
    deep = Frame(torch.full((50, 100, 3), 128 * 257, dtype=torch.int32).to(torch.uint16), 0, TICK)
    back = decode(encoder.encode(deep))
    assert back.shape == (32, 64, 3)
    assert np.abs(back - 128).max() < 3
    assert decode(encoder.encode(plain(RAINY), plain(CLEAN))).shape == (96, 64, 3)
    with pytest.raises(ValueError, match="got 3"):
        JpegEncoder(width=3)


def test_a_picture_is_before_above_after(server: WebServer) -> None:
    with urllib.request.urlopen(f"{server.url}picture?kind=pair") as answer:
        assert answer.headers["X-Serial"] == "1"
        both = decode(answer.read())
    assert both.shape == (96, 64, 3)
    assert np.abs(both[:44] - RAINY).max() < 8
    assert np.abs(both[52:] - CLEAN).max() < 8


def test_a_request_waits_for_the_next_picture(server: WebServer, observer: Observer) -> None:
    threading.Timer(0.3, lambda: observer.processed(plain(CLEAN), plain(CLEAN))).start()
    with urllib.request.urlopen(f"{server.url}picture?after=1", timeout=10) as answer:
        assert answer.headers["X-Serial"] == "2"


def test_mjpeg_is_what_opencv_plays(server: WebServer, observer: Observer) -> None:
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.02):
            observer.processed(plain(RAINY), plain(CLEAN))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        capture = cv2.VideoCapture(f"{server.url}clean.mjpg", cv2.CAP_FFMPEG)
        for _ in range(5):
            good, picture = capture.read()
            assert good
            assert np.abs(picture[:, :, ::-1].astype(int) - CLEAN).max() < 8
        capture.release()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("path", ["nothing", "picture?kind=all", "picture?stream=7", "page.html"])
def test_what_is_not_there_is_404(server: WebServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url + path)
    with caught.value:
        assert caught.value.code == 404


@pytest.mark.parametrize("asked", ["after=-1", f"after={'9' * 5000}", "after=²", "stream=x"])
@pytest.mark.parametrize("path", ["picture", "pair.mjpg"])
def test_what_is_no_number_is_400_and_nothing_is_said(
    server: WebServer, path: str, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}{path}?{quote(asked, safe='=')}")
    with caught.value:
        assert caught.value.code == 400
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8080", 403),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("[evil", 403),
        ("", 403),
        ("LocalHost:8080", 200),
        ("localhost", 200),
        ("127.0.0.3", 200),
        ("[::1]:8080", 200),
        (None, 200),  # of HTTP/1.0, by no browser
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "127.0.0.2", "localhost"])
@pytest.mark.parametrize("serve", [serve_preview, serve_metrics])
def test_a_page_elsewhere_cannot_borrow_this_machine(
    observer: Observer, serve: Callable[..., WebServer], bound: str, host: str | None, status: int
) -> None:
    """As DNS rebinding does: the attacker's name has this machine's address."""
    with serve([observer], (bound, 0)) as serving, closing(http.client.HTTPConnection(bound, serving.port)) as client:
        client.putrequest("GET", "/status" if serve is serve_preview else "/metrics", skip_host=True)
        if host is not None:
            client.putheader("Host", host)
        client.endheaders()
        assert client.getresponse().status == status


def test_a_name_that_was_named_is_answered(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian gives a machine's own name an address of its loopback."""
    bind = socketserver.TCPServer.server_bind

    def resolved(server: socketserver.TCPServer) -> None:
        server.server_address = ("127.0.1.1", 0)
        bind(server)

    monkeypatch.setattr(socketserver.TCPServer, "server_bind", resolved)
    with serve_preview([observer], ("Car.local", 0)) as serving:
        asked = urllib.request.Request(f"http://127.0.1.1:{serving.port}/status", headers={"Host": "car.local"})
        urllib.request.urlopen(asked).close()


def test_a_request_that_comes_byte_by_byte_is_waited_for_only_so_long(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "timeout", 1.0)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        with contextlib.suppress(OSError):
            while time.monotonic() < begin + 10:
                client.sendall(b"a")
                time.sleep(0.2)
    assert 1.0 <= time.monotonic() - begin < 5


def test_an_answer_may_take_longer_than_a_request(
    server: WebServer, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "timeout", 0.5)
    threading.Timer(1.5, lambda: observer.processed(plain(CLEAN), plain(CLEAN))).start()
    with urllib.request.urlopen(f"{server.url}picture?after=1", timeout=10) as answer:
        assert answer.headers["X-Serial"] == "2"


def test_nothing_is_encoded_when_nobody_watches(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    encode = JpegEncoder.encode
    monkeypatch.setattr(JpegEncoder, "encode", lambda self, *frames: made.append(1) or encode(self, *frames))
    observer = Observer()
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        for _ in range(20):
            observer.processed(plain(RAINY), plain(CLEAN))
        assert made == []
        for _ in range(3):  # the same moment, three times: encoded once
            urllib.request.urlopen(f"{serving.url}picture").close()
        assert made == [1]
        observer.processed(plain(CLEAN), plain(CLEAN))
        with urllib.request.urlopen(f"{serving.url}picture?after=20") as answer:
            assert answer.headers["X-Serial"] == "21"
            assert np.abs(decode(answer.read())[:44] - CLEAN).max() < 8


def test_who_watches_without_reading_slows_nobody(server: WebServer, observer: Observer) -> None:
    noise = Frame(torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8), 0, TICK)
    lazy = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    for one in lazy:
        one.sendall(b"GET /pair.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    slowest = 0.0
    for _ in range(100):
        begin = time.perf_counter()
        observer.processed(noise, noise)
        slowest = max(slowest, time.perf_counter() - begin)
        time.sleep(0.005)
    assert slowest < 1
    for one in lazy:
        one.close()


def test_closing_leaves_no_thread(observer: Observer) -> None:
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        watching = socket.create_connection(("127.0.0.1", serving.port))
        watching.sendall(b"GET /pair.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        watching.recv(100)
    observer.end()
    until = time.monotonic() + 10
    while any("process_request_thread" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.05)
    watching.close()


def test_listening_asks_nobody_for_this_machine_s_name(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str = "") -> str:
        raise AssertionError("this may take as long as a name server does")

    monkeypatch.setattr(socket, "getfqdn", ask)
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        urllib.request.urlopen(serving.url).close()


def test_the_page_may_load_from_here_alone(server: WebServer) -> None:
    with urllib.request.urlopen(server.url) as answer:
        policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {word for words in policy.values() for word in words.split()} <= {
        *("'none'", "'self'", "'unsafe-inline'", "data:", "blob:")
    }


def test_a_client_beyond_the_most_is_hung_up_on_and_each_that_goes_makes_room(server: WebServer) -> None:
    def said(client: socket.socket) -> bytes:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            return client.recv(8)
        return b""

    def come() -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), timeout=10)

    with contextlib.ExitStack() as clients:
        inside = [clients.enter_context(come()) for _ in range(32)]
        assert [said(client) for client in inside] == [b"HTTP/1.1"] * 32
        with come() as one_more:
            assert said(one_more) == b""
    until = time.monotonic() + 10
    for _ in range(40):  # one after the other
        while True:
            with come() as client:
                if said(client) == b"HTTP/1.1":
                    break
            assert time.monotonic() < until


def test_a_client_for_whom_there_is_no_thread_takes_no_place(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.current_thread().name == "streamderain-web":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(32):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                assert client.recv(1) == b""
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        assert answer.status == 200


def test_closing_hangs_up_on_who_is_there(observer: Observer) -> None:
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        client = socket.create_connection(("127.0.0.1", serving.port), timeout=5)  # less than it may say nothing
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(10000).endswith(b"\r\n\r\n")
    with client:
        assert client.recv(1) == b""


# ------------------------------------------------------------------- a real browser


class Browser:
    """As much of the W3C's WebDriver protocol as these tests need."""

    def __init__(self, driver: str, *, mobile: bool) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [driver, f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._session = ""
        until = time.monotonic() + 30
        while True:
            try:
                self._call("GET", "/status")
                break
            except OSError:
                assert time.monotonic() < until, "the browser's driver does not answer"
                time.sleep(0.1)
        size = "390,780" if mobile else "1000,700"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--window-size={size}",
        ]
        options: dict[str, Any] = {"args": arguments}
        if mobile:
            options["mobileEmulation"] = {
                "deviceMetrics": {"width": 390, "height": 780, "pixelRatio": 2.0, "touch": True}
            }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._session = f"/session/{made['sessionId']}"

    def go(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def ask(self, script: str) -> Any:
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def drag(self, start: tuple[int, int], end: tuple[int, int], *, kind: str) -> None:
        moves = [
            {"type": "pointerMove", "duration": 0, "x": start[0], "y": start[1]},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 100, "x": end[0], "y": end[1]},
            {"type": "pointerUp", "button": 0},
        ]
        finger = {"type": "pointer", "id": "finger", "parameters": {"pointerType": kind}, "actions": moves}
        self._call("POST", f"{self._session}/actions", {"actions": [finger]})

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def close(self) -> None:
        try:
            if self._session:
                self._call("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(20)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from error


@pytest.fixture(params=[False, True], ids=["desk", "phone"])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver here (Debian: apt install chromium chromium-driver)")
    one = Browser(driver, mobile=request.param)
    yield one
    one.close()


def colour_at(browser: Browser, x: float) -> list[int]:
    """What the page's canvas shows at a part of its width, a quarter of its height down."""
    script = (
        'const c = document.getElementById("view");'
        f'return Array.from(c.getContext("2d").getImageData(c.width * {x}, c.height / 4, 1, 1).data).slice(0, 3);'
    )
    return [int(value) for value in browser.ask(script)]


def test_the_slider_parts_before_from_after(
    browser: Browser, server: WebServer, observer: Observer, request: pytest.FixtureRequest
) -> None:
    browser.go(server.url)
    wait_until(lambda: browser.ask('return document.getElementById("view").dataset.serial') == "1")
    time.sleep(0.3)  # drawn at the next repaint
    near = {"abs": 12}
    assert colour_at(browser, 0.25) == pytest.approx(RAINY, **near)
    assert colour_at(browser, 0.75) == pytest.approx(CLEAN, **near)
    box = browser.ask(
        'const c = document.getElementById("view"), b = c.getBoundingClientRect();'
        "const w = c.width * Math.min(b.width / c.width, b.height / c.height);"  # the picture in its box
        "return [b.x + (b.width - w) / 2, b.y, w, b.height];"
    )
    row = int(box[1] + box[3] / 4)
    at = [int(box[0] + box[2] * part) for part in (0.5, 0.9, 0.1)]
    kind = "touch" if request.node.callspec.id == "phone" else "mouse"
    browser.drag((at[0], row), (at[1], row), kind=kind)
    assert colour_at(browser, 0.75) == pytest.approx(RAINY, **near)
    browser.drag((at[1], row), (at[2], row), kind=kind)
    assert colour_at(browser, 0.25) == pytest.approx(CLEAN, **near)
    assert 50 < int(browser.ask('return document.getElementById("slider").value')) < 150
    # The picture changes when the stream does.
    observer.processed(plain((20, 120, 20)), plain((250, 250, 20)), age=0.04)
    wait_until(lambda: colour_at(browser, 0.5) == pytest.approx((250, 250, 20), **near))
    wait_until(lambda: "fast" in browser.ask('return document.getElementById("numbers").textContent'))
    assert browser.ask("return document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways
    assert browser.screenshot().startswith(b"\x89PNG")


def test_the_page_says_when_nobody_answers(browser: Browser, observer: Observer) -> None:
    with serve_preview([observer], ("127.0.0.1", 0)) as serving:
        browser.go(serving.url)
        wait_until(lambda: browser.ask('return document.getElementById("view").dataset.serial') == "1")
    wait_until(lambda: "does not answer" in browser.ask('return document.getElementById("wait").textContent'))
    observer.end()


def test_the_page_asks_once_a_second_of_a_stream_that_has_ended(
    browser: Browser, server: WebServer, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.go(server.url)
    wait_until(lambda: browser.ask('return document.getElementById("view").dataset.serial') == "1")
    asked, newer = [], Pictures.newer
    monkeypatch.setattr(Pictures, "newer", lambda *args, **within: (asked.append(1), newer(*args, **within))[1])
    observer.end()
    time.sleep(3)
    assert 1 <= len(asked) <= 4
