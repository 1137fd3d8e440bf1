"""--hud, --preview and --metrics: ways to look at a run while it goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.options import Seconds, option, section
from streamderain.cli.report import Reporter

if TYPE_CHECKING:
    from streamderain.cli.run_options import RunOptions
    from streamderain.observe import Observer
    from streamderain.pipeline import View
    from streamderain.session import DerainerLike


class Address(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """[HOST:]PORT."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        from streamderain.web import parse_address

        if isinstance(value, tuple):  # converted already
            return value
        try:
            return parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


#: --preview, --metrics, --healthy-within.
watch_options = section(
    "Watching",
    option(
        "--preview",
        type=Address(),
        metavar="[HOST:]PORT",
        help="Show before and after in a browser; without HOST, on this machine only.",
    ),
    option(
        "--metrics",
        type=Address(),
        metavar="[HOST:]PORT",
        help="Serve /metrics for Prometheus, and /healthz; without HOST, on this machine only.",
    ),
    option(
        "--healthy-within",
        type=Seconds(above_zero=True),
        default="10s",
        help="/healthz answers 503 after this long without a finished frame, or with the output away.",
    ),
    only_for="videos",
    for_all=True,
)


@contextmanager
def watched(observers: Sequence[Observer], options: RunOptions, reporter: Reporter) -> Iterator[None]:
    """Within, the servers that were asked for run; where they are is said.

    Raises:
        StreamderainError: a port is taken.
    """
    with ExitStack() as servers:
        if options.metrics is not None:
            from streamderain.metrics import serve_metrics

            server = servers.enter_context(serve_metrics(observers, options.metrics, idle=options.healthy_within))
            where = f"{server.url}metrics{_from_elsewhere(options.metrics[0], server.port, 'metrics')}"
            reporter.say("metrics", f"metrics at {where}", url=f"{server.url}metrics")
        if options.preview is not None:
            from streamderain.preview import serve_preview

            server = servers.enter_context(serve_preview(observers, options.preview))
            where = f"{server.url}{_from_elsewhere(options.preview[0], server.port)}"
            reporter.say("preview", f"preview at {where}", url=server.url)
        try:
            yield
        finally:
            for observer in observers:
                observer.end()


def _from_elsewhere(host: str, port: int, path: str = "") -> str:
    """Where a phone in the same network finds a server that listens on every address of this machine; else nothing."""
    if host not in ("0.0.0.0", "::"):
        return ""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        try:
            one.connect(("192.0.2.1", 9))  # nothing is sent: the kernel only says from which address it would be
        except OSError:
            return ""  # no network but this machine's own
        address = one.getsockname()[0]
    return f", from other machines at http://{address}:{port}/{path}"


def describe(observer: Observer, derainer: DerainerLike) -> None:
    """Tells the observer what runs on what."""
    from pathlib import Path

    plan = derainer.plan
    observer.describe(
        model=Path(derainer.model).stem, device=str(plan.device), backend=plan.backend, precision=plan.precision
    )


def tell_output(observer: Observer, sink: object) -> None:
    """Tells the observer how a network output is; others are always there and drop nothing."""
    dropped, reconnects = getattr(sink, "dropped", 0), getattr(sink, "reconnects", 0)
    up = getattr(sink, "connected", True)
    if dropped or reconnects or not up:
        observer.tell_output(dropped=dropped, reconnects=reconnects, up=up)


def with_hud(view: View | None, observer: Observer, options: RunOptions) -> View | None:
    """``view``, and if it was asked for the HUD on what it shows."""
    if not options.hud:
        return view
    from streamderain.hud import Hud

    hud = Hud(observer)
    return lambda rainy, clean: hud(clean if view is None else view(rainy, clean))


def observed(view: View | None, observer: Observer) -> View:
    """``view``, telling the observer of every frame: for a pipeline that does not do so itself."""

    def show(rainy: Any, clean: Any) -> Any:
        observer.camera_frame()
        observer.processed(rainy, clean)
        return clean if view is None else view(rainy, clean)

    return show
