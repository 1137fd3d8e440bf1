"""``streamderain compile``: builds engines ahead, so that no run has to wait for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.engines import accessible
from streamderain.cli.options import Size, complete_models, device_options, talk_options, usage_errors, was_given
from streamderain.cli.report import Reporter, counted
from streamderain.errors import EngineError

if TYPE_CHECKING:
    from streamderain.runtime import Job, Plan
    from streamderain.runtime.recipe import EngineRecipe

_EXAMPLES = """\b
Examples:
  streamderain compile fast --size 1280x720 --size 720x1280
  streamderain compile engines/laptop-cpu.toml
  streamderain compile fast --backend tensorrt-rtx --compute-capability 8.6   (no GPU needed)"""


@click.command("compile", epilog=_EXAMPLES)
@click.argument("what", metavar="[MODEL|RECIPE.toml]", default="balanced", shell_complete=complete_models)
@click.option(
    "--size",
    "sizes",
    type=Size(),
    multiple=True,
    metavar="WxH",
    help="Size of the frames; repeatable.  [default: 1280x720]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Frames in a batch: as many as `run --config` has streams with the same model and size.",
)
@device_options
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto (the fastest), inductor, openvino, tensorrt or tensorrt-rtx.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="N.N",
    help="Build for GPUs of this compute capability, such as 8.6, with tensorrt-rtx; needs no GPU; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was built, as JSON.")
@talk_options
@click.pass_context
def compile_command(ctx: click.Context, /, what: str, as_json: bool, verbose: bool, debug: bool, **values: Any) -> None:
    """Build the engines of a model or a recipe, and keep them in the cache.

    An engine is for one size of frames; they are padded to a multiple of 8. Engines that are in the cache already are
    verified and kept. Options on the command line override the recipe.
    """
    reporter = Reporter(verbose=verbose, debug=debug)
    reporter.attach(ctx)
    recipe = _recipe(ctx, what, values)
    from streamderain.runtime.cache import EngineCache
    from streamderain.session import job_for, padded_size

    template = job_for(recipe.model)
    built = []
    with usage_errors():
        plans = _plans(template, recipe)
    targets = recipe.compute_capabilities or (None,)
    jobs = []
    for width, height in recipe.sizes:
        rows, columns = padded_size(template, height, width)
        jobs += [replace(template, height=rows, width=columns, batch=recipe.batch, target=target) for target in targets]
    where = f"on {plans[0]}"
    if recipe.compute_capabilities:
        elsewhere = ", ".join(recipe.compute_capabilities)
        where = f"for GPUs of compute capability {elsewhere}, {plans[0].backend}, {plans[0].precision}"
    reporter.say("start", f"{counted(len(jobs), 'engine')} of {template.model} {where}", engines=len(jobs))
    with accessible(EngineCache(), "written"):
        for job in jobs:
            plans, line = _compile(job, plans, reporter)
            built.append(line)
    if as_json:
        click.echo(json.dumps(built, indent=2))
        return
    for line in built:
        how = f"built in {line['seconds']:.0f} s" if line["built"] else "there already"
        click.echo(f"{line['engine']}: {how}, {line['folder']}")


def _recipe(ctx: click.Context, what: str, values: dict[str, Any]) -> EngineRecipe:
    """The recipe of the command line, whether it names one or stands for one."""
    from streamderain.runtime.recipe import EngineRecipe, read_recipe

    with usage_errors():
        recipe = read_recipe(Path(what)) if what.endswith(".toml") else EngineRecipe(model=what)
    return replace(recipe, **{name: value for name, value in values.items() if was_given(ctx, name)})


def _plans(template: Job, recipe: EngineRecipe) -> tuple[Plan, ...]:
    """What to build with, the best first. Raises EngineError where there is nothing that builds."""
    import torch

    from streamderain.runtime import Plan, backend_of, make_plans
    from streamderain.runtime.tensorrt_rtx import cannot_build

    if not recipe.compute_capabilities:
        plans = make_plans(template, device=recipe.device, precision=recipe.precision, backend=recipe.backend)
        building = tuple(plan for plan in plans if backend_of(plan.backend).builds)
        if not building:
            raise EngineError(
                f"there is nothing to compile: {template.model} runs here on {plans[0].backend}, as it is",
                hint="`streamderain doctor` shows the backends that compile and how to get them",
            )
        return building
    name = "tensorrt-rtx" if recipe.backend == "auto" else recipe.backend
    if name != "tensorrt-rtx":
        raise ValueError(f"--compute-capability is for --backend tensorrt-rtx, got {name!r}")
    precision = "fp16" if recipe.precision == "auto" else recipe.precision
    backend = backend_of(name)
    device = torch.device("cpu")
    if precision not in backend.precisions(device):
        raise ValueError(f"{name} builds {' and '.join(backend.precisions(device))}, got {precision!r}")
    if missing := cannot_build():
        raise EngineError(f"backend {name} cannot be had: {missing}")
    for target in recipe.compute_capabilities:
        if refusal := backend.refuses(replace(template, target=target)):
            raise ValueError(refusal)
    return (Plan(device=device, precision=precision, backend=name),)


def _compile(job: Job, plans: tuple[Plan, ...], reporter: Reporter) -> tuple[tuple[Plan, ...], dict[str, Any]]:
    """Build one; the plans that are left, for where the best cannot build, and what is to be told.

    Raises:
        OSError: the cache cannot be written, whatever is built.
    """
    import time

    from streamderain.runtime import backend_of, ensure, named

    while True:
        plan = plans[0]
        backend, wanted = backend_of(plan.backend), plan.job(job)
        began = time.monotonic()
        try:
            folder, built = ensure(backend, wanted, progress=lambda stage: reporter.say("progress", f"… {stage}"))
        except EngineError as error:
            if len(plans) == 1:
                raise
            plans = plans[1:]
            reporter.say("warning", f"{error}; building for {plans[0]} instead")
            continue
        return plans, {
            "engine": named(backend, wanted),
            "built": built,
            "seconds": round(time.monotonic() - began, 3),
            "folder": str(folder),
        }
