"""Certificates of servers that video comes from: what has FFmpeg check them, and why one is not accepted."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

_PORTS = {"https": 443, "rtmps": 443}
_CHECKED = {*_PORTS, "http", "tls"}  # http may lead to https
# Where systems keep those that they trust, for a Python that was built for another one.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_TIMEOUT = 5.0  # seconds to ask a server why it was refused
#: What to do about one that is not accepted.
HINT = "name its authority's certificate in SSL_CERT_FILE, or accept any with --insecure"


def checking(uri: str, *, insecure: bool) -> dict[str, str]:
    """FFmpeg's options that have it check the certificate of who serves ``uri``, or, ``insecure``, accept any.

    They do not reach what an HLS playlist names, nor outputs. Certificates of rtsps are checked nowhere.
    """
    if uri.partition("://")[0].lower() not in _CHECKED:
        return {}
    if insecure:
        return {"tls_verify": "0"}
    bundle = _bundle()
    return {"tls_verify": "1"} | ({} if bundle is None else {"ca_file": bundle})


def distrust(uri: str) -> str | None:
    """Why the certificate of who serves ``uri`` is not accepted. None where it is, or where there is none to be had.

    The server is asked once more, for FFmpeg only says that it has failed.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return None
    if parts.scheme.lower() not in _PORTS or host is None:
        return None
    bundle = _bundle()
    try:
        context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        return f"{bundle} cannot be read: {error.strerror}"
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT) as link,
            context.wrap_socket(link, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message.rstrip(".")
    except (OSError, ValueError):
        return None


def _bundle() -> str | None:
    """The file of trusted certificates, ``$SSL_CERT_FILE`` before all; None where the system has them elsewhere."""
    paths = ssl.get_default_verify_paths()
    return os.environ.get(paths.openssl_cafile_env) or paths.cafile or next(filter(os.path.isfile, _BUNDLES), None)
