"""--hud, --preview and --metrics on recordings: what is burnt in, what is said, and what is refused."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import click.testing
import numpy as np
import pytest
from click.testing import CliRunner

from streamderain.cli import cli

from .conftest import Clip

pytestmark = pytest.mark.timeout(120)


def run(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(cli, ["run", "-m", "identity", "--device", "cpu", *map(str, arguments)])


def pictures(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_hud_is_in_the_corner_and_nowhere_else(clip: Clip, tmp_path: Path) -> None:
    rainy, plain, hud = clip(width=320, height=240), tmp_path / "plain.mp4", tmp_path / "hud.mp4"
    assert run(rainy, plain, "--crf", 1).exit_code == 0
    assert run(rainy, hud, "--crf", 1, "--hud").exit_code == 0
    difference = np.abs(pictures(hud) - pictures(plain)).mean(axis=(0, 3))
    assert difference[:16, :60].mean() > 20
    assert difference[60:].mean() < 1


def test_where_to_look_is_said(clip: Clip) -> None:
    web, numbers = free_port(), free_port()
    result = run(clip(), "null:", "--preview", web, "--metrics", f"localhost:{numbers}", "--log-format", "json")
    assert result.exit_code == 0, result.stderr
    said = {event["event"]: event for event in map(json.loads, result.stderr.splitlines())}
    assert said["preview"]["url"] == f"http://127.0.0.1:{web}/"
    assert said["metrics"]["url"] == f"http://localhost:{numbers}/metrics"


def test_a_phone_is_told_where_to_look_when_it_may(clip: Clip) -> None:
    web = free_port()
    line = run(clip(), "null:", "--preview", f"0.0.0.0:{web}").stderr.splitlines()[0]
    assert line.startswith(f"streamderain: preview at http://127.0.0.1:{web}/")
    elsewhere = line.partition(", from other machines at http://")[2]  # nothing on a machine without a network
    assert elsewhere == "" or (elsewhere.endswith(f":{web}/") and not elsewhere.startswith(("0.", "127.")))


@pytest.mark.parametrize("value", ["eighty", "http://0.0.0.0:80", "0", "65536"])
def test_what_is_no_address_is_wrong_usage(clip: Clip, value: str) -> None:
    result = run(clip(), "null:", "--preview", value)
    assert result.exit_code == 2
    assert "is not an address" in result.stderr


def test_pictures_are_not_watched(clip: Clip, tmp_path: Path) -> None:
    folder = tmp_path / "stills"
    folder.mkdir()
    assert run(clip(), folder / "f%03d.png").exit_code == 0
    result = run(folder, tmp_path / "out", "--hud")
    assert result.exit_code == 2
    assert "--hud is for videos" in result.stderr
