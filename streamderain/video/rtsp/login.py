"""Basic and Digest authentication (RFC 7617, 2617, 7616), as cameras ask for it."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from itertools import islice

# Strongest first. "-sess" is each of these with the first nonces in the password's digest.
_HASHES: dict[str, Callable[[bytes], str]] = {
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
}
_PARAMETER = re.compile(r'(?<!\w)(\w{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,\s*)(Basic|Digest)(?=\s|,|$)", re.IGNORECASE)
_AT_MOST = 8  # headers, and challenges in one of them; what is behind them is left alone


class Login:
    """One user's answers to a server's challenges.

    Attributes:
        accepted: the server has taken an answer to its present challenge.

    Args:
        random: makes client nonces; for tests.
    """

    def __init__(self, user: str, password: str, *, random: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self.accepted = False
        self._user, self._password, self._random = user, password, random
        self._basic = False
        self._digest: dict[str, str] | None = None  # the parameters of the challenge in use
        self._count = 0
        self._own = ""

    def challenge(self, headers: list[str]) -> bool:
        """Takes the WWW-Authenticate headers of a 401; returns whether it is worth trying (again).

        It is not where nothing in them is known, or where the server has refused what it asked for. A fresh nonce is
        another question only if the old one was stale, by its word or because it was good for something before.
        """
        offered = [one for header in headers[:_AT_MOST] for one in _challenges(header)]
        known = [found for scheme, found in offered if scheme == "digest" and _algorithm(found)[0] in _HASHES]
        known = [found for found in known if "nonce" in found and _qop(found) is not None]
        if known:
            best = min(known, key=lambda found: list(_HASHES).index(_algorithm(found)[0]))
            stale = best.get("stale", "").lower() == "true" or self.accepted
            refused = self._digest is not None and not stale
            self._digest, self._count, self._own, self.accepted = best, 0, self._random(), False
            return not refused
        if any(scheme == "basic" for scheme, _ in offered):
            refused, self._basic = self._basic, True
            return not refused
        return False

    def header(self, method: str, uri: str) -> str | None:
        """The Authorization of a request; None before any challenge."""
        if self._digest is not None:
            return self._answer(self._digest, method, uri)
        if self._basic:
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        return None

    def _answer(self, given: dict[str, str], method: str, uri: str) -> str:
        name, session = _algorithm(given)
        digest, nonce, realm = _HASHES[name], given["nonce"], given.get("realm", "")
        qop = _qop(given)
        self._count += 1
        count = f"{self._count:08x}"
        secret = digest(f"{self._user}:{realm}:{self._password}".encode())
        if session:
            secret = digest(f"{secret}:{nonce}:{self._own}".encode())
        asked = digest(f"{method}:{uri}".encode())
        between = f"{nonce}:{count}:{self._own}:{qop}" if qop else nonce
        parts = {"username": self._user, "realm": realm, "nonce": nonce, "uri": uri}
        parts["response"] = digest(f"{secret}:{between}:{asked}".encode())
        if "opaque" in given:
            parts["opaque"] = given["opaque"]
        words = [f'{key}="{_quoted(value)}"' for key, value in parts.items()]
        if "algorithm" in given:
            words.append(f"algorithm={name}{'-sess' if session else ''}")
        if qop or session:
            words += [f"qop={qop}", f"nc={count}"] if qop else []
            words.append(f'cnonce="{self._own}"')
        return "Digest " + ", ".join(words)


def _challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Scheme in small letters and parameters, of each challenge in one header."""
    found = list(islice(_SCHEME.finditer(header), _AT_MOST))
    ends = [*(match.start() for match in found[1:]), len(header)]
    return [(match[1].lower(), _parameters(header[match.end() : end])) for match, end in zip(found, ends, strict=False)]


def _parameters(text: str) -> dict[str, str]:
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(text)
    }


def _algorithm(given: dict[str, str]) -> tuple[str, bool]:
    name = given.get("algorithm", "MD5").upper()
    return name.removesuffix("-SESS"), name.endswith("-SESS")


def _qop(given: dict[str, str]) -> str | None:
    """ "auth", or nothing where the server knows of none; None where it wants what we do not do."""
    if "qop" not in given:
        return ""
    return "auth" if "auth" in re.split(r"[\s,]+", given["qop"].lower()) else None


def _quoted(text: str) -> str:
    return re.sub(r'([\\"])', r"\\\1", re.sub(r"[\r\n]", "", text))
