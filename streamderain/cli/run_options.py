"""What was asked of ``run``, and the model that this makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from streamderain.cli.options import usage_errors
from streamderain.errors import DeviceError, EngineError

if TYPE_CHECKING:
    from streamderain.session import Build, Derainer, DerainerLike

Kind = Literal["file", "live", "pictures"]


def make_derainer(of: Kind, *, backend: str, build: Build | None, **model: Any) -> Derainer:
    """The derainer that ``run`` makes for one kind of input, and ``probe`` tells of.

    A live input never waits for a compiler unless it is told to, and pictures, each of a size of its own, are not worth
    one, unless int8 is asked for, which only compiled networks have.

    Args:
        model: of `Derainer`.

    Raises: as `Derainer`.
    """
    from streamderain.session import Derainer

    compiled = backend != "auto" or of != "pictures" or model["precision"] == "int8"
    return Derainer(
        backend=backend if compiled else "eager",
        build=build or ("ready" if of == "live" else "auto"),
        **model,
    )


def load_derainer(options: RunOptions, of: Kind) -> Derainer:
    """The derainer that ``options`` ask for.

    Raises:
        ModelError, DeviceError, EngineError: what was asked for cannot be had.
        click.UsageError: for words that mean nothing.
    """
    with usage_errors(), _fallback_hinted(options):
        return make_derainer(of, **options.of_model())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of ``run``, one field each.

    Attributes:
        load: makes the derainer; several streams share theirs.
    """

    model: str
    device: str
    precision: str
    backend: str
    build: Literal["auto", "ready", "never"] | None
    allow_fallback: bool
    codec: str | None
    crf: int | None
    preset: str | None
    encoder_options: tuple[tuple[str, str], ...]
    pix_fmt: str | None
    audio: Literal["copy", "none"]
    subs: Literal["copy", "none"]
    start: float | None
    duration: float | None
    frames: int | None
    compare: Literal["off", "side", "wipe"]
    container: str | None
    frame_rate: Fraction | None
    overwrite: bool
    resume: bool
    on_error: Literal["fail", "conceal"]
    decoder: Literal["auto", "cpu", "nvdec"]
    live: bool | None
    latency: Literal["auto", "all", "realtime"]
    max_age: float | None
    adaptive: bool
    on_loss: Literal["hold", "slate", "pause", "stop"]
    reconnect: bool
    reconnect_limit: float | None
    read_timeout: float
    wait: float
    transport: Literal["auto", "tcp", "udp"]
    insecure: bool
    hud: bool
    preview: tuple[str, int] | None
    metrics: tuple[str, int] | None
    healthy_within: float
    no_progress: bool
    log_format: Literal["text", "json"]
    verbose: bool
    debug: bool
    batch_deadline: float | None
    load: Callable[[RunOptions, Kind], DerainerLike] = load_derainer

    def of_model(self) -> dict[str, Any]:
        """Those that decide what runs on what."""
        names = ("model", "device", "precision", "backend", "build", "allow_fallback")
        return {name: getattr(self, name) for name in names}

    def derainer(self, of: Kind) -> DerainerLike:
        """The derainer for one kind of input. Raises: as `load_derainer`."""
        return self.load(self, of)


@contextmanager
def _fallback_hinted(options: RunOptions) -> Iterator[None]:
    """Names the other way out beside the first, which only this command has."""
    try:
        yield
    except (DeviceError, EngineError) as error:
        if error.hint is None or options.allow_fallback:
            raise
        raise type(error)(error.message, hint=f"{error.hint} or --allow-fallback") from error
