"""Words for people, without secrets of addresses and without what terminals obey.

Only the standard library: every line goes this way, and strangers name files and what is in them.

Whoever asks for help pastes what was printed. Cameras take user and password before the ``@``, many take them in the
query or even in the path (``/user=admin&password=…``), and who sends by RTMP has a stream key as the path's last part,
which is told from a mere name by its length where it is not known that something is sent.
"""

from __future__ import annotations

import re
from unicodedata import category

#: An IP address follows, as it does the user and the password of a camera.
IP_FOLLOWS = r"(?=\d{1,3}(?:\.\d{1,3}){3}(?:[:/?#\s]|$))"
# The second and third: a password with a slash in it, which was not written as %2F. What looks like a port is one,
# unless an IP address follows: cameras have these, paths do not.
_USER = re.compile(
    r"(?<=://)(?:[^/\s]*@"
    r"|[^/\s:@\[]*:(?!\d*(?:[/?#\s]|$))\S*@"
    rf"|[^/\s:@\[]*:\S*@{IP_FOLLOWS})"
)
_URL = re.compile(r"://\S+")
_VALUES = re.compile(
    r"(?<=[?&;,/_~-])"
    r"((?:user|username|usr|login|loginuse|loginpas|pass|passwd|password|passphrase|pwd|psw|secret|token|access_token"
    r"|auth|authtoken|apikey|api_key|key|sig|signature|credential|jwt|hmac|hdnts|hdnea|streamid)=)"
    r"[^\s&;,/'\"]*?(?=[\s&;,/'\"]|_[a-z]+=|$)",
    re.IGNORECASE,
)
_STREAM_KEY = re.compile(r"(?i)(?<![A-Za-z])(rtmp[a-z]*://[^/\s]+/\S*/)[^/\s?'\"(),:]{16,}")

_SENT_TO = re.compile(r"(?i)(rtmp[a-z]*://[^/\s]+/(?:\S*/)?)([^/\s?]+)(.*)")


def redact(text: str) -> str:
    """``text`` without the user and password of any URL in it, and with ``***`` for what else is secret in one."""
    text = _URL.sub(lambda url: _VALUES.sub(r"\1***", url[0]), _USER.sub("", text))
    return _STREAM_KEY.sub(r"\1***", text)


def redact_target(uri: str) -> str:
    """``uri``, which is sent to, for people: with ``***`` for the stream key, however short it is."""
    return redact(_SENT_TO.sub(r"\1***\3", uri))


def redact_said(text: str, uri: str) -> str:
    """What was said of ``uri``, which is sent to: servers repeat the stream key."""
    found = _SENT_TO.fullmatch(uri)
    text = text.replace(uri, redact_target(uri))
    return redact(text if found is None else re.sub(rf"(?<!\w){re.escape(found[2])}(?!\w)", "***", text))


def visible(text: str, *, kept: str = "\n\t") -> str:
    """``text`` with a question mark for each letter that terminals obey or do not show, but for those in ``kept``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept or category(one) == "Zs" else "?" for one in text)


def in_line(text: str, *, most: int = 200) -> str:
    """What a file says, fit to be shown: one line of at most so many characters, and nothing that a terminal obeys."""
    shown = visible(text[:most], kept="")
    return shown if len(text) <= most else f"{shown}…"
