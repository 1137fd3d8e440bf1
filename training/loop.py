"""The training loop of the streaming network, to be read from top to bottom.

Each step back-propagates through a short clip: the state starts empty, the output and hidden features of a frame are
laid on the next by the camera motion found when the clip was rendered, and now and then the state is dropped, as a
scene cut or a reconnect will drop it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from streamderain.networks import Provenance, save_checkpoint
from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import warp
from training.data import ShardReader
from training.losses import clip_loss
from training.recipe import Optimiser, Recipe


def learning_rate(step: int, settings: Optimiser) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    progress = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine


def unroll(network: StreamingNet, pictures: Tensor, motion: Tensor, resets: Tensor) -> list[Tensor]:
    """Run a clip through the network with its own outputs as state.

    Args:
        pictures: [T, 4, B, 3, H, W], 0..1: rainy, previous and before (both aligned), target.
        motion: [T, B, 2, 9, 9] into the last frame.
        resets: [T, B] bool, True where the state is dropped before the frame.

    Returns:
        T outputs [B, 3, H, W], not clamped.
    """
    rainy, previous, before, _ = pictures.unbind(1)
    output = torch.zeros_like(rainy[0])
    hidden: Tensor | None = None
    outputs = []
    for t in range(rainy.shape[0]):
        keep = (~resets[t]).to(rainy.dtype).view(-1, 1, 1, 1)
        if hidden is None:
            height, width = rainy.shape[-2] // 4, rainy.shape[-1] // 4
            hidden = rainy.new_zeros(rainy.shape[1], network.hidden_channels, height, width)
        else:
            output, hidden = warp(output, motion[t]), warp(hidden.float(), motion[t], scale=4.0)
        # The frame before last is not known to a session that was reset one frame ago.
        young = resets[t - 1].view(-1, 1, 1, 1) if t else torch.zeros_like(keep, dtype=torch.bool)
        oldest = torch.where(young, previous[t], before[t])
        clean, _, _, _, hidden, _ = network(rainy[t], previous[t], oldest, output, hidden, keep)
        outputs.append(clean.float())
        output = outputs[-1].clamp(0, 1)
    return outputs


class Run:
    """A run's folder: ``state/`` to resume from, ``log.jsonl``, and ``NAME.safetensors`` with the averaged weights."""

    def __init__(self, recipe: Recipe, folder: Path, shards: Path, *, start: Path | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = recipe.network.build()
        if not isinstance(network, StreamingNet):
            raise ValueError(f"this loop trains streaming networks, got {recipe.network.architecture!r}")
        self.network = network.to(self.device)
        if start is not None:
            self.network.load_state_dict({k: t.float() for k, t in load_file(start).items()})
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = recipe.optimiser
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))  # type: ignore[no-untyped-call]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.reader = ShardReader(shards, recipe.seed)
        self.step = 0
        if (folder / "state" / "progress.json").exists():
            self._resume()

    def train(self, *, checkpoint_every: int = 500, log_every: int = 50) -> None:
        """Go on until the recipe's steps are done."""
        settings = self.recipe.optimiser
        self.network.train()
        begun, first, losses = time.monotonic(), self.step, []
        while self.step < settings.steps:
            losses.append(self._one_step(settings))
            self.step += 1
            if self.step % log_every == 0:
                seconds = (time.monotonic() - begun) / (self.step - first)
                self._log({"step": self.step, "loss": sum(losses) / len(losses), "seconds_per_step": round(seconds, 4)})
                losses = []
            if self.step % checkpoint_every == 0 or self.step == settings.steps:
                self.save()

    def _one_step(self, settings: Optimiser) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        pictures, motion = self.reader.batch(
            self.step, size=settings.batch, frames=settings.frames, patch=settings.patch
        )
        pictures, motion = pictures.to(self.device, non_blocking=True), motion.to(self.device, non_blocking=True)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        resets = torch.rand(pictures.shape[0], pictures.shape[2], generator=generator) < settings.reset_probability
        resets[0] = True
        low = settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            outputs = unroll(self.network, pictures, motion, resets.to(self.device))
        loss = clip_loss(outputs, list(pictures[:, 3]), self.recipe.loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def _log(self, entry: Mapping[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)

    def save(self) -> None:
        """Write the averaged weights, and everything that resuming needs; each file by rename, progress last."""
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        moments = self.optimiser.state_dict()["state"]
        files = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": {f"{i}.{k}": torch.as_tensor(v) for i, slot in moments.items() for k, v in slot.items()},
        }
        for name, tensors in files.items():
            temporary = state / f"{name}.tmp"
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
            temporary.replace(state / f"{name}-{self.step}.safetensors")
        progress = state / "progress.tmp"
        progress.write_text(json.dumps({"step": self.step, "recipe": asdict(self.recipe)}, default=str))
        progress.replace(state / "progress.json")
        for old in state.glob("*-*.safetensors"):
            if not old.name.endswith(f"-{self.step}.safetensors"):
                old.unlink()
        weights = self.folder / f"{self.recipe.name}.safetensors"
        temporary = weights.with_suffix(".tmp")
        origin = Provenance(steps=self.step, seed=self.recipe.seed)
        save_checkpoint(temporary, self.average.module, self.recipe.network, origin, half=False)
        temporary.replace(weights)

    def _resume(self) -> None:
        state = self.folder / "state"
        self.step = json.loads((state / "progress.json").read_text())["step"]
        self.network.load_state_dict(load_file(state / f"network-{self.step}.safetensors"))
        self.average.load_state_dict(load_file(state / f"average-{self.step}.safetensors"))
        flat = load_file(state / f"optimiser-{self.step}.safetensors")
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
