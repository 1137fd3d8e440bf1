"""The pipeline: order and times kept, every failure at its place, Ctrl-C finishes the file, memory stays flat."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from streamderain.errors import InputError, OutputError, UnsupportedInputError
from streamderain.frame import Frame, VideoInfo
from streamderain.overlap import _Ahead
from streamderain.pipeline import comparison, derain, run, side_by_side
from streamderain.session import Derainer, Prepared
from streamderain.turns import FifoLock, SharedDerainer
from streamderain.yuv import Delivery, YuvFormat, YuvFrame

pytestmark = pytest.mark.timeout(60)

HEIGHT, WIDTH = 48, 64
INFO = VideoInfo(width=WIDTH, height=HEIGHT, time_base=Fraction(1, 90000))


def picture(index: int, *, height: int = HEIGHT, width: int = WIDTH, dtype: torch.dtype = torch.uint8) -> Frame:
    generator = torch.Generator().manual_seed(index)
    top = torch.iinfo(dtype).max + 1
    pixels = torch.randint(top, (height, width, 3), generator=generator, dtype=torch.int32).to(dtype)
    # Irregular times that do not start at zero: nothing may renumber them.
    return Frame(pixels=pixels, pts=1234 + 3003 * index + index % 3, time_base=INFO.time_base, duration=3003 + index)


class Source:
    info = INFO

    def __init__(self, count: int | None = 12, *, fail_at: int | None = None, pause: float = 0.0) -> None:
        self._count, self._fail_at, self._pause = count, fail_at, pause
        self.produced = 0
        self.closed_on: list[int] = []
        self.iterated_on: list[int] = []

    def __iter__(self) -> Iterator[Frame]:
        while self._count is None or self.produced < self._count:
            if self.produced == self._fail_at:
                raise InputError(f"damaged at {self.produced}")
            self.iterated_on.append(threading.get_ident())
            time.sleep(self._pause)
            self.produced += 1
            yield picture(self.produced - 1)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed_on.append(threading.get_ident())


class Sink:
    def __init__(self, *, fail_at: int | None = None, fail_close: bool = False, pause: float = 0.0) -> None:
        self.frames: list[Frame] = []
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self._fail_at, self._fail_close, self._pause = fail_at, fail_close, pause

    def write(self, frame: Frame) -> None:
        if len(self.frames) == self._fail_at:
            raise OutputError(f"disk full at {len(self.frames)}")
        time.sleep(self._pause)
        self.threads.add(threading.get_ident())
        self.frames.append(frame)

    def close(self) -> None:
        self.calls.append("close")
        if self._fail_close:
            raise OutputError("disk full at the end")

    def abort(self) -> None:
        self.calls.append("abort")

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        raise AssertionError("run() finishes the sink itself")


class Darker:
    """Stands in for a Derainer: pixels halved, so that a frame passed by is seen."""

    remembers = False

    def __init__(self, *, fail_at: int | None = None, pause: float = 0.0) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.steps = 0
        self._fail_at, self._pause = fail_at, pause

    def session(self, height: int, width: int) -> Darker:
        self.sizes.append((height, width))
        return self

    def prepare(self, frame: Frame) -> Prepared:
        return Prepared(frame, torch.empty(0), None)

    def step(self, frame: Frame | Prepared) -> Frame:
        frame = frame.frame if isinstance(frame, Prepared) else frame
        if self.steps == self._fail_at:
            raise RuntimeError(f"engine at {self.steps}")
        time.sleep(self._pause)
        self.steps += 1
        return replace(frame, pixels=frame.pixels // 2)


def assert_darker(frames: list[Frame], count: int) -> None:
    assert len(frames) == count
    for index, frame in enumerate(frames):
        rainy = picture(index)
        assert (frame.pts, frame.time_base, frame.duration) == (rainy.pts, rainy.time_base, rainy.duration)
        assert torch.equal(frame.pixels, rainy.pixels // 2)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("streamderain-")]


# --------------------------------------------------------------------- derain


def test_derain_is_lazy_and_keeps_times() -> None:
    taken = 0

    def camera() -> Iterator[Frame]:
        nonlocal taken
        for index in range(12):
            taken += 1
            yield picture(index)

    clean = derain(camera(), Darker())
    assert taken == 0
    first = next(clean)
    assert taken == 1
    assert_darker([first, *clean], 12)


def test_what_is_no_frame_source_sink_or_derainer_is_told_by_name() -> None:
    with pytest.raises(TypeError, match=r"streamderain\.open_source .*'in\.mp4'"):
        derain("in.mp4", Darker())  # at once, not at the first frame
    for wrong in (None, 5, picture(0), Path("in.mp4")):
        with pytest.raises(TypeError, match=r"^frames must be Frames, .*, got .{1,201}$"):
            derain(wrong, Darker())
    for wrong in ("fast", Derainer):
        with pytest.raises(TypeError, match=rf"streamderain\.Derainer, got {wrong!r}"):
            derain([], wrong)
    source, sink = Source(), Sink()
    for wrong, said in (
        (("in.mp4", sink, Darker()), r"streamderain\.open_source .*'in\.mp4'"),
        ((source, "out.mp4", Darker()), r"streamderain\.open_sink .*'out\.mp4'"),
        ((source, io.BytesIO(), Darker()), r"streamderain\.open_sink .*BytesIO"),  # it can write, too
        ((source, sink, "fast"), r"streamderain\.Derainer, got 'fast'"),
    ):
        with pytest.raises(TypeError, match=said):
            run(*wrong)
    for wrong, said in (
        ({"view": "side"}, "view must be a function, got 'side'"),
        ({"on_frame": 1}, "on_frame must be a function, got 1"),
        ({"close_interrupted": True}, "close_interrupted must be a function, got True"),
        ({"stop": True}, r"stop must be a threading\.Event, got True"),
    ):
        with pytest.raises(TypeError, match=said):
            run(source, sink, Darker(), **wrong)
    with pytest.raises(ValueError, match="depth"):
        run(source, sink, Darker(), depth=0)
    with pytest.raises(ValueError, match=r"depth must be a whole number, got 2\.5"):
        run(source, sink, Darker(), depth=2.5)
    assert (source.produced, source.closed_on, sink.calls) == (0, [], [])  # a wrong argument leaves both alone


@pytest.mark.parametrize("remembers", [False, True])
def test_pixels_that_are_in_no_frame_are_told_as_such(remembers: bool) -> None:
    class Pixels(Source):
        def __iter__(self) -> Iterator[Frame]:
            yield picture(0).pixels.numpy()

    darker, sink, said = Darker(), Sink(), r"streamderain\.Frame.* got <class 'numpy\.ndarray'>"
    darker.remembers = remembers
    with pytest.raises(TypeError, match=said):
        list(derain(Pixels(), darker))
    with pytest.raises(TypeError, match=said):
        run(Pixels(), sink, darker)
    assert sink.calls == ["abort"]


def test_derain_makes_one_session_of_the_first_frames_size() -> None:
    darker = Darker()
    assert len(list(derain((picture(i, height=30, width=17) for i in range(5)), darker))) == 5
    assert darker.sizes == [(30, 17)]


def test_derain_with_the_identity_model_changes_nothing() -> None:
    for dtype in (torch.uint8, torch.uint16):
        rainy = [picture(i, dtype=dtype) for i in range(3)]
        for before, after in zip(rainy, derain(rainy, Derainer("identity", device="cpu")), strict=True):
            assert after.pts == before.pts
            assert after.pixels.dtype == dtype
            assert torch.equal(after.pixels.int(), before.pixels.int())


def test_derain_without_a_model_takes_the_default_one() -> None:
    (clean,), (expected,) = derain([picture(0)]), derain([picture(0)], Derainer("balanced"))
    assert torch.equal(clean.pixels, expected.pixels)


def test_change_of_size_is_an_error_that_names_time_and_sizes() -> None:
    frames = [picture(0), picture(1), picture(2, height=32)]
    clean = derain(frames, Darker())
    assert next(clean).pts == 1234
    next(clean)
    with pytest.raises(UnsupportedInputError, match=r"64x48 to 64x32 at 0\.080 s"):
        next(clean)


# ------------------------------------------------------------------------ run


@pytest.mark.parametrize("depth", [1, 4, 100])
@pytest.mark.parametrize("count", [1, 12])
def test_every_frame_in_order_with_its_time(depth: int, count: int) -> None:
    source, sink, seen = Source(count), Sink(), []
    stats = run(source, sink, Darker(), depth=depth, on_frame=lambda frame: seen.append(frame.pts))
    assert_darker(sink.frames, count)
    assert sink.calls == ["close"]
    assert seen == [frame.pts for frame in sink.frames]
    assert (stats.frames, stats.interrupted) == (count, False)


def test_three_threads_and_each_end_closed_on_its_own() -> None:
    source, sink = Source(), Sink()
    run(source, sink, Darker())
    assert len(set(source.iterated_on)) == 1
    assert source.closed_on == source.iterated_on[:1]
    assert len(sink.threads) == 1
    assert len({*source.iterated_on, *sink.threads, threading.get_ident()}) == 3


def test_stages_overlap_and_their_time_is_told() -> None:
    stats = run(Source(20, pause=0.01), Sink(pause=0.01), Darker(pause=0.01))
    for stage in (stats.decode_seconds, stats.derain_seconds, stats.encode_seconds):
        assert 0.2 <= stage < 0.5
    assert stats.seconds < 0.75 * (stats.decode_seconds + stats.derain_seconds + stats.encode_seconds)
    assert stats.fps == pytest.approx(20 / stats.seconds)


def test_time_ahead_of_the_network_is_told_apart_from_decoding() -> None:
    class Ahead(Darker):
        def prepare(self, frame: Frame) -> Prepared:
            time.sleep(0.01)
            return super().prepare(frame)

    stats = run(Source(5, pause=0.03), Sink(), Ahead())
    assert 0.05 <= stats.prepare_seconds < stats.decode_seconds


@pytest.mark.parametrize("at", [0, 1, 11])
def test_source_error_is_raised_and_the_sink_aborts(at: int) -> None:
    source, sink = Source(12, fail_at=at), Sink()
    with pytest.raises(InputError, match=f"damaged at {at}"):
        run(source, sink, Darker())
    assert sink.calls == ["abort"]
    assert len(source.closed_on) == 1


@pytest.mark.parametrize("at", [0, 1, 11])
def test_engine_error_is_raised_and_the_sink_aborts(at: int) -> None:
    source, sink = Source(None), Sink()
    with pytest.raises(RuntimeError, match=f"engine at {at}"):
        run(source, sink, Darker(fail_at=at))
    assert sink.calls == ["abort"]
    assert len(source.closed_on) == 1


@pytest.mark.parametrize("at", [0, 1, 11])
def test_sink_error_is_raised_and_ends_an_endless_source(at: int) -> None:
    source, sink = Source(None if at < 11 else 12), Sink(fail_at=at)
    with pytest.raises(OutputError, match=f"disk full at {at}"):
        run(source, sink, Darker())
    assert sink.calls == ["abort"]
    assert len(source.closed_on) == 1


def test_error_of_closing_the_sink_is_raised() -> None:
    sink = Sink(fail_close=True)
    with pytest.raises(OutputError, match="at the end"):
        run(Source(), sink, Darker())
    assert sink.calls == ["close"]


def test_error_in_on_frame_aborts() -> None:
    def fail(_: Frame) -> None:
        raise ZeroDivisionError

    sink = Sink()
    with pytest.raises(ZeroDivisionError):
        run(Source(None), sink, Darker(), on_frame=fail)
    assert sink.calls == ["abort"]


def test_stop_ends_an_endless_source_and_finishes_the_file() -> None:
    stop, sink, source = threading.Event(), Sink(), Source(None)
    seen = 0

    def count(_: Frame) -> None:
        nonlocal seen
        seen += 1
        if seen == 7:
            stop.set()

    stats = run(source, sink, Darker(), on_frame=count, stop=stop)
    assert_darker(sink.frames, 7)
    assert sink.calls == ["close"]
    assert (stats.frames, stats.interrupted) == (7, True)
    assert len(source.closed_on) == 1


def test_stopped_before_the_first_frame_leaves_no_file() -> None:
    stop, sink = threading.Event(), Sink()
    stop.set()
    stats = run(Source(), sink, Darker(), stop=stop)
    assert sink.calls == ["abort"]
    assert (stats.frames, stats.interrupted) == (0, True)


def test_stopped_before_the_decoding_thread_has_begun_the_source_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _Ahead.work

    def late(shared: _Ahead[object], items: Iterable[object]) -> None:
        with shared.changed:
            assert shared.changed.wait_for(lambda: shared.left, 10)
        work(shared, items)

    monkeypatch.setattr(_Ahead, "work", late)
    stop, source = threading.Event(), Source()
    stop.set()
    run(source, Sink(), Darker(), stop=stop)
    assert len(source.closed_on) == 1
    assert source.closed_on != [threading.get_ident()]
    assert source.produced == 0


class Stalling(Source):
    """Yields three pictures, then hangs as a silent pipe does, until it is let go."""

    def __init__(self) -> None:
        super().__init__(3)
        self.gate = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        yield from super().__iter__()
        self.gate.wait(20)

    def let_go(self) -> None:
        self.gate.set()
        for thread in threading.enumerate():
            if thread.name == "streamderain-decode":
                thread.join(10)


def test_stop_finishes_the_file_though_the_source_is_stuck() -> None:
    stop, sink, source = threading.Event(), Sink(), Stalling()
    threading.Timer(0.3, stop.set).start()
    begin = time.monotonic()
    stats = run(source, sink, Darker(), stop=stop)
    assert time.monotonic() - begin < 10
    assert_darker(sink.frames, 3)
    assert sink.calls == ["close"]
    assert (stats.frames, stats.interrupted) == (3, True)
    assert source.closed_on == []  # nobody closes it under the reader's hands …
    source.let_go()
    assert source.closed_on == source.iterated_on[:1]  # … who does so when it comes back


@pytest.mark.parametrize("where", ["network", "sink"])
def test_error_is_told_though_the_source_is_stuck(where: str) -> None:
    source, sink = Stalling(), Sink(fail_at=2 if where == "sink" else None, pause=0.1)
    begin = time.monotonic()
    with pytest.raises(OutputError if where == "sink" else RuntimeError, match="at 2"):
        run(source, sink, Darker(fail_at=2 if where == "network" else None))
    assert time.monotonic() - begin < 10
    assert sink.calls == ["abort"]
    source.let_go()


@pytest.mark.parametrize("stopped", [False, True])
def test_interrupted_run_may_close_the_sink_in_another_way(stopped: bool) -> None:
    stop, sink = threading.Event(), Sink()

    def on_frame(_: Frame) -> None:
        if stopped:
            stop.set()

    run(
        Source(12),
        sink,
        Darker(),
        on_frame=on_frame,
        stop=stop,
        close_interrupted=lambda: sink.calls.append("close as part"),
    )
    assert sink.calls == (["close as part"] if stopped else ["close"])


def test_source_is_never_far_ahead_of_the_sink() -> None:
    """With depth d, at most d decoded, one in the network and d before the sink."""
    gate = threading.Event()

    class Stuck(Sink):
        def write(self, frame: Frame) -> None:
            gate.wait(10)
            super().write(frame)

    source, sink = Source(50), Stuck()
    threading.Timer(0.3, gate.set).start()
    most = 0

    def watch() -> None:
        nonlocal most
        while not gate.is_set():
            most = max(most, source.produced)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(source, sink, Darker(), depth=3)
    watcher.join()
    assert most == 3 + 1 + 3
    assert len(sink.frames) == 50


def test_no_more_pictures_alive_than_the_queues_hold() -> None:
    alive, most = 0, 0
    lock = threading.Lock()

    class Counted(torch.Tensor):
        """A picture that tells when it goes."""

        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    class Counting(Source):
        def __iter__(self) -> Iterator[Frame]:
            nonlocal alive, most
            for frame in super().__iter__():
                with lock:
                    alive += 1
                    most = max(most, alive)
                yield replace(frame, pixels=frame.pixels.as_subclass(Counted))
                del frame

    class Null(Sink):
        def write(self, frame: Frame) -> None:
            pass

    class Copy(Darker):
        def step(self, frame: Frame | Prepared) -> Frame:
            frame = frame.frame if isinstance(frame, Prepared) else frame
            return replace(frame, pixels=frame.pixels.as_subclass(torch.Tensor) // 2)

    run(Counting(400), Null(), Copy(), depth=4)
    assert most <= 4 + 2  # depth, the one in the making included; the one in the network; the one the loop lets go of


def test_frames_that_the_sink_has_of_an_earlier_run_pass_the_network_by() -> None:
    class Resumed(Sink):
        held = 5

    darker, sink, seen = Darker(), Resumed(), list[int]()
    stats = run(Source(12), sink, darker, on_frame=lambda frame: seen.append(frame.pts))
    assert (darker.steps, stats.frames, stats.taken_over) == (7, 7, 5)
    assert seen == [frame.pts for frame in sink.frames] == [picture(index).pts for index in range(12)]
    for index, frame in enumerate(sink.frames):
        assert torch.equal(frame.pixels, picture(index).pixels // (1 if index < 5 else 2))


@pytest.mark.parametrize("shared", [False, True])
def test_planes_go_to_the_sink_that_takes_them_and_pixels_to_a_view(shared: bool) -> None:
    meant = YuvFormat("yuv420p", matrix=1)

    class InPlanes(Source):
        def __iter__(self) -> Iterator[YuvFrame]:
            for frame in super().__iter__():
                planes = [torch.full(shape, 128, dtype=torch.uint8) for shape in meant.layout.shapes(HEIGHT, WIDTH)]
                yield YuvFrame(tuple(planes), meant, frame.pts, frame.time_base)

    class TakesPlanes(Sink):
        delivery = Delivery(meant, torch.device("cpu"))

    derainer = Derainer("identity", device="cpu")
    for view, kind in ((None, YuvFrame), (side_by_side, Frame)):
        sink, seen = TakesPlanes(), list[object]()
        model = SharedDerainer(derainer, FifoLock()) if shared else derainer
        run(InPlanes(3), sink, model, view=view, on_frame=seen.append)
        assert [type(frame) for frame in (*sink.frames, *seen)] == [kind] * 6


# ---------------------------------------------------------------- comparisons


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_side_by_side_is_twice_as_wide(dtype: torch.dtype) -> None:
    view, info = comparison("side", INFO)
    rainy, clean = picture(1, dtype=dtype), picture(2, dtype=dtype)
    shown = view(rainy, clean)
    assert (info.width, info.height) == (2 * WIDTH, HEIGHT) == (shown.width, shown.height)
    assert torch.equal(shown.pixels[:, :WIDTH].int(), rainy.pixels.int())
    assert torch.equal(shown.pixels[:, WIDTH:].int(), clean.pixels.int())
    assert shown.pts == clean.pts


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_wipe_is_rainy_left_and_clean_right_of_a_line(dtype: torch.dtype) -> None:
    view, info = comparison("wipe", INFO)
    rainy, clean = picture(1, dtype=dtype), picture(2, dtype=dtype)
    untouched = clean.pixels.clone()
    shown = view(rainy, clean).pixels.int()
    assert info == INFO
    assert torch.equal(shown[:, : WIDTH // 2 - 1], rainy.pixels[:, : WIDTH // 2 - 1].int())
    assert torch.equal(shown[:, WIDTH // 2 + 1 :], clean.pixels[:, WIDTH // 2 + 1 :].int())
    assert (shown[:, WIDTH // 2 - 1 : WIDTH // 2 + 1] == torch.iinfo(dtype).max).all()
    assert torch.equal(clean.pixels.int(), untouched.int())


def test_unknown_comparison_is_refused() -> None:
    with pytest.raises(ValueError, match="'diagonal'"):
        comparison("diagonal", INFO)  # type: ignore[arg-type]


def test_run_with_a_comparison_writes_what_the_sink_expects() -> None:
    view, info = comparison("side", INFO)
    sink = Sink()
    run(Source(3), sink, Darker(), view=view)
    assert {(frame.width, frame.height) for frame in sink.frames} == {(info.width, info.height)}


def test_a_view_sees_every_frame_that_is_written_and_no_lead_in() -> None:
    class Still(Source):
        def __iter__(self) -> Iterator[Frame]:
            for pts in range(4):
                yield replace(picture(0), pts=pts)

    def view(rainy: Frame, clean: Frame) -> Frame:
        seen.append((rainy.pts, clean.pts))
        return clean

    sink, darker, seen = Sink(), Darker(), list[tuple[int, int]]()
    darker.remembers = True
    run(Still(), sink, darker, view=view)
    assert darker.steps == 2 + 4
    assert seen == [(frame.pts, frame.pts) for frame in sink.frames] == [(pts, pts) for pts in range(4)]
