"""Servers that take a connection and say nothing, or fall silent: the command ends, in time and in one line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamderain.cli.app import cli
from streamderain.errors import InputError
from streamderain.video import open_source
from tests.video.clips import write_clip

_SILENCE = 1.0  # seconds, as --read-timeout
_SECRET = "hunter2"


class Server:
    """Takes every connection on a port of its own, sends ``beginning`` down it, and then says nothing."""

    def __init__(self, beginning: bytes = b"") -> None:
        self._beginning = beginning
        self._links: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._door.accept()
                self._links.append(link)
                if self._beginning:
                    link.recv(4096)
                    link.sendall(self._beginning)

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._door.close()
        for link in self._links:
            link.close()


@pytest.fixture
def silent() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


def ask(*arguments: object) -> tuple[Result, float]:
    began = time.monotonic()
    result = CliRunner().invoke(cli, [*map(str, arguments), "--device", "cpu", "--read-timeout", f"{_SILENCE}s"])
    return result, time.monotonic() - began


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp", "tcp"])
@pytest.mark.parametrize("command", [("probe",), ("run", "--no-live")])
def test_silence_is_one_line_and_exit_code_4_within_the_time_limit(
    silent: Server, scheme: str, command: tuple[str, ...]
) -> None:
    url = f"{scheme}://admin:{_SECRET}@127.0.0.1:{silent.port}/app/x.mp4"
    result, seconds = ask(*command, url, *(["null:"] if command[0] == "run" else []))
    assert result.exit_code == 4, result.output
    (line,) = result.output.splitlines()
    assert f"no answer within {_SILENCE:g} s" in line
    assert f"127.0.0.1:{silent.port} reachable" in line
    assert _SECRET not in result.output
    assert seconds < _SILENCE + 5  # a busy machine's own share; without a limit it would be for ever


def test_a_recording_whose_server_falls_silent_is_an_error_in_time(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", count=100)
    data = (tmp_path / "a.ts").read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with closing(Server(head + data[: len(data) // 2])) as server:
        began = time.monotonic()
        with (
            pytest.raises(InputError, match=r"cannot be read on.*(in time|timed out)"),
            open_source(f"http://127.0.0.1:{server.port}/a.ts", read_timeout=_SILENCE) as source,
        ):
            assert sum(1 for _ in source) > 0
        assert time.monotonic() - began < 3 * _SILENCE + 5
