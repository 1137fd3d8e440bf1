"""What a camera says of its streams before it sends them (SDP: RFC 8866, 6184, 7798): which one to take, and how."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from fractions import Fraction

from streamderain.video.rtsp.units import Codec

_CODECS: dict[str, Codec] = {"H264": "h264", "H265": "hevc"}
_SETS: dict[Codec, tuple[str, ...]] = {
    "h264": ("sprop-parameter-sets",),
    "hevc": ("sprop-vps", "sprop-sps", "sprop-pps"),
}
_START = b"\0\0\0\1"
_FASTEST_CLOCK = 10_000_000  # ticks per second; H.264 and H.265 have 90000
_MEDIA_AT_MOST = 64


class UnknownToUsError(Exception):
    """The camera is beyond what is done here; FFmpeg's reader may know better. Says why in a few words.

    Attributes:
        redirected: the address led here by a redirect.
    """

    redirected = False


@dataclass(frozen=True, slots=True)
class Track:
    """The video to take.

    Attributes:
        codec, kind: how it is coded, and its RTP payload type.
        clock: RTP ticks per second.
        parameter_sets: Annex B; empty where they come with the pictures only.
        rate: frames/s, where it says so.
        control: its URL.
        session: URL of the whole, which is asked to play.
    """

    codec: Codec
    kind: int
    clock: int
    parameter_sets: bytes
    rate: Fraction | None
    control: str
    session: str


@dataclass(slots=True)
class _Media:
    what: str
    protocol: str
    kinds: list[str]
    attributes: list[tuple[str, str]]

    def of_kind(self, name: str, kind: str) -> str:
        """The value of ``a=name:kind value``."""
        for key, value in self.attributes:
            first, _, rest = value.partition(" ")
            if key == name and first == kind:
                return rest.strip()
        return ""

    def get(self, name: str) -> str:
        return next((value for key, value in self.attributes if key == name), "")


def parse(body: bytes, base: str) -> tuple[Track | None, list[str]]:
    """The video to take, if there is any, and what kinds of media there are ("audio", "video", "application").

    Args:
        body: the description.
        base: the URL that those in it are relative to.

    Raises:
        UnknownToUsError: there is video, and none of it can be read here.
    """
    whole, media = _sections(body)
    kinds = [one.what for one in media]
    session = _joined(base, whole.get("control"))
    why = ""
    for one in media:
        if one.what != "video":
            continue
        try:
            return _track(one, base, session), kinds
        except UnknownToUsError as error:
            why = why or str(error)
    if why:
        raise UnknownToUsError(why)
    return None, kinds


def _sections(body: bytes) -> tuple[_Media, list[_Media]]:
    whole = _Media("session", "", [], [])
    media: list[_Media] = []
    for line in body.decode("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition("=")
        if key == "m" and len(media) < _MEDIA_AT_MOST:
            what, _, protocol, *kinds = (*value.split(), "", "", "")
            media.append(_Media(what, protocol.upper(), [kind for kind in kinds if kind], []))
        elif key == "a":
            name, _, text = value.partition(":")
            (media[-1] if media else whole).attributes.append((name.strip().lower(), text.strip()))
    return whole, media


def _track(media: _Media, base: str, session: str) -> Track:
    if media.protocol not in ("RTP/AVP", "RTP/AVPF", "RTP/AVP/TCP"):
        raise UnknownToUsError(f"it sends {_word(media.protocol)}")
    kind = media.kinds[0] if media.kinds else ""
    name, _, clock = media.of_kind("rtpmap", kind).partition("/")
    codec = _CODECS.get(name.upper())
    if codec is None:
        raise UnknownToUsError(f"it sends {_word(name) if name else 'JPEG' if kind == '26' else 'an old coding'}")
    clock = clock.partition("/")[0]
    if not (re.fullmatch(r"\d{1,8}", clock) and 0 < int(clock) <= _FASTEST_CLOCK and re.fullmatch(r"\d{1,3}", kind)):
        raise UnknownToUsError("its description makes no sense")
    details: dict[str, str] = {}
    for part in media.of_kind("fmtp", kind).split(";"):
        key, _, value = part.partition("=")
        details[key.strip().lower()] = value.strip()
    if details.get("packetization-mode") == "2" or details.get("sprop-max-don-diff", "0").strip("0"):
        raise UnknownToUsError("it sends its packets out of order")
    return Track(
        codec=codec,
        kind=int(kind),
        clock=int(clock),
        parameter_sets=_parameter_sets(",".join(details.get(name, "") for name in _SETS[codec])),
        rate=_rate(media.get("framerate")),
        control=_joined(base, media.get("control")),
        session=session,
    )


def _parameter_sets(listed: str) -> bytes:
    """Annex B of what stands there in Base64. What cannot be read is left out: it comes with the pictures as well."""
    found = []
    for text in listed.split(","):
        try:
            unit = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            continue
        if unit:
            found += [_START, unit]
    return b"".join(found)


def _rate(text: str) -> Fraction | None:
    found = re.match(r"\d{1,4}(\.\d{1,6})?", text)
    return Fraction(found[0]) if found and Fraction(found[0]) > 0 else None


def _joined(base: str, control: str) -> str:
    """As cameras mean it, and not as RFC 3986 would: behind the base, whatever that ends in."""
    if not control or control == "*":
        return base
    if re.match(r"rtsps?://", control, re.IGNORECASE):
        return control
    return base.rstrip("/") + "/" + control.lstrip("/")


def _word(text: str) -> str:
    """A word of theirs that is fit for a line of ours."""
    return re.sub(r"[^\w./+-]", "?", text[:20])
