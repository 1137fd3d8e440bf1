"""Servers show certificates: by which of them video comes in, and what is said of the others."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamderain.cli.app import cli
from streamderain.errors import InputError
from streamderain.video import open_source
from streamderain.video.address import address
from streamderain.video.connect import connect
from streamderain.video.connection import LostError
from streamderain.video.live import LiveOptions, open_live
from tests.video.clips import write_clip

_SECRET = "hunter2"


def _openssl(*arguments: object, where: Path) -> None:
    if subprocess.run(["openssl", *map(str, arguments)], cwd=where, check=False, capture_output=True).returncode:
        pytest.skip("no OpenSSL 3 here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem`` is an authority; ``good.pem`` and ``other.pem`` are by it, and ``own.pem`` is by nobody."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    made = tmp_path_factory.mktemp("certificates")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    _openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", where=made)
    by_it = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
    for name, host, by in (("good", "localhost", by_it), ("other", "elsewhere", by_it), ("own", "localhost", ())):
        files = ("-keyout", f"{name}.pem", "-out", f"{name}.crt", "-subj", f"/CN={name}")
        _openssl(*new, *by, *files, "-addext", f"subjectAltName=DNS:{host}", where=made)
        with (made / f"{name}.pem").open("a") as both:
            both.write((made / f"{name}.crt").read_text())
    write_clip(made / "x.ts", count=5)
    return made


class _Handler(SimpleHTTPRequestHandler):
    """Wants a password, as cameras do, and counts who gives one."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if given is None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="cam"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        assert isinstance(self.server, Server)
        self.server.passwords.append(given)
        super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves ``folder`` by https with the certificate ``name``."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("localhost", 0), partial(_Handler, directory=folder))
        self.passwords: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()

    def url(self, scheme: str = "https") -> str:
        return f"{scheme}://admin:{_SECRET}@localhost:{self.server_port}/x.ts"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # who refuses a certificate hangs up

    def close(self) -> None:
        self.shutdown()
        self.server_close()


Serve = Callable[[str], Server]


@pytest.fixture
def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    started: list[Server] = []

    def start(name: str) -> Server:
        started.append(Server(folder, name))
        return started[-1]

    yield start
    for server in started:
        server.close()


def _probe(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["probe", *arguments, "--read-timeout", "3s", "--device", "cpu"])


def test_a_certificate_by_a_known_authority_is_accepted(serve: Serve) -> None:
    server = serve("good")
    with open_source(server.url()) as source:
        assert len(list(source)) == 5
    assert server.passwords


@pytest.mark.parametrize(("name", "why"), [("own", "self-signed certificate"), ("other", "Hostname mismatch")])
def test_any_other_is_refused_before_the_password_is_said(serve: Serve, name: str, why: str) -> None:
    server = serve(name)
    for opened in (open_source, lambda url: open_live(url, LiveOptions(open_timeout=3))):
        with pytest.raises(InputError, match=f"its certificate is not accepted: {why}") as raised:
            opened(server.url())
        assert "SSL_CERT_FILE" in str(raised.value)
    told = _probe(server.url())
    assert told.exit_code == 4
    assert f"certificate is not accepted: {why}" in told.output
    assert "--insecure" in told.output
    assert _SECRET not in told.output
    assert not server.passwords


def test_one_that_is_refused_behind_a_redirect_has_a_hint(serve: Serve) -> None:
    away = serve("own").url()

    class Leads(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", away)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Leads) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="--insecure accepts any"):
            open_source(f"http://127.0.0.1:{server.server_port}/x.ts")
        server.shutdown()


def test_insecure_accepts_any(serve: Serve) -> None:
    url = serve("own").url()
    with open_source(url, insecure=True) as source:
        assert len(list(source)) == 5
    with closing(open_live(url, LiveOptions(insecure=True))) as live:
        assert live.info.width == source.info.width
    told = _probe(url, "--insecure")
    assert told.exit_code == 0, told.output


def test_insecure_may_stand_in_a_configuration(serve: Serve, tmp_path: Path) -> None:
    table = '[streams.cam]\ninput = "{}"\noutput = "null:"\nlive = false\nmodel = "classic"\n'
    config = tmp_path / "cameras.toml"
    config.write_text(table.format(serve("own").url()))
    asked = ["run", "--config", str(config), "--device", "cpu"]
    assert CliRunner().invoke(cli, asked).exit_code == 4
    config.write_text(f"insecure = true\n{config.read_text()}")
    told = CliRunner().invoke(cli, asked)
    assert told.exit_code == 0, told.output


def test_rtmps_is_checked_as_well(serve: Serve) -> None:
    where = address(serve("own").url("rtmps"), open_timeout=3.0)
    with pytest.raises(LostError, match="its certificate is not accepted: self-signed"):
        connect(where, read_timeout=2.0, busy=lambda on: None)


def test_a_file_of_certificates_that_is_not_there_is_named(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/none.pem")
    with pytest.raises(InputError, match=r"/none\.pem cannot be read"):
        open_source(serve("good").url())
