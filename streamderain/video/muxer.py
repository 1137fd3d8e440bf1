"""Which container is written, and with which of its options: by name, scheme or what was asked for."""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction
from pathlib import Path

import av

from streamderain.errors import OutputOptionError
from streamderain.video import ffmpeg, stills
from streamderain.video.remux import SideStreams

MP4 = {"mp4", "mov", "ipod", "3gp", "3g2"}
CONSTANT_RATE = {"yuv4mpegpipe", "avi"}  # muxers that count pictures and hold no times
# MPEG-2's program streams: they hold a time for a pack of pictures, from which readers count on by the codec's rate.
PROGRAM = {"vob", "dvd", "svcd"}
FRAGMENT = Fraction(2)  # seconds that a killed process may lose; by key frames alone it would be a whole GOP
SEGMENT = 2  # seconds of HLS that a player waits for at most
_MILLISECONDS, _FINEST = 1000, 1_000_000
_LONGEST_CHAPTER = 2**31 - 1  # units
_PHONES = ("com.apple.", "com.android.")  # camera, place and the like, by keys that FFmpeg would leave out
_SHORT = {"y4m": "yuv4mpegpipe", "ts": "mpegts", "mkv": "matroska"}
#: What is sent to, with which muxer; where FFmpeg `ffmpeg.speaks` it.
SCHEMES = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "flv",
    "rtmps": "flv",
    "udp": "mpegts",
    "tcp": "mpegts",
    "srt": "mpegts",
}


def choose_muxer(uri: str, name: str, format: str | None) -> str:
    """FFmpeg's name of the container to write."""
    suffix = Path(uri).suffix.lower()
    asked = None
    if format is not None:
        asked = _guess(None, _SHORT.get(format, format))
        if asked is None:
            hint = "use nut, mpegts, y4m or matroska" if uri == "-" else "use mp4, matroska, mpegts, nut or y4m"
            raise OutputOptionError(f"{name}: FFmpeg knows no container for format {format!r}", hint=hint)
    found: str | None
    if uri == "-":
        return asked or "nut"
    if ffmpeg.is_url(uri):
        scheme = uri.split("://")[0].lower()
        if scheme not in SCHEMES or not ffmpeg.speaks(scheme):
            what = "this FFmpeg does not speak it" if scheme in SCHEMES else f"nothing is sent by {scheme}"
            spoken = [other for other in SCHEMES if ffmpeg.speaks(other)]
            hint = f"send by {', '.join(spoken[:-1])} or {spoken[-1]}, or write a file"
            raise OutputOptionError(f"{name}: {what}", hint=hint)
        found = asked or SCHEMES[scheme]
    elif suffix in stills.SUFFIXES:
        raise OutputOptionError(f"{name} is one picture", hint=f"name a sequence, such as o%05d{suffix}, or a video")
    else:
        own = _guess(uri, None)
        if asked and own and asked != own:
            raise OutputOptionError(f"{name}: {suffix} means {own}, --format {format} another", hint="leave one out")
        found = asked or own
    if found is None:
        what = f"the suffix {suffix!r}" if suffix else "a name without a suffix"
        hint = "use .mp4, .mkv, .mov or .webm" + (", or name it with --format" if os.path.exists(uri) else "")
        raise OutputOptionError(f"{name}: FFmpeg knows no container for {what}", hint=hint)
    return "vob" if found == "mpeg" and asked is None else found  # .mpg: of MPEG-2, where FFmpeg thinks of MPEG-1


def pictures_only(muxer: str) -> bool:
    """Whether neither sound nor subtitles have room in this container."""
    with av.open(os.devnull, "w", format=muxer) as empty:  # nothing is written before a header
        return empty.default_audio_codec == "none"


def _guess(uri: str | None, format: str | None) -> str | None:
    """FFmpeg's guess; nothing is created before a header is written."""
    try:
        with av.open(uri or "-", "w", format=format) as guess:
            return str(guess.format.name)
    except ffmpeg.ERRORS:
        return None


