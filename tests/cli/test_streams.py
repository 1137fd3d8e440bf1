"""``run --config``: several streams in one process, in this process and in one of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from copy import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import click.testing
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from streamderain.cli import cli
from streamderain.cli.interrupt import Signals
from streamderain.cli.run import run_command
from streamderain.cli.streams import read_config
from streamderain.errors import EngineError
from streamderain.frame import Frame
from streamderain.observe import Observer
from streamderain.runtime import EagerEngine
from streamderain.session import Derainer, DerainerLike, Session
from streamderain.turns import FifoLock, SharedDerainer

from .conftest import Clip, Start, times

EXAMPLE = Path(__file__).parents[2] / "examples/cameras.toml"

pytestmark = pytest.mark.timeout(120)


def run(config: Path, text: str, *arguments: object) -> click.testing.Result:
    config.write_text(text)
    return CliRunner().invoke(cli, ["run", "--config", str(config), *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "cameras.toml"


HEAD = 'model = "identity"\ndevice = "cpu"\n'


def table(name: str, source: Path, target: Path, more: str = "") -> str:
    return f'[streams.{name}]\ninput = "{source}"\noutput = "{target}"\n{more}\n'


def test_every_stream_is_done_with_its_own_options(config: Path, clip: Clip, tmp_path: Path) -> None:
    front, rear = clip("front.mp4"), clip("rear.mp4", frames=20)
    outputs = tmp_path / "f.mp4", tmp_path / "r.mkv"
    more = 'frames = 7\ncompare = "side"\n[streams.rear.encoder-options]\ntune = "grain"'
    result = run(config, HEAD + table("front", front, outputs[0]) + table("rear", rear, outputs[1], more))
    assert result.exit_code == 0, result.stderr
    assert [len(times(output)) for output in outputs] == [12, 7]
    for name in ("front", "rear"):
        assert f"streamderain: {name}: identity on cpu" in result.stderr


def test_frames_of_files_are_counted_whether_anybody_looks_on_or_not(
    config: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observers: list[Observer] = []

    class Kept(Observer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            observers.append(self)

    monkeypatch.setattr("streamderain.observe.Observer", Kept)
    plain, watched = clip("a.mp4", frames=6), clip("b.mp4", frames=7)
    text = HEAD + table("a", plain, Path("null:")) + table("b", watched, Path("null:"), "hud = true")
    assert run(config, text).exit_code == 0
    counts = {one.name: (one.snapshot().state, one.snapshot().processed_frames) for one in observers}
    assert counts == {"a": ("up", 6), "b": ("up", 7)}


def test_a_model_is_loaded_once_for_all(
    config: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    made = Derainer.__init__
    monkeypatch.setattr(Derainer, "__init__", lambda self, *a, **k: (loaded.append(a), made(self, *a, **k))[1])
    text = HEAD + "".join(table(f"s{n}", clip(f"{n}.mp4"), tmp_path / f"o{n}.mp4") for n in range(3))
    assert run(config, text).exit_code == 0
    assert len(loaded) == 1


def test_one_that_fails_leaves_the_others_alone(config: Path, clip: Clip, tmp_path: Path) -> None:
    good, out = clip("good.mp4"), tmp_path / "good_out.mp4"
    text = HEAD + table("bad", tmp_path / "nothing.mp4", tmp_path / "x.mp4") + table("good", good, out)
    result = run(config, text, "--log-format", "json")
    assert result.exit_code == 3, result.stderr
    assert len(times(out)) == 12
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(e["stream"], e["exit_code"]) for e in events if e["event"] == "error"] == [("bad", 4)]
    assert [e["stream"] for e in events if e["event"] == "done"] == ["good"]


def test_all_that_fail_give_their_code(config: Path, tmp_path: Path) -> None:
    result = run(config, HEAD + table("bad", tmp_path / "nothing.mp4", tmp_path / "x.mp4"))
    assert result.exit_code == 4


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        ((0, 0), 0), ((0, 3), 3), ((3, 3), 3), ((0, 6), 3), ((3, 4), 3), ((4, 6), 1), ((5, 6), 1), ((6, 6), 6),
        ((5, 5), 5),
    ],
)  # fmt: skip
def test_the_code_of_all_and_which_of_them_are_lost(
    config: Path, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int], whole: int
) -> None:
    observers: dict[int, Observer] = {}

    def one(ctx: object, source: str, *rest: Any) -> int:
        observers[int(source)] = rest[-1]
        rest[-1].camera_frame()
        return int(source)

    monkeypatch.setattr("streamderain.cli.run._run_one", one)
    assert (
        run(config, "".join(table(f"s{n}", Path(f"{c}"), Path("null:")) for n, c in enumerate(codes))).exit_code
        == whole
    )
    states = {code: observer.snapshot().state for code, observer in observers.items()}
    assert states == {code: "up" if code in (0, 3) else "lost" for code in codes}


def test_what_one_output_is_encoded_with_is_told_without_its_name(config: Path, clip: Clip, tmp_path: Path) -> None:
    result = run(config, HEAD + 'log-format = "json"\n' + table("a", clip(), tmp_path / "out.mp4"))
    (begun,) = (event for event in map(json.loads, result.stderr.splitlines()) if event["event"] == "start")
    assert begun["encoder"] == "libx264 crf 18 yuv420p"
    assert begun["output"] == str(tmp_path / "out.mp4")


def test_a_mark_of_byte_order_is_no_mistake(config: Path) -> None:
    result = run(config, "\ufeff" + HEAD + table("bad", config.with_name("nothing.mp4"), Path("null:")))
    assert result.exit_code == 4, result.stderr


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ('[streams.a]\ninput = "x"', "streams.a has no output"),
        ("speed = 3\n[streams.a]", "no option 'speed'"),
        ("", "no streams"),
    ],
)
def test_errors_of_usage_are_told_as_the_file_says(config: Path, mistake: str, words: str) -> None:
    result = run(config, f'log-format = "json"\n{mistake}')
    assert result.exit_code == 2
    told = json.loads(result.stderr)
    assert (told["event"], told["exit_code"]) == ("error", 2)
    assert words in told["message"]


def test_the_configuration_among_the_examples_is_understood() -> None:
    context = click.Context(run_command, obj=Signals())
    run_command.parse_args(context, ["--config", str(EXAMPLE), "--hud"])
    common, streams = read_config(EXAMPLE, context)
    assert (common.preview, common.metrics) == (("0.0.0.0", 8080), ("127.0.0.1", 9464))
    assert [(stream.name, stream.options.hud) for stream in streams] == [("front", True), ("rear", True)]
    assert streams[0].options.wait == 3600
    assert [stream.options.build for stream in streams] == ["auto", "auto"], "else nothing ever compiles at boot"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("names no streams",)),
        ("streams = 3", ("names no streams",)),
        ("= 3", ("is not TOML",)),
        ("a = " + 3000 * "[", ("is not TOML",)),
        (f"a = {5000 * '1'}", ("is not TOML",)),
        ('[streams.a]\ninput = "x"', ("streams.a has no output",)),
        ('[streams.a]\ninput = "x"\noutptu = "y"', ("streams.a", "no option 'outptu'")),
        (
            '[streams.a]\ninput="x"\noutput="y"\n[streams.b]\ninput="z"\noutput="y"',
            ("streams.b", "output of streams.a"),
        ),
        ('[streams.a]\ninput = "x"\noutput = "y"\nspeed = 3', ("streams.a", "no option 'speed'")),
        ('[streams.a]\ninput = "x"\noutput = "y"\ncrf = "best"', ("streams.a", "crf", "best")),
        ('[streams.a]\ninput = "x"\noutput = "y"\nhud = "yes"', ("streams.a", "hud", "yes")),
        ('[streams.a]\ninput = "x"\noutput = "y"\npreview = 80', ("streams.a", "preview", "above the tables")),
        ('[streams.a]\ninput = "x"\noutput = "y"\nbatch-deadline = 1', ("streams.a", "batch_deadline", "above the")),
        ('batch-deadline = -1\n[streams.a]\ninput = "x"\noutput = "y"', ("batch-deadline", "-1")),
        (
            '[streams.a]\ninput="x"\noutput="o.m3u8"\n[streams.b]\ninput="z"\noutput="file:./o.m3u8"',
            ("streams.b", "output of streams.a"),
        ),
        (
            '[streams.a]\ninput="-"\noutput="y"\n[streams.b]\ninput="-"\noutput="z"',
            ("streams.b", "input of streams.a"),
        ),
        ('no-reconnect = true\n[streams.a]\ninput = "x"\noutput = "y"', ("'no-reconnect'; say reconnect = false",)),
        ('[streams.a]\ninput = "x"\noutput = "y"\nno_live = true', ("'no_live'; say live = false",)),
        ('[streams.a]\ninput="x"\noutput="y"\non-loss="hold"\non_loss="stop"', ("on-loss and on_loss are the same",)),
        ('healthy-within = nan\n[streams.a]\ninput = "x"\noutput = "y"', ("healthy-within", "nan")),
        ('on-loss = "cry"\n[streams.a]\ninput = "x"\noutput = "y"', ("on-loss", "cry")),
    ],
)
def test_what_the_file_cannot_say_is_wrong_usage(config: Path, text: str, words: tuple[str, ...]) -> None:
    result = run(config, text)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_config_stands_alone_and_must_be_there(config: Path, tmp_path: Path) -> None:
    both = CliRunner().invoke(cli, ["run", "--config", str(config), "a.mp4", "b.mp4"])
    missing = CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "none.toml")])
    neither = CliRunner().invoke(cli, ["run"])
    lonely = CliRunner().invoke(cli, ["run", "a.mp4", "b.mp4", "--batch-deadline", "5ms"])
    assert [result.exit_code for result in (both, missing, neither, lonely)] == [2, 2, 2, 2]
    assert "several streams" in lonely.stderr
    assert "the file names INPUT" in both.stderr
    assert "No such file" in missing.stderr
    assert "INPUT" in neither.stderr


def test_what_the_command_line_says_must_suit_every_stream(config: Path, clip: Clip, tmp_path: Path) -> None:
    """As it must where one is run alone; what the file says for all is for those that it suits."""
    stream = table("a", clip("in.mp4"), tmp_path / "out.mp4")
    asked = run(config, HEAD + stream, "--max-age", "200ms")
    assert asked.exit_code == 2
    assert "--max-age is for live inputs" in asked.stderr
    assert run(config, f'{HEAD}max-age = "200ms"\n{stream}').exit_code == 0


BATCHES = 'model = "fast"\ndevice = "cpu"\nbackend = "eager"\ncodec = "ffv1"\nbatch-deadline = 0.5\n'


def begin_together(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream takes its first frame before each has its session: on a busy machine one might be done by then."""
    all_there, session = threading.Barrier(count), SharedDerainer.session

    def waiting(self: SharedDerainer, height: int, width: int) -> Any:
        made = session(self, height, width)
        all_there.wait(60)
        return made

    monkeypatch.setattr(SharedDerainer, "session", waiting)


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_in_batches_streams_come_out_as_they_do_alone_and_one_may_end_first(
    config: Path, clip: Clip, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, counts = ("front", "rear", "side"), (12, 5, 12)
    begin_together(3, monkeypatch)
    clips = [
        clip(f"{name}.mp4", frames=count, speed=n * 9)
        for n, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
    together = [tmp_path / f"{name}_together.mkv" for name in names]
    result = run(config, BATCHES + "".join(map(table, names, clips, together)))
    assert result.exit_code == 0, result.stderr
    assert steps.count(3) >= 4  # of the five that all three have, and what leads into them
    assert "fast on cpu, eager, fp32, in batches of up to 3" in result.stderr  # since the second has begun
    for name, source, output in zip(names, clips, together, strict=True):
        by_itself = tmp_path / f"{name}.mkv"
        options = ["-m", "fast", "--device", "cpu", "--backend", "eager", "--codec", "ffv1"]
        assert CliRunner().invoke(cli, ["run", str(source), str(by_itself), *options]).exit_code == 0
        ours, alone = pictures(output), pictures(by_itself)
        assert len(ours) == len(alone)
        assert max(abs(a - b).max() for a, b in zip(ours, alone, strict=True)) <= 1  # rounded to 8 bits, from 1e-6
        assert sum(abs(a - b).mean() for a, b in zip(ours, alone, strict=True)) < 1e-3


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames went through the network in each step."""
    seen, step = list[int](), EagerEngine.step

    def counted(self: EagerEngine, rainy: torch.Tensor, *rest: Any) -> Any:
        seen.append(len(rainy))
        return step(self, rainy, *rest)

    monkeypatch.setattr(EagerEngine, "step", counted)
    return seen


def test_an_engine_that_breaks_ends_its_streams_with_a_line_each(
    config: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, step = list[int](), EagerEngine.step

    def breaking(self: EagerEngine, rainy: torch.Tensor, *rest: Any) -> Any:
        calls.append(len(rainy))
        if calls.count(2) > 2:
            raise EngineError("the engine is broken")
        return step(self, rainy, *rest)

    monkeypatch.setattr(EagerEngine, "step", breaking)
    begin_together(2, monkeypatch)
    text = BATCHES + "".join(table(f"s{n}", clip(f"{n}.mp4"), tmp_path / f"o{n}.mkv") for n in range(2))
    result = run(config, text)
    assert result.exit_code == 5
    assert calls[-1] == 2
    lines = [line for line in result.stderr.splitlines() if "broken" in line]
    assert sorted(line.split(":")[1].strip() for line in lines) == ["s0", "s1"]
    assert "Traceback" not in result.stderr


def test_on_a_cpu_streams_take_turns_unless_batches_are_asked_for(
    config: Path, clip: Clip, tmp_path: Path, steps: list[int]
) -> None:
    text = "".join(table(f"s{n}", clip(f"{n}.mp4"), tmp_path / f"o{n}.mkv") for n in range(2))
    for head in (BATCHES.replace("batch-deadline = 0.5\n", ""), BATCHES.replace("0.5", "0") + "overwrite = true\n"):
        result = run(config, head + text)
        assert result.exit_code == 0, result.stderr
        assert set(steps) == {1}
        assert "batches" not in result.stderr


def test_without_an_engine_for_batches_streams_take_turns_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, frames: Callable[[int], list[Frame]]
) -> None:
    def only_single(self: Derainer, height: int, width: int, *, batch: int = 1) -> Any:
        if batch > 1:
            raise EngineError("there is no engine yet for this", hint="streamderain compile fast --batch 2")
        return self._engine(*self.padded(height, width))

    monkeypatch.setattr(Derainer, "engine", only_single)
    derainer = Derainer("fast", device="cpu", backend="eager", build="ready")
    shared = SharedDerainer(derainer, FifoLock(), streams=2, deadline=0.5)
    sessions = []
    for _ in range(2):
        shared.prepare(48, 64)
        sessions.append(shared.session(48, 64))
    assert [one.step(frames(1)[0]).pixels.shape for one in sessions] == [(48, 64, 3)] * 2
    assert caplog.text.count("--batch 2; the streams take turns meanwhile") == 1
    derainer.build = "never"
    shared = SharedDerainer(derainer, FifoLock(), streams=2, deadline=0.5)
    shared.session(48, 64)
    with pytest.raises(EngineError):
        shared.session(48, 64)


def test_only_streams_of_one_size_have_an_engine_for_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, engine = list[tuple[int, int, int]](), Derainer.engine

    def noted(self: Derainer, height: int, width: int, *, batch: int = 1) -> Any:
        asked.append((height, width, batch))
        return engine(self, height, width, batch=batch)

    monkeypatch.setattr(Derainer, "engine", noted)
    shared = SharedDerainer(Derainer("fast", device="cpu", backend="eager"), FifoLock(), streams=3, deadline=0.5)
    for height in (48, 64, 48):
        shared.prepare(height, 64)
        shared.session(height, 64)
    assert asked == [(48, 64, 1), (64, 64, 1), (48, 64, 3)]


def test_a_copy_that_finds_no_engine_leaves_the_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adaptive ladder's smaller pictures must not take the engines of the whole ones away."""
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    monkeypatch.setattr("streamderain.runtime.backends._AUTO", {"cpu": ("openvino", "eager")})
    shared = SharedDerainer(Derainer("fast", device="cpu", build="ready"), FifoLock())
    smaller = copy(shared)
    smaller.session(24, 32)
    assert smaller.plan.backend == "eager"
    assert shared.plan.backend == "openvino"


def wait_for_data(process: subprocess.Popen[bytes], outputs: list[Path]) -> None:
    until = time.monotonic() + 60
    while not all(Path(f"{one}.part").exists() and Path(f"{one}.part").stat().st_size > 2000 for one in outputs):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)


def test_sigterm_finishes_every_output(config: Path, clip: Clip, tmp_path: Path, start: Start) -> None:
    long = clip("long.mp4", frames=3000)
    outputs = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    config.write_text(HEAD + table("a", long, outputs[0]) + table("b", long, outputs[1]))
    process = start("run", "--config", config)
    wait_for_data(process, outputs)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said.decode()
    assert all(0 < len(times(one)) < 3000 for one in outputs)


def test_a_stream_that_never_begins_does_not_hold_up_the_end(
    config: Path, clip: Clip, tmp_path: Path, start: Start
) -> None:
    silent, out = tmp_path / "silent", tmp_path / "a.mp4"
    os.mkfifo(silent)  # opening it waits for a writer, for ever
    config.write_text(HEAD + table("a", clip("long.mp4", frames=3000), out) + table("b", silent, tmp_path / "b.mp4"))
    process = start("run", "--config", config)
    wait_for_data(process, [out])
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said.decode()
    assert 0 < len(times(out)) < 3000


def test_turns_are_one_at_a_time_and_in_the_order_of_asking() -> None:
    turns, order = FifoLock(), list[str]()
    inside = most = 0

    def take(name: str) -> None:
        nonlocal inside, most
        with turns:
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            order.append(name)
            inside -= 1

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcdef"]
    with turns:
        for number, thread in enumerate(threads, 1):
            thread.start()
            until = time.monotonic() + 10
            while len(turns._waiting) < number:
                assert time.monotonic() < until
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert (most, "".join(order)) == (1, "abcdef")


def test_a_shared_derainer_has_no_more_than_it_can_do() -> None:
    """What it inherited from a `Derainer` without being one failed inside: its engine, its padded size."""
    shared = SharedDerainer(Derainer("identity", device="cpu"), FifoLock())
    told = [name for name in dir(shared) if not name.startswith("_")]
    assert told == sorted(name for name in dir(DerainerLike) if not name.startswith("_"))
    assert (shared.model, shared.description, shared.remembers) == ("identity", "identity on cpu, eager, fp32", False)
    session = shared.session(48, 64)
    assert not [name for name in dir(session) if not name.startswith("_") and not hasattr(session, name)]
    assert not isinstance(shared, Derainer)
    assert not isinstance(session, Session)


def test_shared_sessions_keep_their_own_past(frames: Callable[[int], list[Frame]]) -> None:
    """Two streams in turn through one model come out as each does alone."""
    derainer, turns = Derainer("fast", device="cpu", backend="eager"), FifoLock()
    first, second = frames(1), frames(2)
    alone = [
        [session.step(frame) for frame in stream]
        for stream in (first, second)
        for session in [derainer.session(48, 64)]
    ]
    sessions = [SharedDerainer(derainer, turns).session(48, 64) for _ in range(2)]
    mixed = [[], []]  # type: list[list[Frame]]
    for pair in zip(first, second, strict=True):
        for index, frame in enumerate(pair):
            mixed[index].append(sessions[index].step(frame))
    for one, other in zip(alone, mixed, strict=True):
        assert all(a.pixels.equal(b.pixels) for a, b in zip(one, other, strict=True))


@pytest.fixture
def frames() -> Callable[[int], list[Frame]]:
    def make(seed: int) -> list[Frame]:
        noise = torch.Generator().manual_seed(seed)
        return [
            Frame(torch.randint(0, 256, (48, 64, 3), generator=noise, dtype=torch.uint8), index, Fraction(1, 25))
            for index in range(4)
        ]

    return make


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_says_which_camera_was_lost_and_why(config: Path, clip: Clip, style: str) -> None:
    head = HEAD + "live = true\nframes = 16\n"  # the file ends before, is lost, and begins again
    tables = table("front", clip("f.mp4"), Path("null:")) + table("rear", clip("r.mp4"), Path("null:"))
    quiet = run(config, head + tables, "--log-format", style)
    assert (quiet.exit_code, "is lost" in quiet.stderr) == (0, False), quiet.stderr  # nothing is wrong with a file
    result = run(config, head + tables, "--log-format", style, "--verbose")
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    if style == "text":
        for name in ("front", "rear"):
            assert any(f": {name}: " in line and "is lost: the stream ended" in line for line in lines), result.stderr
            assert any(f": {name}: " in line and "is back after" in line for line in lines), result.stderr
        return
    told = [json.loads(line) for line in lines]
    lost = [event for event in told if event["event"] == "lost"]
    assert {event["stream"] for event in lost} == {"front", "rear"}
    assert all(event["reason"] == "the stream ended" and event["message"].startswith(event["stream"]) for event in lost)
    assert {event["stream"] for event in told if event["event"] == "back"} == {"front", "rear"}
