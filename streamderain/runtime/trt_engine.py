"""A serialised TensorRT engine run on torch's tensors; TensorRT and TensorRT-RTX have the same interface for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime.backend import Job
from streamderain.runtime.kernels import read_kernels, write_kernels
from streamderain.runtime.step import Alignment, Distinct, example_inputs, network_of, zero_state

FILE = "network.engine"
_NAME = re.compile(r"(?:in|out)puts?_?(\d+)")


class TensorRTEngine:
    """The network by TensorRT, less what `Distinct` puts back; the alignment by PyTorch on the same stream.

    Outputs are written into buffers that take turns, because a step's state is the next step's input.

    Args:
        library: the imported ``tensorrt`` or ``tensorrt_rtx``.
        kernels: of TensorRT-RTX, the file of those that it has compiled before; see `keep_kernels`.

    Raises:
        RuntimeError: if TensorRT refuses the file: it is of another version or for another GPU.
        ValueError: if the engine's inputs or outputs are not those of the network.
    """

    def __init__(self, library: ModuleType, path: Path, job: Job, *, kernels: Path | None = None) -> None:
        self.batch, self.height, self.width = job.batch, job.height, job.width
        self.device, self.dtype = job.device, job.dtype
        module = network_of(job)
        self._align, self._distinct = Alignment(module), Distinct(module, job)
        self._job = job
        self._kernels: tuple[Path, Any] | None = None
        with torch.cuda.device(job.device):
            self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise RuntimeError(f"TensorRT {library.__version__} refuses it")
            self._context = self._new_context(library, kernels)
        if self._context is None:
            raise RuntimeError(f"TensorRT {library.__version__} has no memory for it on {job.device}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == library.TensorIOMode.INPUT for name in names}
        self._inputs = in_order([name for name in names if is_input[name]])
        outputs = in_order([name for name in names if not is_input[name]])
        shapes = [tuple(self._engine.get_tensor_shape(name)) for name in (*self._inputs, *outputs)]
        if shapes != [*(tuple(tensor.shape) for tensor in example_inputs(job)), *self._distinct.shapes]:
            raise ValueError(f"an engine with inputs and outputs of {shapes} is not of this network")
        self._turns = [
            {
                name: torch.empty(shape, device=job.device, dtype=job.dtype)
                for name, shape in zip(outputs, self._distinct.shapes, strict=True)
            }
            for _ in range(2)
        ]

    def _new_context(self, library: ModuleType, kernels: Path | None) -> Any:
        if kernels is None:
            return self._engine.create_execution_context()
        self._config = self._engine.create_runtime_config()
        # As the engine was built: its memory is PyTorch's, and it never asks for more.
        self._config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = self._config.create_runtime_cache()
        read_kernels(kernels, cache)
        self._config.set_runtime_cache(cache)
        self._kernels = kernels, cache
        context = self._engine.create_execution_context(self._config)
        if context is not None:
            size = self._engine.device_memory_size_v2
            self._memory = torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
            context.set_device_memory(self._memory.data_ptr(), size)
        return context

    def keep_kernels(self) -> None:
        """Write what was compiled for this engine into its file of ``kernels``, for the next time. After a step."""
        if self._kernels is not None:
            write_kernels(*self._kernels)

    def zero_state(self) -> State:
        return zero_state(self._job)

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> None:
        """`step` finds it."""

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        rainy = rainy.contiguous()
        return self.infer(rainy, self._align(rainy, *state) if state else ())

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        inputs = [part.contiguous() for part in (rainy, *state)]
        outputs = self._turns[0]
        self._turns.reverse()
        for name, tensor in (*zip(self._inputs, inputs, strict=True), *outputs.items()):
            self._context.set_tensor_address(name, tensor.data_ptr())
        with torch.cuda.device(self.device):  # whose default stream has no handle of its own
            if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise RuntimeError("TensorRT could not run the engine")
        clean, *rest = self._distinct.complete(inputs, tuple(outputs.values()))
        return clean.clone(), tuple(rest)


def in_order(names: Sequence[str]) -> list[str]:
    """By number, where all are named like "inputs_0" and "output1", as both exporters do it; else as they are."""
    numbers = [int(found[1]) for name in names if (found := _NAME.fullmatch(name))]
    if len(set(numbers)) < len(names):
        return list(names)
    return [name for _, name in sorted(zip(numbers, names, strict=True))]
