"""What people get wrong at the command line is told in one line; what the program gets wrong keeps its traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamderain.networks import NetworkSpec, Provenance, load_checkpoint, read_provenance, save_checkpoint
from streamderain.networks.quantise import Calibration, Rounding, calibration_of, with_calibration
from streamderain.runtime.manifest import sha256_of
from tests.training.pictures import background, write, write_side_by_side
from training import command
from training.camera import simulate_camera, smallest_still
from training.data import split
from training.errors import UsageError
from training.recipe import ClipData, ClipOptimiser, Optimiser, PairData, load_recipe

_RECIPE = """
name = "tiny"
[network]
architecture = "streaming"
options = { channels = [4, 8, 8], encoder_blocks = [1, 1, 1], decoder_blocks = [1, 1] }
[data]
stills = ["*.png"]
clips = []
[optimiser]
steps = 2
warm_up = 0
batch = 1
frames = 2
patch = 32
"""
_PAIRS = """
name = "tiny"
task = "pairs"
[network]
architecture = "prenet"
options = { channels = 4, blocks = 1, stages = 2 }
[data]
folder = "pairs"
[optimiser]
steps = 2
warm_up = 0
batch = 1
patch = 16
[loss]
ssim = 1.0
"""

Fails = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``r.toml``, a folder ``shards``, and weights of a larger network, ``large.safetensors``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(_RECIPE)
    (tmp_path / "shards").mkdir()
    tensors = {"pictures": torch.zeros(2, 3, 4, 3, 40, 40, dtype=torch.uint8), "motion": torch.zeros(2, 3, 2, 9, 9)}
    save_file(tensors, tmp_path / "shards" / "shard.safetensors")
    large = NetworkSpec("streaming", {"channels": (8, 8, 12), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1)})
    save_checkpoint(tmp_path / "large.safetensors", large.build(), large, Provenance(), half=False)
    return tmp_path


@pytest.fixture
def fails(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command line that fails, and gives what it says: one line, with the exit code of wrong usage."""

    def call(line: str, *, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["training", *line.split()])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == code
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return call


_TRAIN = "train r.toml --shards shards --run run"


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("patch", "path", "unknown ['path']; it takes"),
        ("patch = 32", "patch = ", "r.toml is no TOML"),
        ('name = "tiny"', 'name = "tiny"\ncard = 5', "r.toml: card must be a table, got 5"),
        ("steps = 2", "steps = 2\nvalidate_every = 1", "--validation"),
        ("steps = 2", "epochs = 2", "give steps"),
        ("frames = 2", "frames = 4", "lower frames or patch"),
        ("patch = 32", "patch = 30", "patch must be a multiple of 8, got 30"),
        ("patch = 32", "patch = 64", "3 frames and 40 px"),
        ("clips = []", "clips = []\nforeground_share = 5", "foreground_share must be a share, 0 to 1, got 5"),
        ('"streaming"', '"streamin"', "r.toml.network: unknown network architecture 'streamin': known: identity"),
        ("encoder_blocks", "encoder_blocs", "(StreamingNet.__init__() got an unexpected keyword argument 'encoder_b"),
        ("[1, 1] }", "[1, 1], memory = 3 }", "r.toml.network: network 'streaming' does not take the options"),
    ],
)
def test_mistakes_in_a_recipe(was: str, now: str, says: str, here: Path, fails: Fails) -> None:
    (here / "r.toml").write_text(_RECIPE.replace(was, now))
    assert says in fails(_TRAIN)


