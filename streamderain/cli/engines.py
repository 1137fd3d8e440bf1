"""``streamderain engines``: what is in the cache of built engines, whether it is whole, and room for more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from streamderain.cli.options import Bytes, json_option, talk_options
from streamderain.cli.report import Reporter, counted, in_columns, print_facts, size_in_words
from streamderain.errors import EngineError
from streamderain.redaction import in_line

if TYPE_CHECKING:
    from streamderain.runtime.cache import EngineCache, Entry

_DAMAGED = 1


@click.group("engines")
def engines_group() -> None:
    """Show and clean the cache of built engines ($STREAMDERAIN_CACHE)."""


@engines_group.command("list")
@json_option
@talk_options
@click.pass_context
def list_command(ctx: click.Context, as_json: bool, verbose: bool, debug: bool) -> None:
    """List the engines, last used first. No run uses those marked "of another version"."""
    cache = _cache(ctx, verbose=verbose, debug=debug)
    with accessible(cache, "read"):
        entries = cache.entries()
    if as_json:
        click.echo(json.dumps([_as_json(entry) for entry in entries], indent=2))
        return
    rows = [("DIGEST", "FOR", "SIZE", "LAST USED")]
    rows += [(e.digest, _summary(e), size_in_words(e.bytes), _day(e.last_used)) for e in entries]
    for line in in_columns(rows, "<<><"):
        click.echo(line)
    total = size_in_words(sum(entry.bytes for entry in entries))
    click.echo(f"{counted(len(entries), 'engine')}, {total} in {cache.folder}")


@engines_group.command("show")
@click.argument("digest")
@json_option
@talk_options
@click.pass_context
def show_command(ctx: click.Context, digest: str, as_json: bool, verbose: bool, debug: bool) -> None:
    """Print everything known about an engine. The first digits of its digest are enough."""
    entry = _find(_cache(ctx, verbose=verbose, debug=debug), digest)
    if as_json:
        click.echo(json.dumps(_as_json(entry), indent=2))
        return
    lines: list[tuple[str, str]] = [("digest", entry.digest), ("folder", str(entry.folder))]
    if entry.manifest is None:
        lines.append(("damage", entry.damage or ""))
    else:
        manifest = entry.manifest
        lines += [("model", manifest.model), *sorted(manifest.key.items())]
        lines += [("built in", f"{manifest.build_seconds:.1f} s"), ("created", manifest.created)]
        lines += [(f"{name} to PyTorch".replace("_", " "), f"{value:.3g}") for name, value in manifest.parity.items()]
        lines += [("file", f"{name}, {size_in_words(f.bytes)}, {f.sha256}") for name, f in manifest.files.items()]
    lines.append(("last used", _day(entry.last_used)))
    lines = [(in_line(name), value) for name, value in lines]
    print_facts(lines, width=max(len(name) for name, _ in lines))


@engines_group.command("verify")
@json_option
@talk_options
@click.pass_context
def verify_command(ctx: click.Context, as_json: bool, verbose: bool, debug: bool) -> int:
    """Compare the files of every engine with what was built.

    Exits with 1 if one is damaged, which a run builds again, or may not be read.
    """
    cache = _cache(ctx, verbose=verbose, debug=debug)
    findings: list[tuple[Entry, str | None]] = []
    with accessible(cache, "read"):
        for entry in cache.entries():
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                findings.append((entry, cache.verify(entry)))
    if as_json:
        click.echo(json.dumps([{"digest": e.digest, "damage": d} for e, d in findings], indent=2))
    else:
        for entry, damage in findings:
            click.echo(f"{entry.digest}  {'whole' if damage is None else damage}")
    return _DAMAGED if any(damage is not None for _, damage in findings) else 0


@engines_group.command("prune")
@click.option("--max-size", type=Bytes(), metavar="SIZE", help="Keep this much, such as 500MB.  [default: 4GB]")
@click.option("--all", "everything", is_flag=True, help="Remove all engines.")
@json_option
@talk_options
@click.pass_context
def prune_command(
    ctx: click.Context, max_size: int | None, everything: bool, as_json: bool, verbose: bool, debug: bool
) -> None:
    """Remove the engines that were unused for longest. Those being built or loaded now stay."""
    from streamderain.runtime.cache import MAX_BYTES

    if everything and max_size is not None:
        raise click.UsageError("--all and --max-size exclude each other", ctx=ctx)
    cache = _cache(ctx, verbose=verbose, debug=debug)
    limit = -1 if everything else MAX_BYTES if max_size is None else max_size
    with accessible(cache, "written"):
        removed = cache.prune(limit)
        left = len(cache.entries())
    if as_json:
        click.echo(json.dumps([_as_json(entry) for entry in removed], indent=2))
        return
    freed = size_in_words(sum(entry.bytes for entry in removed))
    click.echo(f"{counted(len(removed), 'engine')} removed, {freed}; {counted(left, 'engine')} left")


def _cache(ctx: click.Context, *, verbose: bool, debug: bool) -> EngineCache:
    Reporter(verbose=verbose, debug=debug).attach(ctx)
    from streamderain.runtime.cache import EngineCache

    return EngineCache()


@contextmanager
def accessible(cache: EngineCache, used: Literal["read", "written"]) -> Iterator[None]:
    """Raises EngineError: if the file system refuses it within."""
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"the cache folder {cache.folder} cannot be {used}: {error.strerror}",
            hint="set STREAMDERAIN_CACHE to one that can",
        ) from error


def _find(cache: EngineCache, digest: str) -> Entry:
    with accessible(cache, "read"):
        found = [entry for entry in cache.entries() if entry.digest.startswith(digest.lower())]
    if len(found) != 1:
        what = "no engine has" if not found else f"{len(found)} engines have"
        raise EngineError(f"{what} a digest that begins with {digest!r}", hint="`streamderain engines list` shows them")
    return found[0]


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "digest": entry.digest,
        "folder": str(entry.folder),
        "bytes": entry.bytes,
        "last_used": entry.last_used.isoformat(timespec="seconds"),
        "damage": entry.damage,
        "of_this_version": _of_this_version(entry),
        "manifest": None if entry.manifest is None else asdict(entry.manifest),
    }


def _summary(entry: Entry) -> str:
    if entry.manifest is None:
        return f"damaged: it {entry.damage}" if not entry.forbidden else f"it {entry.damage}"
    key = entry.manifest.key
    target = key.get("option compute capability")
    where = key.get("device", "?") if target is None else f"compute capability {target}"
    batch = key.get("batch", "1")
    size = key.get("size", "?") if batch == "1" else f"{batch} of {key.get('size', '?')}"
    words = (entry.manifest.model, size, key.get("backend", "?"), key.get("precision", "?"), where)
    return in_line(" ".join(words)) + ("" if _of_this_version(entry) else ", of another version")


def _of_this_version(entry: Entry) -> bool:
    """Whether streamderain and PyTorch as they are now would take it; what is damaged they would not."""
    from streamderain.runtime import BACKENDS, backend_of
    from streamderain.runtime.manifest import of_this_version

    if entry.manifest is None:
        return False
    name = entry.manifest.key.get("backend")
    return name in BACKENDS and of_this_version(entry.manifest, backend_of(name))


def _day(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")
