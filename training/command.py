"""What ``python -m training`` does: render shards, train, evaluate, synthesise, demonstrate."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from streamderain.errors import StreamderainError
from streamderain.networks import NetworkSpec, Provenance, load_checkpoint, read_provenance, save_checkpoint
from streamderain.networks.checkpoint import model_path
from streamderain.networks.quantise import calibration_of, with_calibration
from streamderain.runtime.manifest import sha256_of
from training.arguments import (
    Parser,
    check_device,
    check_output,
    count_from,
    parse_count,
    parse_number,
    parse_seconds,
    parse_size,
    read_table,
)
from training.clips import ClipTask
from training.data import Split, evaluation_clips, split
from training.errors import UsageError
from training.evaluate import evaluate
from training.loop import Run
from training.pairs import LAYOUTS
from training.parallel import Workers
from training.recipe import ClipRecipe, PairRecipe, load_recipe
from training.render import Rendering, render
from training.restoration import PairTask
from training.style import FAMILIES, PRESETS
from training.task import Task

_OF_CLIPS = ("part", "clips", "frames", "size", "seed")  # options of `evaluate`
_OF_PAIRS = ("layout", "clean", "limit", "table", "beside", "sheet")
_OF_NO_PROTOCOL = ("network", "weights", "sha256", "data", "device", "each")  # in what `evaluate` writes


def _refuse(args: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    """Options that would do nothing, where they are not as they are by default."""
    given = [f"--{name}" for name in options if getattr(args, name) != args.parser.get_default(name)]
    if given:
        raise UsageError(f"{', '.join(given)}: {why}")


def _clip_recipe(path: Path) -> ClipRecipe:
    recipe = load_recipe(path)
    if not isinstance(recipe, ClipRecipe):
        raise UsageError(f"{path} is for pairs of pictures", hint="name a recipe for clips, as streaming-fast.toml")
    return recipe


def _files(recipe: ClipRecipe, args: argparse.Namespace) -> Split:
    files = split(recipe.data, args.data)[args.part]
    if not files.stills and not files.clips:
        raise UsageError(
            f"{args.recipe} leaves no files for the {args.part} part of {args.data}",
            hint="see held_out_stills, validation_clips and test_clips in its [data]",
        )
    return files


def _render(args: argparse.Namespace) -> None:
    recipe = _clip_recipe(args.recipe)
    files = _files(recipe, args)
    rendering = Rendering(data=recipe.data, seed=recipe.seed, part=args.part)
    there = args.count
    for path in render(rendering, files, args.shards, first=args.first, count=args.count, adopt=args.adopt):
        print(path, flush=True)
        there -= 1
    if there:
        which = "all" if there == args.count else f"{there} of the"
        print(
            f"{which} {args.count} shards from {args.first} on were in {args.shards} already;"
            f" for more, go on with --first {args.first + args.count}",
            file=sys.stderr,
        )


def _train(args: argparse.Namespace) -> None:
    recipe = load_recipe(args.recipe)
    workers = Workers.join()
    try:
        task: Task
        if isinstance(recipe, ClipRecipe):
            _refuse(args, ("data", "teacher"), f"for pairs of pictures, and {args.recipe} trains on clips")
            if not recipe.optimiser.validate_every:
                _refuse(args, ("validation",), f"{args.recipe} has no validate_every in its [optimiser]")
            task = ClipTask(recipe, args.shards, validation=args.validation)
            if task.rendered < recipe.optimiser.batch and workers.rank == 0:
                print(
                    f"{args.shards} holds {task.rendered} patches so far, fewer than a batch of"
                    f" {recipe.optimiser.batch}: some come several times",
                    file=sys.stderr,
                )
        elif args.data is None:
            raise UsageError(f"{args.recipe} trains on pairs of pictures", hint="give --data")
        else:
            _refuse(args, ("shards", "validation"), f"for clips, and {args.recipe} trains on pairs of pictures")
            if not recipe.loss.teacher:
                _refuse(args, ("teacher",), f"{args.recipe} has no embedding in its [loss]")
            task = PairTask(recipe, args.data, teacher=args.teacher)
            if workers.rank == 0:
                print(task.found, flush=True)
        run = Run(recipe, task, args.run, workers=workers, start=args.start)
        if run.step >= run.steps and workers.rank == 0:
            print(f"{args.run} has its {run.steps} steps already; raise them in the recipe to go on", file=sys.stderr)
        if recipe.optimiser.warm_up >= run.steps and workers.rank == 0:
            print(
                f"warm_up = {recipe.optimiser.warm_up} takes all {run.steps} steps: the learning rate only rises",
                file=sys.stderr,
            )
        stopped = run.train(checkpoint_every=args.checkpoint_every, tensorboard=args.tensorboard)
    finally:
        workers.leave()
    if stopped:
        raise SystemExit(128 + stopped)


def _what(network: str, weights: str | Path, part: str) -> dict[str, str | None]:
    """What scores are of; ``sha256`` is None where there is nothing learned."""
    path = model_path(weights)
    sha256 = sha256_of(path) if path else None
    return {"network": network, "weights": Path(weights).name, "sha256": sha256, "part": part}


def _evaluate(args: argparse.Namespace) -> None:
    if (args.recipe is None) == (args.network is None):
        raise UsageError("give either a recipe, for what it holds out, or --network, for a folder of pairs")
    check_device(args.device)
    check_output(args.json)
    if args.network is not None or isinstance(load_recipe(args.recipe), PairRecipe):
        _evaluate_pairs(args)
        return
    from streamderain.session import Derainer

    _refuse(args, _OF_PAIRS, f"for pairs of pictures, and {args.recipe} is for clips")
    recipe = _clip_recipe(args.recipe)
    files = _files(recipe, args)
    clips = evaluation_clips(recipe.data, files, stills=args.clips, frames=args.frames, seed=args.seed, size=args.size)
    result = {
        **_what(recipe.name, args.weights, args.part),
        **evaluate(clips, Derainer(args.weights, device=args.device, backend="eager", precision="fp32")),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def _evaluate_pairs(args: argparse.Namespace) -> None:
    from training.evaluate_pairs import evaluate_pairs, find_spec, held_out, open_network, pick
    from training.pairs import find_pairs
    from training.published import guess_set, table
    from training.sheet import Sheet

    _refuse(args, _OF_CLIPS, "for clips; of a recipe's pairs those held out are taken, of --network's all")
    if args.beside and args.table is None:
        raise UsageError("--beside: for the table, and there is no --table")
    check_output(args.table)
    check_output(args.sheet, picture=True)
    recipe = load_recipe(args.recipe) if args.recipe else None
    spec: NetworkSpec | None
    if isinstance(recipe, PairRecipe):
        _refuse(args, ("layout", "clean"), f"for --network; {args.recipe} says it in its [data]")
        name, part, spec = recipe.name, "validation", recipe.network
        pairs = held_out(recipe, args.data)[: args.limit]
        if not pairs:
            raise UsageError(f"{args.recipe} holds out no pairs of {args.data}", hint="see held_out in its [data]")
    else:
        name, part = args.network, "all"
        spec = None if args.network == args.weights else find_spec(args.network)  # None for what ships by that name
        pairs = pick(find_pairs(args.data, layout=args.layout, clean=args.clean), limit=args.limit)
    sheet = Sheet()
    with open_network(spec, args.weights, device=args.device) as derainer:
        result = evaluate_pairs(derainer, pairs, show=sheet.add if args.sheet else None)
    where = {"data": args.data.as_posix(), "layout": pairs[0].layout}
    result = {**_what(name, args.weights, part), **where, **result}
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.table:
        others = [read_table(path) for path in args.beside]
        args.table.write_text(table([result, *others], dataset=None if recipe else guess_set(str(args.data.resolve()))))
    if args.sheet:
        sheet.write(args.sheet)


def _evaluate_video(args: argparse.Namespace) -> None:
    from training.evaluate_video import Ledger, Protocol, gather, measure
    from training.video_table import video_tables

    recipe = _clip_recipe(args.recipe)
    check_output(args.json)
    check_output(args.table)
    protocol = Protocol(
        part=args.part, stills=args.clips, repeats=args.repeats, frames=args.frames, size=args.size,
        seed=args.seed, real=args.real_frames,
    )  # fmt: skip
    kept = Ledger.open(args.json, protocol)
    material = gather(recipe.data, split(recipe.data, args.data)[args.part], protocol, real=args.real)
    kept.fit(material)
    for model in args.models:
        result = measure(model, material, protocol)
        kept.add(result)
        print(json.dumps({"model": result["model"], **result["all"]}), flush=True)
    if args.table:
        args.table.write_text(video_tables(kept.results))


def _preview(args: argparse.Namespace) -> None:
    from training.preview import check_preview, draw, write_preview

    check_preview(args.out, overwrite=args.overwrite)
    recipe = _clip_recipe(args.recipe)
    files = _files(recipe, args)
    clips = draw(
        recipe.data, files, count=args.clips, frames=args.frames, size=args.size, seed=args.seed,
        family=args.family,
    )  # fmt: skip
    shown = write_preview(clips, args.out, columns=args.columns, seconds=args.seconds, overwrite=args.overwrite)
    for description in shown:
        print(description)


def _publish(args: argparse.Namespace) -> None:
    check_output(args.out)
    recipe = load_recipe(args.recipe)
    module, spec = load_checkpoint(args.weights)
    if spec != recipe.network:
        raise UsageError(f"{args.weights} is not of the network of {args.recipe}", hint="name the recipe of its run")
    scores, of_these = read_table(args.scores), _what(recipe.name, args.weights, "")["sha256"]
    if scores.get("sha256") != of_these:
        raise UsageError(
            f"{args.scores} holds scores of other weights: sha256 {scores.get('sha256')},"
            f" and {args.weights} has {of_these}",
            hint="evaluate these first, with --json",
        )
    calibration = calibration_of(args.weights)
    if calibration is not None and not _is_float16(module):
        raise UsageError(
            f"{args.weights} holds an int8 calibration, which is not that of the same weights in float16",
            hint="publish the run's weights, then calibrate what that writes",
        )
    origin = Provenance(
        **asdict(recipe.card),
        steps=read_provenance(args.weights).steps,
        seed=recipe.seed,
        scores={key: value for key, value in scores.items() if key not in _OF_NO_PROTOCOL},
    )
    save_checkpoint(args.out, module, spec, origin, half=True)
    if calibration is not None:
        with_calibration(args.out, calibration, args.out)


def _is_float16(network: nn.Module) -> bool:
    """Whether float16 holds its float32 weights without loss."""
    return all(torch.equal(t, t.half().float()) for t in network.state_dict().values() if t.is_floating_point())


def _calibrate(args: argparse.Namespace) -> None:
    from training.calibrate import MOST_LOST, calibrate_weights

    check_output(args.out)
    result = calibrate_weights(
        _clip_recipe(args.recipe), args.weights, args.data, args.out, clips=args.clips, frames=args.frames
    )
    print(json.dumps({**asdict(result), "lost": round(result.lost, 3)}, indent=2))
    if result.lost > MOST_LOST:
        raise SystemExit(f"int8 costs {result.lost:.2f} dB, more than {MOST_LOST}: {args.out} is without calibration")


def _synthesise(args: argparse.Namespace) -> None:
    from streamderain.video import open_sink, open_source
    from training.rain import sample_style
    from training.synthesise import add_rain

    style = sample_style(torch.Generator().manual_seed(args.seed), family=args.family)
    with open_source(args.clip) as source:
        rate = float(source.info.frame_rate or 25)
        with open_sink(args.out, source.info, side=source.side, overwrite=args.overwrite) as sink:
            for frame in add_rain(source, seed=args.seed, style=style, frame_rate=rate):
                sink.write(frame)


def _demo(args: argparse.Namespace) -> None:
    from training.demo import demo

    size = args.size
    args.folder.mkdir(parents=True, exist_ok=True)
    check_output(args.sheet, picture=True)
    demo(args.folder, model=args.model, frames=args.frames, size=size, seed=args.seed)
    if args.sheet:
        from training.scene import street
        from training.sheet import Sheet

        sheet = Sheet(crop=max(16, size[0] // 4))
        at = [args.frames // 3, 2 * args.frames // 3]
        truth = street(args.frames, size, seed=args.seed)
        sheet.add_frames(args.folder / "rainy.mp4", args.folder / "clean.mp4", truth, at)
        sheet.write(args.sheet)


def _parser() -> Parser:
    parser = Parser(prog="python -m training", description=__doc__)
    parser.add_argument("--threads", type=parse_count, help="CPU threads for PyTorch; default: its own choice")
    commands = parser.add_subparsers(required=True)

    shards = commands.add_parser("render", help="render rain clips into shards")
    shards.add_argument("recipe", type=Path)
    shards.add_argument("--data", type=Path, required=True, help="folder that the recipe's paths are under")
    shards.add_argument("--shards", type=Path, default=Path("runs/shards"), help="folder, for one recipe and part")
    shards.add_argument("--first", type=parse_number, default=0, help="number of the first; those that are there stay")
    shards.add_argument("--count", type=parse_count, default=60)
    shards.add_argument("--part", choices=("train", "validation"), default="train")
    shards.add_argument("--adopt", action="store_true", help="go on with a folder's shards though nothing tells whose")
    shards.set_defaults(run_command=_render)

    train = commands.add_parser("train", help="train by a recipe; goes on where it was stopped")
    train.add_argument("recipe", type=Path)
    train.add_argument("--shards", type=Path, default=Path("runs/shards"), help="rendered clips")
    train.add_argument("--data", type=Path, help="folder that the recipe's pairs of pictures are under")
    train.add_argument("--teacher", type=Path, help="weights of the autoencoder of rain, in place of the recipe's")
    train.add_argument("--run", type=Path, required=True, help="folder for checkpoints and weights")
    train.add_argument(
        "--start", type=Path, help="weights to start from; those of a smaller streaming network are grown"
    )
    train.add_argument("--checkpoint-every", type=parse_count, default=500)
    train.add_argument("--validation", type=Path, help="shards of the held-out part, where the recipe validates")
    train.add_argument("--tensorboard", action="store_true", help="write curves into the run's folder")
    train.set_defaults(run_command=_train, parser=train)

    test = commands.add_parser(
        "evaluate",
        help="PSNR and SSIM on what a recipe holds out, or on any pairs of pictures (--network)",
    )
    test.add_argument("recipe", type=Path, nargs="?", help="names the data and its split")
    test.add_argument("--network", help="a network of `streamderain models list`, or a recipe's name")
    test.add_argument("--weights", required=True, help="a shipped model or a .safetensors file")
    test.add_argument("--data", type=Path, required=True)
    test.add_argument("--part", choices=("validation", "test"), default="validation")
    test.add_argument(
        "--clips", type=parse_count, default=12, help="stills taken; videos are repeated to about half as many"
    )
    test.add_argument("--frames", type=count_from(2), default=8)
    test.add_argument("--size", type=parse_size, default=(256, 384))
    test.add_argument("--seed", type=parse_number, default=1)
    test.add_argument("--device", default="auto")
    test.add_argument("--json", type=Path)
    pairs = test.add_argument_group("pairs of pictures")
    pairs.add_argument("--layout", default="auto", choices=("auto", *LAYOUTS))
    pairs.add_argument("--clean", type=Path, help="the clean pictures' folder, where --data has the rainy ones")
    pairs.add_argument("--limit", type=parse_count, help="measure the first N pictures")
    pairs.add_argument("--table", type=Path, help="write Markdown, beside the papers' figures for the set")
    pairs.add_argument("--beside", type=Path, nargs="*", default=[], help="results of other networks, for the table")
    pairs.add_argument("--sheet", type=Path, help="write a contact sheet of rainy, ours and clean, PNG")
    test.set_defaults(run_command=_evaluate, parser=test)

    video = commands.add_parser(
        "evaluate-video",
        help="several models side by side on held-out clips with rendered rain, dry clips, cuts and real rain",
    )
    video.add_argument("recipe", type=Path, help="names the data and its split")
    video.add_argument("--data", type=Path, required=True)
    video.add_argument(
        "--models",
        nargs="+",
        required=True,
        help="names, .safetensors files, `none`, LABEL=FILE (prenet=net.pth); `single:` before one drops its state",
    )
    video.add_argument("--part", choices=("validation", "test"), default="validation")
    video.add_argument("--clips", type=parse_count, default=8, help="stills taken")
    video.add_argument("--repeats", type=parse_count, default=4, help="places taken from each video")
    video.add_argument("--frames", type=count_from(3), default=10, help="of each clip")
    video.add_argument("--size", type=parse_size, default="256x192")
    video.add_argument("--seed", type=parse_number, default=1)
    video.add_argument(
        "--real", type=Path, nargs="*", default=[], help="clips of real rain, or folders of their frames"
    )
    video.add_argument("--real-frames", type=parse_count, default=12, help="of each, three or more")
    video.add_argument("--json", type=Path, help="write results; those of other models that it holds are kept")
    video.add_argument("--table", type=Path, help="write all results of --json as Markdown")
    video.set_defaults(run_command=_evaluate_video)

    preview = commands.add_parser("preview", help="contact sheet or looped clip of rendered rain, to look at")
    preview.add_argument("recipe", type=Path, help="names the data")
    preview.add_argument("out", type=Path, help=".png or .jpg for a sheet, .mp4 or another video for a loop")
    preview.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    preview.add_argument("--data", type=Path, required=True)
    preview.add_argument("--part", choices=("train", "validation", "test"), default="train")
    preview.add_argument("--clips", type=parse_count, default=12)
    preview.add_argument("--frames", type=parse_count, default=25)
    preview.add_argument("--size", type=parse_size, default="384x256")
    preview.add_argument("--columns", type=parse_count, default=3)
    preview.add_argument("--seconds", type=parse_seconds, default=8.0, help="how long the loop goes on")
    preview.add_argument("--seed", type=parse_number, default=0)
    preview.add_argument(
        "--family", choices=FAMILIES + PRESETS, help="of the rain; default: drawn by lot, as in training"
    )
    preview.set_defaults(run_command=_preview)

    publish = commands.add_parser("publish", help="write a run's weights as they ship: float16, with card and scores")
    publish.add_argument("recipe", type=Path)
    publish.add_argument("--weights", type=Path, required=True)
    publish.add_argument("--scores", type=Path, required=True, help="what `evaluate --json` wrote")
    publish.add_argument("--out", type=Path, required=True)
    publish.set_defaults(run_command=_publish)

    calibrate = commands.add_parser("calibrate", help="find how to round weights for int8; writes both into one file")
    calibrate.add_argument("recipe", type=Path, help="names the data and its split")
    calibrate.add_argument("--weights", type=Path, required=True)
    calibrate.add_argument("--data", type=Path, required=True)
    calibrate.add_argument("--out", type=Path, required=True)
    calibrate.add_argument("--clips", type=parse_count, default=16, help="clips of the training part to look at")
    calibrate.add_argument("--frames", type=parse_count, default=10, help="frames of each")
    calibrate.set_defaults(run_command=_calibrate)

    synthesise = commands.add_parser("synthesise", help="render rain over a clean clip")
    synthesise.add_argument("clip")
    synthesise.add_argument("out")
    synthesise.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    synthesise.add_argument("--seed", type=parse_number, default=0)
    synthesise.add_argument("--family", choices=FAMILIES + PRESETS, help="of the rain; default: drawn by seed")
    synthesise.set_defaults(run_command=_synthesise)

    show = commands.add_parser("demo", help="paint a street, let it rain, derain it, measure")
    show.add_argument("folder", type=Path)
    show.add_argument("--model", default="balanced")
    show.add_argument("--frames", type=parse_count, default=100)
    show.add_argument("--size", type=parse_size, default="640x360")
    show.add_argument("--seed", type=parse_number, default=1)
    show.add_argument("--sheet", type=Path, help="write two frames before, after and without rain, .png or .jpg")
    show.set_defaults(run_command=_demo)
    return parser


def main() -> None:
    args = _parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        args.run_command(args)
    except (StreamderainError, OSError, FloatingPointError) as error:  # any other is a mistake of the program's
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
