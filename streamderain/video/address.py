"""Where a live picture comes from: which URIs are live, and what FFmpeg must be told to open each without delay."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

import av
import av.error

from streamderain.errors import InputError
from streamderain.redaction import IP_FOLLOWS, redact
from streamderain.video import certificates, ffmpeg

Transport = Literal["auto", "tcp", "udp"]
TRANSPORTS: tuple[Transport, ...] = ("auto", "tcp", "udp")

_LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "udp", "rtp", "tcp", "srt", "mmsh"}
_PERHAPS = {"http", "https", "hls"}
_RTSP = {"rtsp", "rtsps"}
_DEVICE = re.compile(r"/dev/video\d+")
_LISTEN = re.compile(r"(?<=[?&])listen=1(?:&|$)")
# What FFmpeg takes out of an RTSP address, as wishes how to read it.
_FFMPEG_ONLY = re.compile(r"[?&](?:udp|multicast|filter_src|sources=[^&]*)(?:&|$)")
# The picture is there with the first keyframe, which RTSP cameras send at once: 0.05 s instead of 1.2 s. Not with
# "fflags=nobuffer" as is often advised: it throws away what was read while probing, which is that very keyframe, and
# the first picture then comes a whole group of pictures later (measured: 4 s at a keyframe every 100 frames).
_AT_ONCE = {"analyzeduration": "0", "probesize": "32"}
# Containers that must be recognised first. 0 would mean FFmpeg's own five seconds.
_SOON = {"analyzeduration": "100000", "probesize": "500000"}
# FLV and playlists do not say at the beginning which streams there are.
_LATER = {"analyzeduration": "500000", "probesize": "500000"}
# A user and a password with one of / ? # in it, which end the host's part; what could be a port is one, unless an IP
# address follows.
_UNESCAPED = re.compile(rf"://[^/?#\s:@\[]*:(?:(?!\d*[/?#])[^/?#\s@]*[/?#]\S*@|\d*[/?#]\S*@{IP_FOLLOWS})")
#: What to do about that.
ESCAPES = "write / in it as %2F, ? as %3F, # as %23 and @ as %40"
_OPEN_TIMEOUT = 30.0  # seconds that opening something which is no live stream may take in all
#: What a call raises that was cut off by a time limit, ours or FFmpeg's.
TIMED_OUT = (av.error.ExitError, TimeoutError)
_LISTEN_FOR = 60.0  # seconds until waiting for a publisher is begun anew


@dataclass(frozen=True, slots=True)
class Address:
    """What to open.

    Attributes:
        url, format, options: for FFmpeg.
        name: for people, without credentials.
        listens: it is we who wait for a publisher to connect.
        by_tcp: RTSP with the video interleaved, which we read ourselves where we can.
        paced: a file that plays the part of a camera; its pictures come when their time is there.
        open_timeout: seconds that opening may take.
    """

    url: str
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    listens: bool = False
    by_tcp: bool = False
    paced: bool = False
    open_timeout: float = 10.0


def _scheme(uri: str) -> str:
    return uri.split("://")[0].lower() if ffmpeg.is_url(uri) else ""


def is_served(uri: str) -> bool:
    """True for what HTTP serves, which may be a stream or a recording."""
    return _scheme(uri) in _PERHAPS


def is_device(uri: str) -> bool:
    """True for a video device, by path or by number."""
    return _DEVICE.fullmatch(uri) is not None or (uri.isdecimal() and not os.path.exists(uri))


def is_live(uri: str, *, read_timeout: float = 5.0, unknown: bool = False, insecure: bool = False) -> bool:
    """Whether ``uri`` is a camera or a stream that goes on by the clock.

    What HTTP serves may be either. It is opened once to see whether it says how long it is: a recording does, also one
    that is served as a playlist. What cannot be opened counts as ``unknown``; who opens it next will say why.
    ``insecure``: any certificate will do.

    Raises:
        InputError: who serves it says nothing for ``read_timeout`` seconds, and it is not taken for live.
    """
    if is_served(uri):
        options, timeout = patience(uri, read_timeout)
        options |= certificates.checking(uri, insecure=insecure)
        try:
            with av.open(uri, options=_LATER | options, timeout=timeout) as container:
                return container.duration is None
        except TIMED_OUT as error:
            if unknown:
                return True
            raise InputError(
                f"{redact(uri)} cannot be opened: no answer within {read_timeout:g} s", hint=unanswered(uri)
            ) from ffmpeg.redacted(error)
        except ffmpeg.ERRORS:
            return unknown
    return _scheme(uri) in _LIVE or is_device(uri)


def patience(uri: str, read_timeout: float) -> tuple[dict[str, str], tuple[float | None, float] | None]:
    """What gives up a server that says nothing for ``read_timeout`` seconds: FFmpeg's options, and PyAV's ``timeout``.

    Files and pipes are waited for. PyAV's limit on opening is one on the whole of it, which may take several requests;
    FFmpeg's is one on each silence.
    """
    if not ffmpeg.is_url(uri):
        return {}, None
    if "listen" in uri.partition("?")[2]:
        return {}, (None, read_timeout)
    silence = str(round(read_timeout * 1e6))
    key = "timeout" if _scheme(uri) in _RTSP else "rw_timeout"
    return {key: silence}, (max(_OPEN_TIMEOUT, read_timeout), read_timeout)


def unanswered(uri: str) -> str:
    """What to do about a server that says nothing."""
    return f"is {where(uri)} reachable from here, and does it send?"


def address(
    uri: str | os.PathLike[str], *, transport: Transport = "auto", open_timeout: float = 10.0, insecure: bool = False
) -> Address:
    """How to open ``uri`` live.

    Args:
        uri: rtsp[s], rtmp[s], udp, rtp, tcp, http[s] URLs; ``rtsp://HOST:PORT/PATH?listen=1``, and the
            like with rtmp and tcp, wait for a publisher; ``/dev/video0`` or ``0``; ``-``; or a file, which is
            then played by the clock.
        transport: of RTSP. "auto" asks for TCP first, which loses nothing, and takes UDP where there is no TCP. What
            comes by UDP is read by FFmpeg, one picture later.
        open_timeout: seconds.
        insecure: any certificate of https and rtmps will do; those of rtsps are never checked.

    Raises:
        ValueError: ``transport`` is none of these words.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport must be auto, tcp or udp, got {transport!r}")
    uri = ffmpeg.local_path(uri)
    scheme, name = _scheme(uri), redact(uri)
    if is_device(uri):
        path = f"/dev/video{uri}" if uri.isdecimal() else uri
        return Address(path, path, "video4linux2", {}, open_timeout=open_timeout)
    if uri == "-":
        return Address("pipe:0", "standard input", None, dict(_SOON), open_timeout=open_timeout)
    if not scheme:
        return Address(ffmpeg.local_url(uri), name, paced=True, open_timeout=open_timeout)
    listens = scheme in (*_RTSP, "tcp", "rtmp") and _LISTEN.search(uri) is not None
    if scheme in _RTSP:
        options = dict(_AT_ONCE)
        if listens:
            url = _LISTEN.sub("", uri).rstrip("?&")
            # Publishers send what they have: the description holds the sizes, and probing would only wait.
            options |= {"rtsp_flags": "listen", "listen_timeout": str(round(_LISTEN_FOR))}
            return Address(url, name, "rtsp", options, listens=True, open_timeout=_LISTEN_FOR)
        options |= {"rtsp_flags": "prefer_tcp"} if transport == "auto" else {"rtsp_transport": transport}
        by_tcp = transport != "udp" and _FFMPEG_ONLY.search(uri) is None
        return Address(uri, name, "rtsp", options, by_tcp=by_tcp, open_timeout=open_timeout)
    probing = _SOON if scheme in ("udp", "rtp", "tcp") else _LATER
    if listens:  # TCP reads the word from the URL itself, RTMP wants it beside
        url, beside = (uri, {}) if scheme == "tcp" else (_LISTEN.sub("", uri).rstrip("?&"), {"listen": "1"})
        return Address(url, name, None, probing | beside, listens=True, open_timeout=_LISTEN_FOR)
    options = probing | certificates.checking(uri, insecure=insecure)
    return Address(uri, name, None, options, open_timeout=open_timeout)


def listening_for(address: Address, seconds: float) -> Address:
    """The same, given up when nobody has connected to us for so many seconds."""
    options = dict(address.options)
    if "listen_timeout" in options:
        options["listen_timeout"] = str(max(1, math.ceil(seconds)))
    return replace(address, options=options, open_timeout=min(seconds, address.open_timeout))


def splits_password(uri: str) -> bool:
    """Whether the host that FFmpeg will see in ``uri`` is but the beginning of user and password."""
    return _UNESCAPED.search(uri) is not None


def where(uri: str) -> str:
    """The host and port of a URL, for messages; the URI itself where it has none."""
    try:
        parts = urlsplit(redact(uri)) if ffmpeg.is_url(uri) else None
    except ValueError:  # half a bracket of IPv6
        parts = None
    if parts is None or not parts.hostname:
        return redact(uri)
    return parts.netloc.rpartition("@")[2]
