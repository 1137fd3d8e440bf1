"""Weights on disk: safetensors whose header says which network they are for and where they come from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from streamderain.atomic import write_whole
from streamderain.errors import ModelError
from streamderain.networks.named import NAMED
from streamderain.networks.spec import NetworkSpec, count_macs, count_parameters
from streamderain.redaction import in_line

_HEIGHT_720, _WIDTH_720 = 720, 1280
_DEEPEST = 8  # levels of the scores; those that ship have two
_LISTED, _LONGEST = 8, 500  # tensors in an error, and characters of their names

_WEIGHTLESS = {  # architectures that are models by themselves
    "classic": "nothing learned: minimum over three aligned frames where it rains; baseline and fallback",
    "identity": "changes nothing; for tests and for measuring I/O",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where weights come from; travels in the file's header.

    ``scores`` maps a protocol to its figures, for example {"held-out stills": {"psnr_in": 23.2, "psnr_out": 28.1}}.
    """

    summary: str = ""
    licence: str = ""
    trained_on: str = ""
    steps: int = 0
    seed: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What ``streamderain models show`` tells."""

    name: str
    summary: str
    architecture: str
    parameters: int
    macs_720p: int
    sha256: str | None
    licence: str
    trained_on: str
    steps: int
    seed: int
    scores: Mapping[str, Any]


def save_checkpoint(
    path: str | Path, module: nn.Module, spec: NetworkSpec, provenance: Provenance, *, half: bool
) -> None:
    """Write weights and header; ``half`` stores float16, which is what ships (half the bytes, no measurable loss)."""
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in module.state_dict().items()
    }
    metadata = {"spec": spec.to_json(), "provenance": json.dumps(asdict(provenance), sort_keys=True)}
    write_weights(Path(path), tensors, metadata)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all, with the permissions of any other new file.

    The same content gives the same bytes. A file written by safetensors' own ``save_file`` can be read by its owner
    alone.

    Raises:
        OSError: if it cannot be written.
    """
    # Of no tensors and metadata that is there but empty, safetensors makes what it cannot read.
    write_whole(path, _in_order(save(dict(tensors), dict(metadata) or None)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header sorted: safetensors writes the metadata in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_checkpoint(path: Path) -> tuple[nn.Module, NetworkSpec]:
    """The module with its weights in float32, on the CPU, in eval mode.

    Raises:
        ModelError: if the file is missing, damaged, not ours, or its tensors are not those of its network; the
            first missing and unexpected names are listed, and the others counted.
    """
    spec, _ = _read_header(path)
    with reading(path):
        tensors = load_file(path)
    with torch.device("meta"):  # which takes no memory, whatever a damaged header asks for, and no random numbers
        module = _built(spec, path)
    expected = module.state_dict()
    both = sorted(expected.keys() & tensors.keys())
    wrong = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "other shapes": [
            f"{k}: {tuple(tensors[k].shape)} for {tuple(expected[k].shape)}"
            for k in both
            if tensors[k].shape != expected[k].shape
        ],
        "other types": [
            f"{k}: {tensors[k].dtype} for {expected[k].dtype}"
            for k in both
            if tensors[k].is_floating_point() != expected[k].is_floating_point()
        ],
    }
    if any(wrong.values()):
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong.items())
        raise ModelError(f"{path} does not fit its network {spec.architecture!r} ({told})")
    broken = [k for k, t in tensors.items() if not bool(torch.isfinite(t.float()).all())]
    if broken:
        raise ModelError(f"{path} holds values that are not finite in {_listed(broken)}", hint="get the file again")
    # Copied: what is read is a view of the file, which may be written into.
    module.load_state_dict({k: t.to(expected[k].dtype, copy=True) for k, t in tensors.items()}, assign=True)
    return module.eval(), spec


@contextmanager
def reading(weights: Path) -> Iterator[None]:
    """Raises ModelError: if the file cannot be read within, or is no safetensors."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read weights {weights}: {error}") from error


def _listed(names: Sequence[str]) -> str:
    """The first, and how many more: a wrong file may have thousands, of any length."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{in_line(str(names[:_LISTED]), most=_LONGEST)}{more}"


def _built(spec: NetworkSpec, path: Path) -> nn.Module:
    try:
        return spec.build()
    except ModelError as error:
        raise ModelError(f"{path} cannot be used: {error}") from error