def muxer_options(muxer: str, side: SideStreams, tick: Fraction, *, piped: bool) -> dict[str, str]:
    """FFmpeg's options of the container; ``tick`` is the video's, in seconds."""
    if muxer in MP4 and not piped and any(s.kind == "cover" for s in side.streams):
        # Fragments and cover art together make FFmpeg write the cover as a broken second video.
        return {"use_editlist": "1", "movie_timescale": str(_movie_timescale(side, tick))}
    if muxer in MP4:
        # hybrid_fragmented: playable up to the last fragment if the process dies, an ordinary MP4 once closed.
        # delay_moov: only then are edit lists right, which hold B-frame delay, audio priming and a late start.
        flags = "frag_keyframe+delay_moov" if piped else "hybrid_fragmented+delay_moov"
        if any(key.startswith(_PHONES) for key in side.metadata):
            # Only for those: it moves title and the like to where iTunes and Windows do not look.
            flags += "+use_metadata_tags"
        return {
            "movflags": flags,
            "use_editlist": "1",
            "movie_timescale": str(_movie_timescale(side, tick)),
            "flush_packets": "1",
            "frag_duration": str(FRAGMENT * 1_000_000),  # microseconds
        }
    if muxer in ("matroska", "webm"):
        # B-frames begin at negative decoding times; FFmpeg would move everything later for their sake.
        return {
            "flush_packets": "1",
            "avoid_negative_ts": "disabled",
            "cluster_time_limit": str(FRAGMENT * 1000),  # milliseconds: what is lost when the process dies, as of MP4
        }
    if muxer == "yuv4mpegpipe":
        return {"strict": "-1"}  # more than 8 bits, which every reader of today knows
    return {"flush_packets": "1"} if muxer in ("nut", "mpegts") else {}


def _movie_timescale(side: SideStreams, tick: Fraction) -> int:
    """Units of a second in which MP4 says how late a stream begins: exact for the video, and for sound where it can be.

    32 bits, which all players read, hold half an hour of the finest, and hours of the usual ones. A chapter has 31, and
    is lost if it is longer.
    """
    longest = max(((c["end"] - c["start"]) * (c["time_base"] or 0) for c in side.chapters), default=0)
    most = min(_FINEST, _LONGEST_CHAPTER // (math.ceil(longest) + 1))
    sound = [stream.template.codec_context for stream in side.streams if stream.kind == "audio"]
    rates = [context.sample_rate or 1 for context in sound if context is not None]
    video = math.lcm(_MILLISECONDS, tick.denominator)
    return next((scale for scale in (math.lcm(video, *rates), video) if scale <= most), _MILLISECONDS)


def playlist_options(playlist: Path, *, live: bool, first: int) -> dict[str, str]:
    """HLS with fragmented MP4: a live playlist keeps its last segments, a file's keeps them all.

    Args:
        first: the first segment's number; above 0 players have come from an older playlist, whose times were others.

    Raises:
        OutputOptionError: FFmpeg would read the name as a pattern.
    """
    # A colon in a relative name would be taken for a protocol; "file:" it could not delete.
    names = f"{os.path.join(os.curdir, playlist.parent)}/{playlist.stem}"
    if found := re.search(r"%\d*d", names):  # FFmpeg would put each segment's number there too, and knows no escape
        raise OutputOptionError(f"{playlist} is an HLS playlist, whose name and folders cannot hold {found[0]}")
    # Two that are no longer listed stay: after an error FFmpeg counts one segment more, and another when it is closed.
    last = {"hls_list_size": "6", "hls_delete_threshold": "2"}
    kept = last if live else {"hls_list_size": "0", "hls_playlist_type": "event"}
    return {
        "hls_time": str(SEGMENT),
        "hls_segment_type": "fmp4",
        "hls_fmp4_init_filename": f"{playlist.stem}_init.mp4",
        "hls_segment_filename": f"{names}_%05d.m4s",
        "hls_flags": "independent_segments+temp_file" + "+delete_segments" * live + "+discont_start" * (first > 0),
        "start_number": str(first),
        **kept,
    }
