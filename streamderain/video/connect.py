"""What reads a live source: our own RTSP client for the cameras that it understands, FFmpeg for all else."""

from __future__ import annotations

from collections.abc import Callable

from streamderain.video.address import Address
from streamderain.video.connection import Connection
from streamderain.video.demuxed import Demuxed
from streamderain.video.rtsp.camera import Camera
from streamderain.video.rtsp.description import UnknownToUsError


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
            why = str(error)
    connection = Demuxed(address, read_timeout=read_timeout, busy=busy)
    if why is not None:
        connection.notes.append(f"read by FFmpeg: {why}")
    return connection