_KEYS = [  # of both kinds of recipe; where, what it says, what it must be
    ("", 'name = "../esc"', "letters, digits"),
    ("", 'name = "my/net"', "letters, digits"),
    ("", 'name = ".net"', "letters, digits"),
    ("", 'name = ""', "letters, digits"),
    ("", "name = 3", "a text"),
    ("", 'seed = "x"', "a whole number"),
    ("", "seed = 1.5", "a whole number"),
    ("", "seed = -1", "0 to 4294967295"),
    ("optimiser", 'steps = "6"', "a whole number"),
    ("optimiser", "steps = 6.5", "a whole number"),
    ("optimiser", "steps = -1", "0 or above"),
    ("optimiser", "batch = true", "a whole number"),
    ("optimiser", "batch = 2.0", "a whole number"),
    ("optimiser", 'learning_rate = "1e-3"', "a number"),
    ("optimiser", "learning_rate = 0", "above 0"),
    ("optimiser", "learning_rate = nan", "above 0"),
    ("optimiser", "ema = 1.5", "below 1"),
    ("optimiser", "ema = true", "a number"),
    ("optimiser", "betas = 0.9", "a list of 2 numbers"),
    ("optimiser", "betas = [0.9, 0.99, 0.9]", "a list of 2 numbers"),
    ("optimiser", "betas = [0.9, 1.5]", "below 1"),
    ("optimiser", "clip_norm = -1", "0 or above"),
    ("optimiser", "warm_up = -5", "0 or above"),
    ("optimiser", "validate_every = -1", "0 or above"),
    ("optimiser", 'milestones = ["3"]', "a list of whole numbers"),
    ("optimiser", "milestones = [-1, 3]", "at least 1, got -1"),
    ("card", "summary = 3", "a text"),
]
_CLIP_KEYS = [
    ("data", 'stills = "stills/*.png"', "a list of texts"),
    ("data", 'validation_clips = "a.mp4"', "a list of texts"),
    ("data", "held_out_stills = 0.6", "below 0.5"),
    ("data", "patch = 60.5", "a whole number"),
    ("optimiser", "frames = 3.0", "a whole number"),
    ("loss", "floor = 0", "above 0"),
    ("loss", "floor = -1", "above 0"),
    ("loss", 'temporal = "100"', "a number"),
    ("loss", "structure = -1", "0 or above"),
]
_PAIR_KEYS = [
    ("data", "folder = 3", "a text"),
    ("data", "stride = 0", "at least 1"),
    ("data", 'flips = "no"', "true or false"),
    ("data", "validation_crop = -1", "0 or above"),
    ("loss", "stages = []", "one weight or more"),
    ("loss", "stages = 1.0", "a list of numbers"),
    ("loss", "threshold = 2", "a share"),
]


@pytest.mark.parametrize(
    ("text", "table", "says", "must"),
    [(f"{_RECIPE}[loss]\n[card]", *key) for key in _KEYS + _CLIP_KEYS]
    + [(f"{_PAIRS}[card]", *key) for key in _KEYS + _PAIR_KEYS],
)
def test_a_value_of_a_wrong_kind_or_size(text: str, table: str, says: str, must: str, here: Path, fails: Fails) -> None:
    key = says.split(" = ")[0]
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} = ")]
    lines.insert(lines.index(f"[{table}]") + 1 if table else 0, says)
    (here / "r.toml").write_text("\n".join(lines))
    where = f"r.toml.{table}" if table else "r.toml"
    assert re.search(rf"^error: {where}: {key} must .*{re.escape(must)}", fails(_TRAIN))


def test_a_key_that_is_missing_is_named(here: Path, fails: Fails) -> None:
    (here / "r.toml").write_text(_RECIPE.replace("patch = 32\n", ""))
    assert "r.toml.optimiser: patch is missing; it must be a whole number" in fails(_TRAIN)


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ('"prenet"\noptions', '"identity"\n#', "pairs train networks for single pictures that learn, got 'identity'"),
        ('folder = "pairs"', 'folder = "pairs"\nlayout = "rain1000"', "layout must be 'auto' or one of ('rain100',"),
        ("ssim = 1.0\n", "", "[loss] asks for nothing"),
        ("patch = 16", "patch = 8", "8x8 is too small for SSIM, whose window has 11 px"),
        ("patch = 16", "patch = 16\nvalidate_every = 1", "8x8 is too small for SSIM"),
    ],
)
def test_what_pairs_cannot_be_trained_on(was: str, now: str, says: str, here: Path, fails: Fails) -> None:
    write_side_by_side(here / "pairs", 8)
    text = _PAIRS.replace('"pairs"\n[opt', '"pairs"\nvalidation_crop = 8\n[opt')
    (here / "r.toml").write_text(text.replace(was, now))
    assert says in fails("train r.toml --data . --run run")


