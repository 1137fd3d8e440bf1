"""The ladder of an adaptive session: when it steps down, when up again, and what smaller pictures do to the frame."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from streamderain import Derainer
from streamderain.adaptive import AdaptiveSession, Rung, ladder
from streamderain.errors import EngineError
from streamderain.frame import Frame
from streamderain.session import Build, DerainerLike, Session
from streamderain.turns import FifoLock, SharedDerainer


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Costly(Derainer):
    """Costs seconds of ``clock`` a frame of 64x48, and less in proportion to the pixels; darkens by 10."""

    def __init__(self, clock: Clock, cost: float, name: str = "costly") -> None:
        self.clock, self.cost, self.name = clock, cost, name
        self.build = "ready"

    @property
    def description(self) -> str:
        return self.name

    def session(self, height: int, width: int) -> Session:
        return _CostlySession(self, height, width)


class Missing(Costly):
    """Has no engine."""

    def prepare(self, height: int, width: int) -> None:
        self.session(height, width)

    def session(self, height: int, width: int) -> Session:
        raise EngineError(f"there is no engine for {width}x{height}")


class _CostlySession(Session):
    def __init__(self, owner: Costly, height: int, width: int) -> None:
        self.owner, self.height, self.width = owner, height, width

    def reset(self) -> None: ...

    def step(self, frame: Frame) -> Frame:
        assert (frame.height, frame.width) == (self.height, self.width)
        self.owner.clock.now += self.owner.cost * frame.height * frame.width / (64 * 48)
        darker = (frame.pixels.int() - 10).clamp(min=0).to(frame.pixels.dtype)
        return Frame(darker, frame.pts, frame.time_base)


def _frame(pixels: torch.Tensor | None = None) -> Frame:
    if pixels is None:
        pixels = torch.full((48, 64, 3), 100, dtype=torch.uint8)
    return Frame(pixels, 0, Fraction(1, 90000))


def _run(session: AdaptiveSession, clock: Clock, seconds: float, interval: float = 0.04) -> None:
    end = clock.now + seconds
    while clock.now < end:
        began = clock.now
        session.step(_frame())
        clock.now = max(clock.now, began + interval)


def test_a_machine_that_keeps_up_stays_with_the_best() -> None:
    clock = Clock()
    session = AdaptiveSession(ladder(Costly(clock, 0.03)), 48, 64, interval=lambda: 0.04, clock=clock)
    _run(session, clock, 30)
    assert session.rung == 0


def test_too_slow_for_two_seconds_takes_the_next_rung_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    rungs = ladder(Costly(clock, 0.1, "big"), [Costly(clock, 0.05, "small")])
    session = AdaptiveSession(rungs, 48, 64, interval=lambda: 0.04, clock=clock)
    _run(session, clock, 1.5)
    assert session.rung == 0
    _run(session, clock, 2)
    assert session.rung == 1
    _run(session, clock, 4)
    assert session.description == "small at 1/2 of the size"
    assert [record.getMessage() for record in caplog.records] == [
        "adaptive: 100 ms a frame is too slow for one every 40 ms: going on with small",
        "adaptive: 50 ms a frame is too slow for one every 40 ms: going on with small at 1/2 of the size",
    ]


def test_the_first_frame_of_each_rung_may_take_its_time() -> None:
    class Loading(Costly):
        """A session's first frame takes a hundred seconds more."""

        def session(self, height: int, width: int) -> Session:
            self.loaded = self.clock.now
            return super().session(height, width)

        @property
        def cost(self) -> float:
            return self.usual + 100 * (self.clock.now == self.loaded)

        @cost.setter
        def cost(self, cost: float) -> None:
            self.usual = cost

    clock = Clock()
    best, cheaper = Loading(clock, 0.5), Loading(clock, 0.5)
    session = AdaptiveSession([Rung(best), Rung(cheaper), Rung(cheaper, 2)], 48, 64, interval=lambda: 1.0, clock=clock)
    _run(session, clock, 150, interval=1.0)
    assert session.rung == 0
    best.cost = 2.0
    _run(session, clock, 150, interval=1.0)
    assert session.rung == 1


def test_the_last_rung_is_kept_however_slow() -> None:
    clock = Clock()
    session = AdaptiveSession(ladder(Costly(clock, 100.0)), 48, 64, interval=lambda: 0.04, clock=clock)
    _run(session, clock, 2000)
    assert session.rung == 2


def _without_the_best(session: AdaptiveSession, clock: Clock) -> float:
    """Seconds from when the best rung is left to when it is tried again."""
    while session.rung == 0:
        _run(session, clock, 0.1, interval=10.0)
    left = clock.now
    while session.rung > 0:
        _run(session, clock, 0.1, interval=10.0)
    return clock.now - left


def test_the_better_rung_is_tried_again_ever_less_often_and_kept_when_the_machine_is_free() -> None:
    clock = Clock()
    best = Costly(clock, 25.0)
    session = AdaptiveSession(ladder(best), 48, 64, interval=lambda: 10.0, clock=clock)
    for wait in (60, 120, 240, 480, 600, 600):
        assert wait <= _without_the_best(session, clock) <= wait + 20
    best.cost = 5.0
    _run(session, clock, 700, interval=10.0)
    assert session.rung == 0
    best.cost = 25.0
    assert _without_the_best(session, clock) <= 60 + 20, "after a success as soon as at first"


