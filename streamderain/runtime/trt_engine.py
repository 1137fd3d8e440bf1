"""A serialised TensorRT engine run on torch's tensors; TensorRT and TensorRT-RTX have the same interface for it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime.backend import Job
from streamderain.runtime.step import Alignment, example_inputs, network_of, zero_state

FILE = "network.engine"


class TensorRTEngine:
    """The network by TensorRT, the alignment by PyTorch on the same stream.

    Inputs and outputs are bound by their position: exporters rename them as they like. Outputs are written into
    buffers that take turns, because a step's state is the next step's input.

    Args:
        library: the imported ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        RuntimeError: if TensorRT refuses the file: it is of another version or for another GPU.
        ValueError: if the engine's inputs or outputs are not those of the network.
    """

    def __init__(self, library: ModuleType, path: Path, job: Job) -> None:
        self.batch, self.height, self.width = job.batch, job.height, job.width
        self.device, self.dtype = job.device, job.dtype
        module = network_of(job)
        self._align = Alignment(module)
        self._job = job
        self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"TensorRT {library.__version__} refuses it")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"TensorRT {library.__version__} has no memory for it on {job.device}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == library.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        outputs = [name for name in names if not is_input[name]]
        expected = example_inputs(job)
        shapes = [tuple(self._engine.get_tensor_shape(name)) for name in self._inputs]
        if shapes != [tuple(tensor.shape) for tensor in expected] or len(outputs) != len(expected):
            raise ValueError(f"an engine with inputs {shapes} and {len(outputs)} outputs is not of this network")
        # clean is as large as rainy, and each part of the state as large as it was
        self._turns = [
            {name: torch.empty_like(like) for name, like in zip(outputs, expected, strict=True)} for _ in range(2)
        ]

    def zero_state(self) -> State:
        return zero_state(self._job)

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> None:
        """`step` finds it."""

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        rainy = rainy.contiguous()
        laid = self._align(rainy, *state) if state else ()
        inputs = [part.contiguous() for part in (rainy, *laid)]
        outputs = self._turns[0]
        self._turns.reverse()
        for name, tensor in (*zip(self._inputs, inputs, strict=True), *outputs.items()):
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise RuntimeError("TensorRT could not run the engine")
        clean, *rest = outputs.values()
        return clean.clone(), tuple(rest)