def test_a_run_that_only_warms_up_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "r.toml").write_text(_RECIPE.replace("warm_up = 0", "warm_up = 2"))
    monkeypatch.setattr(sys, "argv", ["training", *_TRAIN.split()])
    command.main()
    assert "warm_up = 2 takes all 2 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("synthesise a.mp4 b.mp4 --family drizzle", "physical"),
        ("preview r.toml b.png --data . --family drizzle", "physical"),
        ("preview r.toml b.png --data . --size 96", "WIDTHxHEIGHT"),
        ("evaluate r.toml --weights w --data . --size 96x", "WIDTHxHEIGHT"),
        ("demo d --size 16x16", "at least 32 px"),
        (f"{_TRAIN} --checkpoint-every 0", "number from 1 on"),
        ("--threads -1 demo there", "number from 1 on"),
        ("evaluate-video r.toml --data . --models none --real-frames 0", "number from 1 on"),
        ("preview r.toml b.mp4 --data . --seconds nan", "a number above 0, got 'nan'"),
        ("preview r.toml b.zz --data .", "FFmpeg knows no container"),
        ("preview r.toml large.safetensors --data .", "large.safetensors exists already: choose another name"),
        ("synthesise a.mp4 b.mp4 --seed 18446744073709551616", "a number from 0 to 4294967295"),
        ("render r.toml --data . --first -1", "a number from 0 to 4294967295"),
        ("evaluate r.toml --weights w --data . --frames 1", "a number from 2 on"),
        ("evaluate r.toml --weights w --data . --device zz", "--device must be auto, cpu, cuda or cuda:N, got 'zz'"),
        ("evaluate --network prenet --weights w --data . --sheet x.zz", "x.zz has no suffix of a picture: use .bmp"),
        ("evaluate --network prenet --weights w --data . --json shards", "shards is a folder"),
        ("evaluate-video r.toml --data . --models none --frames 2", "a number from 3 on"),
        ("train nothing.toml --run run", "nothing.toml cannot be read: No such file or directory"),
        (f"{_TRAIN} --start large.safetensors", "of the same network or of a smaller one"),
        ("trian r.toml", "see training --help"),
        ("train training.toml --run", "see training train --help"),
    ],
)
def test_mistakes_on_the_command_line(line: str, says: str, fails: Fails) -> None:
    assert says in fails(line).replace("python -m training", "training")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{_TRAIN} --data . --teacher t", "--data, --teacher: for pairs of pictures, and r.toml trains on clips"),
        (f"{_TRAIN} --validation held", "--validation: r.toml has no validate_every"),
        ("train p.toml --data . --run run --shards held", "--shards: for clips, and p.toml"),
        ("train p.toml --data . --run run --teacher t", "--teacher: p.toml has no embedding"),
        ("evaluate p.toml --weights w --data . --part test --frames 3", "--part, --frames: for clips"),
        ("evaluate p.toml --weights w --data . --clean gt", "--clean: for --network; p.toml says it in its [data]"),
        ("evaluate --network prenet --weights w --data . --size 64x64", "--size: for clips"),
        ("evaluate --network prenet --weights w --data . --beside o.json", "--beside: for the table"),
        ("evaluate r.toml --weights w --data . --limit 3 --sheet s.png", "--limit, --sheet: for pairs of pictures"),
    ],
)
def test_options_that_would_do_nothing(line: str, says: str, here: Path, fails: Fails) -> None:
    (here / "p.toml").write_text(_PAIRS)
    assert says in fails(line)


@pytest.mark.parametrize("scores", ["{", "[1, 2]", "\0", None])
def test_scores_that_are_none(scores: str | None, here: Path, fails: Fails) -> None:
    if scores is not None:
        (here / "s.json").write_text(scores)
    text = _RECIPE.replace("[4, 8, 8]", "[8, 8, 12]")
    (here / "r.toml").write_text(text)
    line = "publish r.toml --weights large.safetensors --out out.safetensors --scores s.json"
    assert "name what `evaluate --json` wrote" in fails(line)
    assert not (here / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ("", "is no JSON"),
        ("[{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"psnr": 30.0}', "holds no results of evaluate-video"),
        ('[["model"]]', "holds no results of evaluate-video"),
        ('[{"model": "a", "protocol": {}}]', "holds no results of evaluate-video"),
        (
            '[{"model": "a", "protocol": {"seed": 5}, "kinds": {}, "all": {}, "dry": [], "cut": {}, "real": {}}]',
            "seed (5 there, 1 here)",
        ),
    ],
)
def test_what_is_no_result_of_this_protocol_is_not_added_to(kept: str, says: str, here: Path, fails: Fails) -> None:
    (here / "r.json").write_text(kept)
    err = fails("evaluate-video r.toml --data . --models none --json r.json")
    assert says in err
    assert "name another --json" in err
    assert (here / "r.json").read_text() == kept