def test_a_rung_that_cannot_be_had_on_the_way_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    rungs = [Rung(Costly(clock, 0.1, "big")), Rung(Missing(clock, 0.0, "gone")), Rung(Costly(clock, 0.03, "small"))]
    session = AdaptiveSession(rungs, 48, 64, interval=lambda: 0.04, clock=clock)
    _run(session, clock, 3)
    assert session.description == "small"
    assert caplog.messages == [
        "adaptive: doing without gone: there is no engine for 64x48",
        "adaptive: 100 ms a frame is too slow for one every 40 ms: going on with small",
    ]


def test_a_better_rung_that_is_there_no_more_is_left_out() -> None:
    clock = Clock()
    best = Costly(clock, 2.5, "big")
    session = AdaptiveSession(
        [Rung(best), Rung(Costly(clock, 0.5, "small"))], 48, 64, interval=lambda: 1.0, clock=clock
    )
    _run(session, clock, 10, interval=1.0)
    assert session.description == "small"
    best.__class__ = Missing
    _run(session, clock, 100, interval=1.0)
    assert (session.rung, session.description) == (0, "small")


@pytest.mark.parametrize("at", [1, 2])
def test_where_nothing_may_be_built_what_is_missing_is_told_before_the_first_frame(at: int) -> None:
    clock = Clock()
    made = [Costly(clock, 0.0), Costly(clock, 0.0), Costly(clock, 0.0)]
    made[at] = Missing(clock, 0.0)
    made[at].build = "never"
    with pytest.raises(EngineError, match="no engine for 32x24"):
        AdaptiveSession([Rung(one, 2) for one in made], 48, 64, interval=lambda: 0.04, clock=clock)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_smaller_picture_gives_the_rain_layer_only(dtype: torch.dtype) -> None:
    clock = Clock()
    generator = torch.Generator().manual_seed(1)
    detail = torch.randint(60, 200, (48, 64, 3), generator=generator)
    frame = _frame(detail.to(dtype))
    session = AdaptiveSession([Rung(Costly(clock, 0.0), 2)], 48, 64, interval=lambda: 0.04, clock=clock)
    clean = session.step(frame).pixels.int()
    assert int((detail - 10 - clean).abs().max()) <= 1  # every pixel of detail is there, ten darker


def test_the_rain_layer_has_no_steps_where_it_was_enlarged() -> None:
    session = AdaptiveSession([Rung(Costly(Clock(), 0.0), 4)], 48, 64, interval=lambda: 0.04)
    ramp = torch.arange(64, dtype=torch.uint8)[:, None].expand(48, 64, 3)
    rain = ramp.int() - session.step(_frame(ramp)).pixels.int()  # from 1 to 10: nothing is darker than black
    assert int(rain.max() - rain.min()) > 7
    assert int(rain.diff(dim=1).abs().max()) <= 2


@pytest.mark.parametrize("forget", [False, True])
def test_reset_forgets_the_past(forget: bool) -> None:
    texture = torch.randint(128, (48, 64, 3), generator=torch.Generator().manual_seed(1)).byte()
    session = AdaptiveSession([Rung(Derainer("classic", device="cpu"))], 48, 64, interval=lambda: 0.04)
    session.step(_frame(texture))
    if forget:
        session.reset()
    bright = _frame(texture + 100)
    assert torch.equal(session.step(bright).pixels, bright.pixels) is forget, "to whom the past was darker it is rain"


def test_sizes_that_do_not_divide_are_ordinary() -> None:
    clock = Clock()
    session = AdaptiveSession([Rung(Costly(clock, 0.0), 4)], 47, 61, interval=lambda: 0.04, clock=clock)
    pixels = torch.full((47, 61, 3), 90, dtype=torch.uint8)
    assert torch.equal(session.step(_frame(pixels)).pixels, pixels - 10)


def test_a_ladder_without_rungs_and_a_scale_below_one_are_wrong() -> None:
    with pytest.raises(ValueError, match="none"):
        AdaptiveSession([], 48, 64, interval=lambda: 0.04)
    with pytest.raises(ValueError, match="got 0"):
        Rung(Costly(Clock(), 0.0), 0)


@pytest.mark.parametrize(("asked", "below"), [("auto", "ready"), ("ready", "ready"), ("never", "never")])
@pytest.mark.parametrize("shared", [False, True])
def test_no_picture_stands_still_for_a_compiler_on_the_way(asked: Build, below: Build, shared: bool) -> None:
    def derainer() -> DerainerLike:
        made = Derainer("identity", device="cpu", build=asked)
        return SharedDerainer(made, FifoLock()) if shared else made

    best, cheaper = derainer(), derainer()
    rungs = ladder(best, [cheaper])
    assert [(rung.derainer.build, rung.scale) for rung in rungs] == [(asked, 1), (below, 1), (below, 2), (below, 4)]
    assert cheaper.build == asked, "the caller's own stay as they are"
    assert [rung.derainer.build for rung in ladder(best)] == [asked, below, below]
