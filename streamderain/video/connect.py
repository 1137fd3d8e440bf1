"""What reads a live source: our own RTSP client for the cameras that it understands, FFmpeg for all else."""

from __future__ import annotations

from collections.abc import Callable

from streamderain.video.address import Address
from streamderain.video.connection import Connection, LostError
from streamderain.video.demuxed import Demuxed
from streamderain.video.rtsp.camera import Camera
from streamderain.video.rtsp.description import UnknownToUsError

_NAME_IT = "FFmpeg might read it, but would take the password along to any host: name the address that it leads to"


def connect(address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> Connection:
    """Connects to ``address``.

    Args:
        read_timeout: seconds without a packet after which it is lost.
        busy: called with True before each call that may block, and with False after it.

    Raises:
        LostError: it cannot be opened.
        InputError: it is open, and holds no video or nothing that can be decoded.
    """
    why = None
    if address.by_tcp:
        try:
            return Camera(address, read_timeout=read_timeout, busy=busy)
        except UnknownToUsError as error:
            if error.redirected and "@" in address.url:
                raise LostError(f"after a redirect {error}", hint=_NAME_IT) from error
            why = str(error)
    connection = Demuxed(address, read_timeout=read_timeout, busy=busy)
    if why is not None:
        connection.notes.append(f"read by FFmpeg: {why}")
    return connection