def test_a_pair_that_is_none_is_named(here: Path, fails: Fails) -> None:
    for name, side in (("rain/1", 32), ("clean/1", 32), ("rain/2", 32), ("clean/2", 40)):
        write(here / f"{name}.png", background(1, 32, side))
    err = fails("evaluate --network identity --weights identity --data . --layout folders")
    assert "2 is no pair: rain/2.png has 32x32, clean/2.png has 40x32" in err


def test_a_recipe_that_holds_no_pairs_out(here: Path, fails: Fails) -> None:
    write_side_by_side(here / "pairs", 2)
    shipped = (Path(command.__file__).parent / "recipes" / "paper-a-cpu.toml").read_text()
    (here / "p.toml").write_text(shipped.replace("held_out = 0.1", "held_out = 0").replace("rain800/train", "pairs"))
    assert "see held_out in its [data]" in fails("evaluate p.toml --weights paper-a --data .")


@pytest.mark.parametrize(
    "line", ["evaluate r.toml --weights classic", "preview r.toml a.png --part test", "render r.toml --part validation"]
)
def test_a_part_without_files(line: str, here: Path, fails: Fails) -> None:
    (here / "one.png").touch()
    assert "see held_out_stills" in fails(f"{line} --data .")


def test_a_still_that_is_too_small_is_told_before_anything_is_rendered(here: Path, fails: Fails) -> None:
    write(here / "large.png", background(1, 202, 301))
    write(here / "small.png", background(1, 202, 300))
    err = fails("render r.toml --data . --shards new")
    assert "small.png has 300x202, and clips of 384x256 want stills of 301x202 or more" in err
    assert not (here / "new").exists()
    err = fails("preview r.toml a.png --data . --size 640x64")
    assert "large.png has 301x202, and clips of 640x64 want stills of 498x55 or more" in err
    assert smallest_still((256, 384)) == (202, 301)
    simulate_camera(torch.zeros(3, 202, 301), 2, (256, 384), torch.Generator())


def test_a_pattern_that_names_nothing_is_told(here: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "stills" / "a.png", background(1, 8, 8))
    (here / "stills" / "notes.txt").touch()
    (here / "clips").mkdir()
    (here / "clips" / "a.mp4").touch()
    parts = split(ClipData(stills=("stills", "stils/*.png"), clips=("clips",)), here)
    assert [p.name for p in parts["train"].stills + parts["train"].clips] == ["a.png", "a.mp4"]
    assert capsys.readouterr().err == f"stills: nothing under {here} is named by 'stils/*.png'\n"
    (here / "r.toml").write_text(_RECIPE.replace("clips = []", 'clips = ["clip/*.mp4"]').replace('"*.', '"stills/*.'))
    assert "clips: nothing under . is named by 'clip/*.mp4'" in fails("render r.toml --data . --shards new", code=4)
    (here / "r.toml").write_text(_RECIPE.replace('"*.png"', '"/*.png"'))
    assert "stills: '/*.png' is no pattern" in fails("render r.toml --data . --shards new")


def test_failures_of_the_world_have_another_code(here: Path, fails: Fails) -> None:
    assert "no shards in none" in fails("train r.toml --shards none --run run", code=4)
    assert "no weights file w.safetensors" in fails("publish r.toml --weights w.safetensors --out o --scores s", code=5)
    (here / "shards" / "shard.safetensors").write_bytes(b"{")
    assert "cannot read shards/shard.safetensors" in fails(_TRAIN, code=4)
    (here / "broken.png").write_bytes(b"no picture")
    assert "cannot read" in fails("preview r.toml b.png --data . --clips 1 --frames 2", code=4)


