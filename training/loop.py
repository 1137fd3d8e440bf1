"""The training loop, to be read from top to bottom; what is trained, and on what, is a task's business."""

from __future__ import annotations

import copy
import math
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from streamderain.networks import Provenance, save_checkpoint
from training.errors import UsageError
from training.growth import begin_from
from training.journal import Journal
from training.parallel import Workers
from training.recipe import Optimiser, Recipe
from training.record import differences
from training.state import moments_of, read_part, read_progress, restore_moments, write_state
from training.task import Task

_Tensors = tuple[Tensor, ...] | list[Tensor]

_MAY_CHANGE = ("card", "optimiser.steps", "optimiser.epochs")  # between the beginning of a run and its going on
_CALMER = "lower learning_rate or clip_norm, or use fp32"  # what helps against it


def count_steps(settings: Optimiser, batches_per_epoch: int) -> int:
    return settings.steps or settings.epochs * batches_per_epoch


def average_decay(step: int, ema: float) -> float:
    """The decay of the average at a step: ``ema``, but less at first, so that a short run's average is of its end.

    It is that of TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``: an average of about the last
    tenth of the steps, until ``ema`` keeps less of them.
    """
    return min(ema, (1 + step) / (10 + step))


def learning_rate(step: int, settings: Optimiser, batches_per_epoch: int = 1) -> float:
    """The rate of a step: linear warm-up, then half a cosine down to the final rate, or the milestones passed."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    if settings.schedule == "step":
        unit = batches_per_epoch if settings.epochs else 1
        return settings.learning_rate * settings.factor ** sum(step >= m * unit for m in settings.milestones)
    total = count_steps(settings, batches_per_epoch)
    progress = (step - settings.warm_up) / max(1, total - settings.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine


class Run:
    """A run's folder: ``state/`` to resume from, ``log.jsonl``, the last weights as ``NAME.safetensors``, averaged
    where the recipe asks for it, and as ``NAME-best.safetensors`` those that validated best."""

    def __init__(
        self, recipe: Recipe, task: Task, folder: Path, *, workers: Workers | None = None, start: Path | None = None
    ) -> None:
        """Begin, or go on from what is in ``folder``.

        Args:
            workers: the processes that train together; None is this one on the CPU.
            start: weights to begin from; a streaming network may begin from a smaller one.

        Raises:
            UsageError: ``folder`` holds a run of another recipe; more steps and another card are no other recipe.
            ModelError, UsageError: ``start`` cannot be read, or does not go into the recipe's network.
        """
        self.recipe, self.task, self.folder = recipe, task, folder
        self.workers = workers or Workers()
        progress = read_progress(folder / "state")
        if progress is not None:
            other = differences(progress["recipe"], recipe, but=_MAY_CHANGE)
            if other:
                raise UsageError(
                    f"{folder} holds a run of another recipe: {', '.join(other)}",
                    hint="name another folder with --run, or go on with the recipe as it was",
                )
        folder.mkdir(parents=True, exist_ok=True)
        settings = recipe.optimiser
        if settings.batch % self.workers.count:
            raise UsageError(f"a batch of {settings.batch} cannot be shared by {self.workers.count} processes")
        self.steps = count_steps(settings, task.batches_per_epoch)

        task.objective.to(self.workers.device)
        self.network = task.objective.network
        if start is not None:
            begin_from(self.network, start)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(self.network, multi_avg_fn=self._follow)
        make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.algorithm]
        self.optimiser = make(
            self.network.parameters(), settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.workers.device.type, enabled=settings.precision == "fp16")
        self.step, self.best = 0, {"step": 0, "score": -math.inf}
        if progress is not None:
            self._resume(progress)

    def train(self, *, checkpoint_every: int = 500, log_every: int = 50, tensorboard: bool = False) -> int:
        """Go on until the recipe's steps are done, or until SIGINT or SIGTERM, which ends the step and saves.

        Returns:
            0, or the number of the signal.

        Raises:
            FloatingPointError: the loss or the weights are no longer numbers; what was saved before stays.
        """
        settings, workers = self.recipe.optimiser, self.workers
        first = workers.rank == 0
        losses: list[Mapping[str, Tensor]] = []
        with (
            Journal(self.folder, step=self.step, total=self.steps, quiet=not first, tensorboard=tensorboard) as journal,
            StopSignal() as stop,
            ThreadPoolExecutor(1) as ahead,  # the next batch is fetched while this one is computed
        ):
            coming = ahead.submit(self._batch, self.step)
            while self.step < self.steps:
                batch = coming.result()
                coming = ahead.submit(self._batch, self.step + 1)
                losses.append(self.advance(*batch))
                journal.tick(self.step)
                if self.step % log_every == 0 or self.step == self.steps:
                    self._stay_finite(losses)
                    journal.note(
                        self.step, {**self._mean(losses), "seconds_per_step": journal.seconds_per_step(self.step)}
                    )
                    losses = []
                if settings.validate_every and (self.step % settings.validate_every == 0 or self.step == self.steps):
                    self._stay_finite(losses)
                    if first:
                        journal.note(self.step, self.validate())
                    workers.wait()
                stopped = workers.any(stop.number != 0)
                if self.step % checkpoint_every == 0 or self.step == self.steps or stopped:
                    self._stay_finite(losses)
                    if first:
                        self.save()
                    workers.wait()
                if stopped:
                    return stop.number or signal.SIGTERM
        return 0

    def _batch(self, step: int) -> tuple[Tensor, ...]:
        return self.task.batch(step, part=self.workers.rank, parts=self.workers.count)

    def advance(self, *batch: Tensor) -> Mapping[str, Tensor]:
        """One step of the optimiser. Returns the loss and its terms."""
        settings = self.recipe.optimiser
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings, self.task.batches_per_epoch)
        loss, terms = self.task.objective(*(t.to(self.workers.device, non_blocking=True) for t in batch))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.workers.average(self.network.parameters())
        if settings.clip_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    @torch.no_grad()
    def _follow(self, average: _Tensors, network: _Tensors, count: object) -> None:
        """Move the average towards the network; ``count`` is ``step`` too, but on the device."""
        torch._foreach_lerp_(average, network, 1 - average_decay(self.step, self.recipe.optimiser.ema))

    def _mean(self, losses: list[Mapping[str, Tensor]]) -> dict[str, float]:
        """The loss and its terms, over steps and processes."""
        means = torch.stack([torch.stack([entry[name] for entry in losses]).mean() for name in losses[0]])
        return dict(zip(losses[0], self.workers.mean(means).tolist(), strict=True))

    @property
    def result(self) -> nn.Module:
        """The network that comes of it: averaged, if the recipe says so."""
        return self.network if self.average is None else self.average.module

    def validate(self) -> dict[str, float]:
        """Figures on the held-out data; the best weights so far are kept."""
        # A copy, so that no mode and no memory of the network that is being trained is touched.
        with torch.no_grad():
            figures = dict(self.task.validate(copy.deepcopy(self.result).eval()))
        if figures["score"] > self.best["score"]:
            self.best = {"step": self.step, "score": figures["score"]}
            self._publish(f"{self.recipe.name}-best", scores={"validation": figures})
        return {f"validation_{name}": value for name, value in figures.items()}

    def _stay_finite(self, losses: list[Mapping[str, Tensor]]) -> None:
        """Before anything is written: the losses not logged yet, and the state, which the last step may have broken.

        A step does not wait for the device to tell its loss; only this does. All processes end together, or none.
        """
        values = torch.stack([entry["loss"] for entry in losses]).tolist() if losses else []
        wrong = next((f"the loss is {value}" for value in values if not math.isfinite(value)), None)
        if wrong is None and not all(
            bool(t.isfinite().all()) for part in self._parts().values() for t in part.values()
        ):
            wrong = "the weights are no longer numbers"
        if self.workers.any(wrong is not None):
            raise FloatingPointError(f"{wrong or 'another process failed'}; step {self.step} is not saved: {_CALMER}")

    def _parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors that resuming needs."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "network": self.network.state_dict(),
            "optimiser": moments_of(self.optimiser),
        }
        if self.average is not None:
            parts["average"] = self.average.state_dict()
        return parts

    def save(self) -> None:
        """Write the last weights, and everything that resuming needs."""
        best = self.best if self.best["step"] else None
        progress = {"best": best, "scaler": self.scaler.state_dict(), "recipe": asdict(self.recipe)}
        write_state(self.folder / "state", self.step, self._parts(), progress)
        self._publish(self.recipe.name, scores={})

    def _publish(self, name: str, *, scores: Mapping[str, Any]) -> None:
        path = self.folder / f"{name}.safetensors"
        origin = Provenance(steps=self.step, seed=self.recipe.seed, scores=scores)
        save_checkpoint(path, self.result, self.recipe.network, origin, half=False)

    def _resume(self, progress: Mapping[str, Any]) -> None:
        state = self.folder / "state"
        self.step = progress["step"]
        self.best = progress.get("best") or self.best
        self.network.load_state_dict(read_part(state, "network", self.step))
        restore_moments(self.optimiser, read_part(state, "optimiser", self.step))
        if self.average is not None:
            self.average.load_state_dict(read_part(state, "average", self.step))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(progress["scaler"])


class StopSignal:
    """While entered, SIGINT and SIGTERM set ``number`` and nothing else; the second one acts as it always did."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {n: signal.signal(n, self._caught) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()
