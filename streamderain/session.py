"""One stream's passage through a network: the only owner of its state, its padding and its staging."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.errors import DeviceError
from streamderain.frame import Frame
from streamderain.networks import load_model
from streamderain.runtime import EagerEngine, Engine, Plan, make_plan

_DEFAULT_MODEL = "fast"


class Derainer:
    """A model loaded once, for one device and precision. Immutable: it makes a session per stream.

    Args:
        model: the name of shipped weights (``streamderain models list``) or a .safetensors file of ours.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "fp32" or "fp16".
        backend: "auto" or "eager".
        allow_fallback: run on what there is, and say so, where what was asked for cannot be had.

    Raises:
        ModelError, DeviceError, EngineError: what was asked for cannot be had.
        ValueError: an argument is none of the words above.
    """

    def __init__(
        self,
        model: str | Path = _DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        allow_fallback: bool = False,
    ) -> None:
        self.model = str(model)
        self.plan: Plan = make_plan(device=device, precision=precision, backend=backend, allow_fallback=allow_fallback)
        module, self.spec = load_model(model)
        self._module: nn.Module = module.to(self.plan.device, self.plan.dtype)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub knows it for tensors only

    @property
    def description(self) -> str:
        """What runs on what, in one phrase: "fast on cpu, eager, fp32"."""
        return f"{Path(self.model).stem} on {self.plan}"

    def session(self, height: int, width: int) -> Session:
        """A fresh session for frames of ``height`` x ``width`` px, both at least 1."""
        if height < 1 or width < 1:
            raise ValueError(f"frames must be at least 1x1, got {width}x{height}")
        stride = int(self._module.stride)  # type: ignore[arg-type]
        # A frame smaller than the reach of alignment and of reflection is padded up to 16 px.
        padded = [max(-(-n // stride) * stride, 16 if stride > 1 else 1) for n in (height, width)]
        engine = EagerEngine(self._module, padded[0], padded[1], self.plan.device, self.plan.dtype)
        return Session(engine, height, width)


class Session:
    """Derains the frames of one stream, in order. Not for two threads at once.

    Frames go in and out as ``Frame``: uint8 or uint16 [H, W, 3] on the CPU; size and dtype are kept, as are pts,
    time base and duration. A frame of another size is a ValueError.
    """

    def __init__(self, engine: Engine, height: int, width: int) -> None:
        self._engine = engine
        self.height, self.width = height, width
        self._state = engine.zero_state()

    def reset(self) -> None:
        """Forget the past: after a reconnect, a seek or a gap. Cuts are found by the network itself."""
        self._state = self._engine.zero_state()

    def step(self, frame: Frame) -> Frame:
        """The clean frame for the next rainy one.

        Raises:
            ValueError: if the frame's size is not this session's.
            DeviceError: if the device is out of memory.
        """
        if (frame.height, frame.width) != (self.height, self.width):
            raise ValueError(f"this session is for {self.width}x{self.height} frames, got {frame.width}x{frame.height}")
        try:
            with torch.inference_mode():
                clean, self._state = self._engine.step(self._upload(frame.pixels), self._state)
            pixels = self._download(clean, frame.pixels.dtype)  # an ordinary tensor, which callers may write into
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self._engine.device} is out of memory at {self.width}x{self.height}",
                hint="use --model fast, --precision fp16, or --device cpu",
            ) from error
        return Frame(pixels=pixels, pts=frame.pts, time_base=frame.time_base, duration=frame.duration)

    def _upload(self, pixels: Tensor) -> Tensor:
        """[H, W, 3] integers -> [1, 3, H', W'] 0..1, padded to the engine's size by reflection."""
        engine = self._engine
        top = 255.0 if pixels.dtype == torch.uint8 else 65535.0
        image = pixels.to(engine.device, non_blocking=True).permute(2, 0, 1)[None]
        image = (image.float() / top).to(engine.dtype)
        bottom, right = engine.height - self.height, engine.width - self.width
        while bottom or right:  # a reflection reaches at most one picture less a pixel; tiny frames need several
            down, across = min(bottom, image.shape[-2] - 1), min(right, image.shape[-1] - 1)
            mode = "reflect" if down or across else "replicate"
            down, across = (down, across) if mode == "reflect" else (bottom, right)
            image = F.pad(image, (0, across, 0, down), mode=mode)
            bottom, right = bottom - down, right - across
        return image

    def _download(self, clean: Tensor, dtype: torch.dtype) -> Tensor:
        """[1, 3, H', W'] 0..1 -> [H, W, 3] integers on the CPU, rounded to nearest."""
        top = 255.0 if dtype == torch.uint8 else 65535.0
        image = clean[0, :, : self.height, : self.width].permute(1, 2, 0).float()
        return image.mul(top).round_().clamp_(0.0, top).to(dtype).cpu().contiguous()