@pytest.mark.parametrize(
    "line",
    [
        "evaluate r.toml --weights w --data . --json no/x.json",
        "evaluate --network prenet --weights w --data . --table no/x.md",
        "evaluate-video r.toml --data . --models none --json no/x.json",
        "preview r.toml no/x.png --data .",
        "publish r.toml --weights w --scores s --out no/x.safetensors",
        "calibrate r.toml --weights w --data . --out no/x.safetensors",
    ],
)
def test_outputs_without_a_folder_are_told_before_any_work(line: str, fails: Fails) -> None:
    assert fails(line, code=1) == "error: the folder no does not exist: make it first\n"


def test_a_batch_of_more_patches_than_there_are_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "shards holds 2 patches so far, fewer than a batch of 3: some come several times"
    for batch, said in ((2, ""), (3, few)):
        (here / "r.toml").write_text(_RECIPE.replace("batch = 1", f"batch = {batch}"))
        monkeypatch.setattr(sys, "argv", ["training", *_TRAIN.split(), "--run", f"run{batch}"])
        command.main()
        assert capsys.readouterr().err.strip() == said


def test_an_interrupt_while_libraries_are_imported_is_one_line() -> None:
    code = """
import runpy, signal, sys, time
class Interrupt:
    def find_spec(name, path, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)
            time.sleep(20)
sys.meta_path.insert(0, Interrupt)
runpy.run_module("training", run_name="__main__")
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("half", [True, False])
def test_a_calibration_is_published_with_its_own_weights_or_not_at_all(
    half: bool, here: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _RECIPE.replace("[4, 8, 8]", "[8, 8, 12]")
    (here / "r.toml").write_text(f'{recipe}[card]\nsummary = "mine"\n')
    network, spec = load_checkpoint(here / "large.safetensors")
    save_checkpoint(here / "w.safetensors", network, spec, Provenance(), half=half)
    calibration = Calibration({"stem": Rounding(0.0, 1.0)}, "two clips")
    with_calibration(here / "w.safetensors", calibration, here / "c.safetensors")
    (here / "s.json").write_text(json.dumps({"sha256": sha256_of(here / "c.safetensors")}))
    line = "publish r.toml --weights c.safetensors --scores s.json --out p.safetensors"
    if not half:
        assert "which is not that of the same weights in float16: publish the run's weights, then" in fails(line)
        assert not (here / "p.safetensors").exists()
        return
    monkeypatch.setattr(sys, "argv", ["training", *line.split()])
    command.main()
    assert calibration_of(here / "p.safetensors") == calibration
    assert read_provenance(here / "p.safetensors").summary == "mine"


def test_a_run_that_is_done_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *_TRAIN.split()])
    command.main()
    assert "already" not in capsys.readouterr().err
    command.main()
    assert "has its 2 steps already; raise them in the recipe" in capsys.readouterr().err


def test_mistakes_of_the_program_keep_their_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ValueError("of the program")

    monkeypatch.setattr(command, "load_recipe", broken)
    monkeypatch.setattr(sys, "argv", ["training", *_TRAIN.split()])
    with pytest.raises(ValueError, match="of the program"):
        command.main()


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_are_shares(share: float) -> None:
    for name in ("held_out_stills", "video_share", "visible_share", "clutter_share", "foreground_share"):
        with pytest.raises(ValueError, match=f"{name} must be a share"):
            ClipData(stills=("*.png",), clips=(), **{name: share})  # type: ignore[arg-type]
    for name in ("reset_probability", "dry_share"):
        with pytest.raises(ValueError, match=f"{name} must be a share"):
            ClipOptimiser(steps=1, batch=1, patch=32, frames=2, **{name: share})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="held_out must be a share"):
        PairData(folder="x", held_out=share)


def test_what_is_made_of_stills_wants_stills() -> None:
    for name in ("clutter_share", "foreground_share"):
        with pytest.raises(ValueError, match="stills names none"):
            ClipData(stills=(), clips=("*.mp4",), **{name: 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["batch", "patch"])
def test_counts_begin_at_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Optimiser(**{"steps": 1, "batch": 1, "patch": 32, name: 0})  # type: ignore[arg-type]


def test_a_recipe_that_is_no_text_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"r\.toml is no TOML.*training/recipes"):
        load_recipe(tmp_path / "r.toml")
