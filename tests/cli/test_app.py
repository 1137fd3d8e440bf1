"""The group of commands: quick to start, one line for every error, and the exit codes that were promised."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

import streamderain
from streamderain import errors
from streamderain.cli import app, cli
from streamderain.networks import NetworkSpec, Provenance, save_checkpoint

from .conftest import Clip

ROOT = Path(__file__).parents[2]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """A command ``fail`` that raises what the test puts under "error"."""
    raised: dict[str, BaseException] = {}

    @click.command("fail")
    @click.option("--debug", is_flag=True)
    @click.pass_context
    def fail(ctx: click.Context, debug: bool) -> None:
        from streamderain.cli.report import Reporter

        Reporter(debug=debug).attach(ctx)
        raise raised["error"]

    original = app._Cli.get_command
    monkeypatch.setattr(
        app._Cli, "get_command", lambda self, ctx, name: fail if name == "fail" else original(self, ctx, name)
    )
    return raised


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"streamderain {streamderain.__version__}\n")


def test_starts_without_torch_av_and_rich() -> None:
    """What makes start-up quick; a time limit would fail on a busy machine and pass on a fast one."""
    script = (
        "import sys; from streamderain.cli import cli\n"
        "for arguments in (['--version'], ['--help'], ['run', '--help'], ['completion', 'zsh']):\n"
        "    try: cli(arguments)\n"
        "    except SystemExit: pass\n"
        "loaded = {'torch', 'av', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StreamderainError("it failed"), 1),
        (errors.OutputError("it failed"), 1),
        (errors.OutputExistsError("it failed"), 2),
        (errors.OutputOptionError("it failed"), 2),
        (errors.InputError("it failed"), 4),
        (errors.UnsupportedInputError("it failed"), 4),
        (errors.ModelError("it failed"), 5),
        (errors.DeviceError("it failed"), 5),
        (errors.EngineError("it failed"), 5),
        (errors.StreamLostError("it failed"), 6),
        (click.UsageError("it failed"), 2),
    ],
)
def test_exit_codes(failing: dict[str, BaseException], error: Exception, code: int) -> None:
    failing["error"] = error
    result = CliRunner().invoke(cli, ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert "it failed" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_is_one_line(failing: dict[str, BaseException]) -> None:
    failing["error"] = errors.InputError("not\na video", hint="try another")
    result = CliRunner().invoke(cli, ["fail"])
    assert result.stderr == "streamderain: not a video: try another\n"


def test_surprise_is_one_line_too(failing: dict[str, BaseException]) -> None:
    failing["error"] = KeyError("width")
    result = CliRunner().invoke(cli, ["fail"])
    assert result.exit_code == 1
    assert result.stderr.startswith("streamderain: internal error: KeyError: 'width'")
    assert result.stderr.count("\n") == 1


def test_interruption_is_130(failing: dict[str, BaseException]) -> None:
    failing["error"] = KeyboardInterrupt()
    result = CliRunner().invoke(cli, ["fail"])
    assert (result.exit_code, result.stderr) == (130, "streamderain: interrupted\n")


def test_reader_that_went_away_is_no_news(failing: dict[str, BaseException]) -> None:
    failing["error"] = BrokenPipeError(32, "Broken pipe")
    result = CliRunner().invoke(cli, ["fail"])
    assert (result.exit_code, result.output) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize(("command", "code"), [("file", 0), ("live", 0), ("config", 0), ("bad", 4), ("usage", 2)])
def test_a_log_that_cannot_be_written_stops_nothing(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    rainy, out, config = clip(), tmp_path / "out.mp4", tmp_path / "all.toml"
    config.write_text(f'model = "identity"\ndevice = "cpu"\n[streams.a]\ninput = "{rainy}"\noutput = "{out}"\n')
    said = ("-m", "identity", "--device", "cpu", "-v")
    arguments: dict[str, tuple[object, ...]] = {
        "file": (*said, rainy, out),
        "live": (*said, rainy, out, "--live", "--frames", 3),
        "config": ("--config", config),
        "bad": (*said, tmp_path / "nothing.mp4", out, "--debug"),
        "usage": (*said, rainy, out, "--adaptive"),
    }
    monkeypatch.setattr("streamderain.cli.report._LINE_EVERY", 0.0)
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - closing it fails as writing does
    monkeypatch.setattr(sys, "stderr", full)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["run", *map(str, arguments[command])])
    finally:
        with contextlib.suppress(OSError):
            full.close()
    assert end.value.code == code
    assert out.exists() == (code == 0)
    assert not out.with_name("out.mp4.part").exists()


@pytest.mark.parametrize("arguments", [[], ["--debug"]])
def test_traceback_only_with_debug_and_without_the_password(
    failing: dict[str, BaseException], arguments: list[str]
) -> None:
    failing["error"] = errors.InputError("not a video")
    failing["error"].__cause__ = OSError("no route to rtsp://admin:hunter2@camera/1")
    result = CliRunner().invoke(cli, ["fail", *arguments])
    assert result.exit_code == 4
    assert ("Traceback" in result.stderr) == ("no route to rtsp://camera/1" in result.stderr) == bool(arguments)
    assert result.stderr.splitlines()[-1] == "streamderain: not a video"
    assert "hunter2" not in result.output


def test_warnings_do_not_spill(failing: dict[str, BaseException]) -> None:
    script = (
        "import sys, warnings, logging, click\n"
        "from streamderain.cli import app, cli\n"
        "@click.command('warn')\n"
        "def warn():\n"
        "    warnings.warn('deprecated'); logging.getLogger('torch.x').warning('spilled')\n"
        "app._Cli.get_command = lambda self, ctx, name: warn\n"
        "cli(['warn'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [["run"], ["run", "a"], ["nonsense"], ["run", "a", "b", "--crf", "x"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("streamderain: ")
    assert "--help" in line


@pytest.mark.parametrize("log", [["--log-format", "json"], ["--log-format=json"]])
@pytest.mark.parametrize(
    "arguments", [["run", "a"], ["run", "a", "b", "--crf", "x"], ["run", "a.mp4", "b.mp4", "--device", "toaster"]]
)
def test_wrong_usage_is_json_where_json_was_asked_for(arguments: list[str], log: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, [*arguments, *log])
    (line,) = result.stderr.splitlines()
    told = json.loads(line)
    assert told["event"] == "error"
    assert told["exit_code"] == result.exit_code


def test_the_help_of_run_has_every_option_once_under_its_heading() -> None:
    shown = CliRunner().invoke(cli, ["run", "--help"]).output
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    for param in command.params:
        if isinstance(param, click.Option):
            assert len(re.findall(rf"^  (?:-\w, )?{param.opts[-1]}\b(?!-)", shown, re.MULTILINE)) == 1, param.name
    headings = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert headings[:5] == ["Options", "Processing", "Input", "Output", "Cameras and streams"]


def test_no_arguments_at_all_show_the_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert "Commands:" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_STREAMDERAIN_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("words", "files", "plain"),
    [
        ("run ra", True, []),
        ("run rainy.mp4 ", True, []),
        ("run rainy.mp4 clear.mp4 -m ba", True, ["balanced"]),
        ("run --config ", True, []),
        ("probe ra", True, []),
        ("compile paper", True, ["paper-a", "paper-b"]),
        ("bench fa", True, ["fast"]),
        ("bench --input ", True, []),
        ("models show q", True, ["quality"]),
        ("models verify fast q", True, ["quality"]),
        ("en", False, ["engines"]),
    ],
)
def test_bash_completes_files_and_models(words: str, files: bool, plain: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COMP_WORDS", f"streamderain {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    monkeypatch.setenv("_STREAMDERAIN_COMPLETE", "bash_complete")
    answer = CliRunner().invoke(cli, [], prog_name="streamderain").output
    monkeypatch.delenv("_STREAMDERAIN_COMPLETE")
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    # What bash gives the function, and what it takes: completions, else (compopt -o default) names of files.
    within = """
    complete() { :; }; env() { printf '%s' "$ANSWER"; }; compopt() { echo "compopt $1 $2"; }
    eval "$SCRIPT"; COMP_WORDS=($WORDS); COMP_CWORD=1; COMPREPLY=(); _streamderain_completion streamderain
    printf '%s\n' "${COMPREPLY[@]}"
    """
    given = {**os.environ, "ANSWER": answer, "SCRIPT": script, "WORDS": words}
    taken = subprocess.run(["bash", "-c", within], env=given, capture_output=True, text=True, check=True)
    assert [line for line in taken.stdout.splitlines() if line] == ["compopt -o default"] * files + plain
    assert not taken.stderr


def test_completion_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "streamderain run --comp")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("_STREAMDERAIN_COMPLETE", "bash_complete")
    result = CliRunner().invoke(cli, [], prog_name="streamderain")
    assert result.output == "plain,--compare\n"


def test_models_list_and_show() -> None:
    listed = CliRunner().invoke(cli, ["models", "list"])
    assert listed.exit_code == 0
    assert listed.stdout.splitlines()[0].split()[:2] == ["NAME", "PARAMETERS"]
    cards = json.loads(CliRunner().invoke(cli, ["models", "list", "--json"]).stdout)
    names = [card["name"] for card in cards]
    assert "identity" in names
    rows = {line.split()[0]: line.split()[1:3] for line in listed.stdout.splitlines()}
    for name in names:
        card = json.loads(CliRunner().invoke(cli, ["models", "show", name, "--json"]).stdout)
        assert card["name"] == name
        assert rows[name] == [f"{card['parameters']:,}", f"{card['macs_720p'] / 1e9:.1f}"]
        assert {"parameters", "macs_720p", "sha256", "licence", "scores", "trained_on"} <= set(card)
        shown = CliRunner().invoke(cli, ["models", "show", name])
        assert (shown.exit_code, name in shown.stdout) == (0, True)
        if card["sha256"] is not None:  # the header knows one run, and the card of what ships knows all
            lines = dict(line.strip().split("  ", 1) for line in shown.stdout.splitlines())
            assert (lines["parameters"], lines["sha256"]) == (rows[name][0], card["sha256"])
            assert lines["at 1280x720"] == f"{rows[name][1]} GMAC a frame"
            assert lines["last run"] == f"{card['steps']:,} steps, seed {card['seed']}"
            assert "## Training" in Path(lines["card"]).read_text()


def test_a_strangers_card_is_shown_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    weights = tmp_path / "strange.safetensors"
    spec = NetworkSpec("identity")
    card = Provenance(
        summary="\x1b[2J half \ud800 of it",
        licence="any",
        trained_on="two\nlines",
        scores={"\x1b]0;x\a": {"psnr": 30.0}},
    )
    save_checkpoint(weights, spec.build(), spec, card, half=False)
    shown = CliRunner().invoke(cli, ["models", "show", str(weights)])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert all(line.isprintable() for line in shown.stdout.splitlines())
    lines = dict(line.strip().split("  ", 1) for line in shown.stdout.splitlines())
    assert (lines["summary"], lines["trained on"]) == ("?[2J half ? of it", "two?lines")
    assert (
        json.loads(CliRunner().invoke(cli, ["models", "show", str(weights), "--json"]).stdout)["summary"]
        == card.summary
    )


def test_scores_are_told_by_protocol_and_name(tmp_path: Path) -> None:
    weights, spec = tmp_path / "some.safetensors", NetworkSpec("identity")
    card = Provenance(steps=12_000, seed=3, scores={"stills": {"clips": 8, "first": {"ssim": 0.9}, "psnr": 30.12345}})
    save_checkpoint(weights, spec.build(), spec, card, half=False)
    shown = CliRunner().invoke(cli, ["models", "show", str(weights)]).stdout
    lines = dict(line.strip().partition("  ")[::2] for line in shown.splitlines())
    assert lines["score"] == "stills: clips 8, first ssim 0.9, psnr 30.12"
    assert (lines["name"], lines["last run"]) == ("some", "12,000 steps, seed 3")


@pytest.mark.parametrize("name", ["nonsense", "x" * 300, "x" * 300 + ".safetensors"])
def test_unknown_model_is_5(name: str) -> None:
    result = CliRunner().invoke(cli, ["models", "show", name])
    assert result.exit_code == 5
    assert result.stderr.startswith("streamderain: ")
    assert name in result.stderr


def test_doctor_tells_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import av
    import torch

    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 0
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert torch.__version__ in found["PyTorch"]["detail"]
    assert av.__version__ in found["PyAV"]["detail"]
    there, _, absent = found["encoders"]["detail"].partition("; absent: ")
    assert "libx264" in there.split(", ")
    assert "libx264" not in absent.split(", ")
    assert found["cache folder"]["state"] == "ok"
    assert "0 engines" in found["cache folder"]["detail"]
    assert found["backend eager"]["state"] == "ok"
    for name in ("inductor", "tensorrt", "tensorrt-rtx"):
        finding = found[f"backend {name}"]
        assert finding["state"] in ("ok", "missing")
        assert finding["detail"], "what is missing says how to get it, or why not"
    plain = CliRunner().invoke(cli, ["doctor"])
    assert plain.exit_code == 0
    assert torch.__version__ in plain.stdout


def test_doctor_says_which_weights_load_and_what_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamderain import networks

    whole = networks.load_model

    def load(name: str) -> object:
        if name == "damaged":
            raise errors.ModelError("the weights are damaged")
        return whole(name)

    monkeypatch.setattr(networks, "load_model", load)
    monkeypatch.setattr(networks, "model_names", lambda: ("identity", "damaged"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert (found["models"]["state"], found["models"]["detail"]) == ("ok", "these load: identity")
    assert (found["model damaged"]["state"], found["model damaged"]["detail"]) == ("broken", "the weights are damaged")
    assert "OMP_NUM_THREADS is 1" in found["PyTorch"]["detail"]


def test_doctor_tells_of_a_machine_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    def load(name: str) -> object:
        return none() if name == "odd" else None

    monkeypatch.setattr("tempfile.gettempdir", none)
    monkeypatch.setattr("streamderain.networks.load_model", load)
    monkeypatch.setattr("streamderain.networks.model_names", lambda: ("odd", "even"))
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    place = found["temporary folder"]
    assert (place["state"], place["detail"]) == ("broken", "none can be written")
    assert place["hint"] == "set TMPDIR to a folder that can be written"
    assert "No usable temporary directory" in found["model odd"]["detail"]
    assert found["models"]["detail"] == "these load: even"


def test_doctor_survives_what_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(blocked / "cache"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: 1 / 0)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 0
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert found["cache folder"]["state"] == "broken"
    assert "STREAMDERAIN_CACHE" in found["cache folder"]["hint"]
    assert found["PyTorch"]["state"] == "broken"


@pytest.mark.parametrize("spoken", [True, False])
def test_doctor_tells_which_protocols_there_are(monkeypatch: pytest.MonkeyPatch, spoken: bool) -> None:
    import av
    import av.error

    from streamderain.video import ffmpeg

    if spoken:
        monkeypatch.setattr(ffmpeg, "speaks", lambda _: True)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    (found,) = [one for one in json.loads(result.stdout)["findings"] if one["name"] == "protocols"]
    reads, sends = (
        set(part.split(", ")) for part in re.split(r"; sends |; ", found["detail"].removeprefix("reads "))[:2]
    )
    known = set()
    for scheme in ("rtsp", "rtmp", "http", "udp", "tcp", "srt"):
        try:
            av.open(f"{scheme}://127.0.0.1:1/x", timeout=0.5)
        except av.error.ProtocolNotFoundError:
            continue
        except (av.error.FFmpegError, OSError):
            known.add(scheme)
    known |= {"srt"} if spoken else set()
    assert reads & {"rtsp", "rtmp", "http", "udp", "tcp", "srt"} == known
    assert sends & {"rtsp", "rtmp", "http", "udp", "tcp", "srt"} == known - {"http"}
    assert ("srt" in found["hint"]) == ("srt" not in known)


@pytest.mark.parametrize(("build", "state"), [("opencv-python-headless", "missing"), ("opencv-python", "ok")])
def test_doctor_does_not_praise_an_opencv_without_windows(
    monkeypatch: pytest.MonkeyPatch, build: str, state: str
) -> None:
    monkeypatch.setattr("streamderain.cli.doctor._version", lambda _: f"{build} 5.0")
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    (found,) = [one for one in json.loads(result.stdout)["findings"] if one["name"] == "OpenCV"]
    assert found["state"] == state
    assert ("pip uninstall opencv-python-headless" in found["hint"]) == (state == "missing")


def test_doctor_loads_opencv_before_it_praises_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libxcb.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr("streamderain.cli.doctor._version", lambda _: "opencv-python 5.0")
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    (found,) = [one for one in json.loads(result.stdout)["findings"] if one["name"] == "OpenCV"]
    assert found["state"] == "missing"
    assert "libxcb.so.1" in found["detail"]


def test_models_verify_runs_each_and_finds_the_one_that_is_spoilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec("streaming", {"channels": [4, 8, 8]})
    good, loud, torn = (tmp_path / f"{name}.safetensors" for name in ("good", "loud", "torn"))
    network = spec.build()
    save_checkpoint(good, network, spec, Provenance(), half=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1000.0)
    save_checkpoint(loud, network, spec, Provenance(), half=False)
    torn.write_bytes(good.read_bytes()[:-100])
    assert CliRunner().invoke(cli, ["models", "verify", str(good), "identity"]).exit_code == 0
    monkeypatch.setattr("streamderain.networks.model_names", lambda: ("identity",))
    every = CliRunner().invoke(cli, ["models", "verify"])
    assert (every.exit_code, every.stdout) == (0, "✓ identity  loads, and changes a painted clip by 0 of 1\n")
    result = CliRunner().invoke(cli, ["models", "verify", str(good), str(loud), str(torn)])
    assert result.exit_code == 5
    assert [line[0] for line in result.stdout.splitlines()] == ["✓", "✗", "✗"], result.stdout
    assert "spoils a painted clip" in result.stdout