def _read_header(path: Path) -> tuple[NetworkSpec, Provenance]:
    if not os.path.isfile(path):  # a Path's own method raises where a name is too long for the file system
        raise ModelError(f"no weights file {path}", hint="`streamderain models list` shows what is installed")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    if "spec" not in metadata:
        raise ModelError(f"{path} was not written by streamderain: its header names no network")
    try:
        return NetworkSpec.from_json(metadata["spec"]), _provenance(metadata.get("provenance", "{}"))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"the header of {path} is damaged: {in_line(str(error))}") from error


def _provenance(text: str) -> Provenance:
    """Raises: ValueError, TypeError, RecursionError where the text is none."""
    origin = Provenance(**json.loads(text))
    for each in fields(origin):
        value, kind = getattr(origin, each.name), type(getattr(Provenance(), each.name))
        if type(value) is not kind:
            raise TypeError(f"{each.name} of its provenance is no {kind.__name__}")
    if not _shallow(origin.scores, _DEEPEST):
        raise ValueError(f"scores of its provenance are more than {_DEEPEST} levels deep")
    return origin


def _shallow(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inside is None or (levels > 0 and all(_shallow(each, levels - 1) for each in inside))


def read_provenance(path: Path) -> Provenance:
    """Where a weights file comes from, from its header alone. Raises ModelError."""
    return _read_header(path)[1]


def _shelf() -> Path:
    return Path(str(resources.files("streamderain.networks") / "weights"))


def model_names() -> tuple[str, ...]:
    """Names that ``--model`` takes, shipped weights first."""
    return (*sorted(p.stem for p in _shelf().glob("*.safetensors")), *_WEIGHTLESS)


def model_path(model: str | Path) -> Path | None:
    """The weights file of a shipped name or of a path; None for a model without weights.

    Raises:
        ModelError: for a name that is not shipped and no file either.
    """
    if str(model) in _WEIGHTLESS:
        return None
    shipped = _shelf() / f"{model}.safetensors"
    if "/" not in str(model) and os.path.isfile(shipped):
        return shipped
    if str(model) in NAMED:
        raise ModelError(
            f"no weights ship for {str(model)!r}",
            hint="train them with `python -m training` and pass the .safetensors file that it writes",
        )
    path = Path(model)
    if path.suffix == ".safetensors" or os.path.exists(path):
        return path
    raise ModelError(f"no model {str(model)!r}", hint=f"known: {', '.join(model_names())}, or a .safetensors file")


def load_model(model: str | Path) -> tuple[nn.Module, NetworkSpec]:
    """The network of a shipped name or a weights file, in float32 and eval mode.

    Raises:
        ModelError: if there are no such weights, they are damaged, or they are of a network that derains nothing.
    """
    path = model_path(model)
    if path is None:
        spec = NetworkSpec(str(model))
        return spec.build().eval(), spec
    module, spec = load_checkpoint(path)
    if not hasattr(module, "align"):  # the autoencoder of rain, which only teaches
        raise ModelError(f"{path} holds a {spec.architecture}, which derains nothing")
    return module, spec


def describe(model: str | Path) -> ModelCard:
    """The card of a name or a weights file; parameters and MACs are counted, not quoted. Raises ModelError."""
    digest = path = None
    name = str(model)
    if name in NAMED and name not in model_names():
        spec, origin = NAMED[name].spec, Provenance(summary=f"no weights ship: {NAMED[name].summary}")
    elif (path := model_path(model)) is None:
        spec, origin = NetworkSpec(name), Provenance(summary=_WEIGHTLESS[name])
    else:
        spec, origin = _read_header(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.stem
    with torch.device("meta"):
        parameters = count_parameters(spec.build() if path is None else _built(spec, path))
    return ModelCard(
        name=name,
        summary=origin.summary,
        architecture=spec.architecture,
        parameters=parameters,
        macs_720p=count_macs(spec, height=_HEIGHT_720, width=_WIDTH_720),
        sha256=digest,
        licence=origin.licence,
        trained_on=origin.trained_on,
        steps=origin.steps,
        seed=origin.seed,
        scores=origin.scores,
    )


def list_models() -> tuple[ModelCard, ...]:
    """Cards of everything with a name: shipped weights first, then the networks that are there to be trained."""
    shipped = model_names()
    return tuple(describe(name) for name in (*shipped, *(name for name in NAMED if name not in shipped)))
