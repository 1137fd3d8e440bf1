"""GStreamer's RTSP server as a peer that nobody here wrote. Run by a Python that has gi; prints "port N".

``gst_server.py camera [PORT] [USER:PASSWORD]`` serves ``/cam``. ``gst_server.py recorder PORT USER:PASSWORD FILE``
takes what is published to ``/clear`` and appends its H.264 to FILE; SIGKILL ends it. A user: Digest authentication.
"""

from __future__ import annotations

import sys
from typing import Any

_CAMERA = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 bitrate=300 threads=1"
    " ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)
_RECORDER = (
    "( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream,alignment=au"
    " ! filesink location={} append=true buffer-mode=unbuffered async=false sync=false )"
)


def main(role: str, port: str = "0", account: str = "", path: str = "") -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

    Gst.init(None)
    server: Any = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(_CAMERA if role == "camera" else _RECORDER.format(path))
    factory.set_shared(True)
    if role == "recorder":
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    if account:
        user, _, password = account.partition(":")
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", role)
        auth.add_digest(user, password, token)
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role(role, "media.factory.access", True)
        permissions.add_permission_for_role(role, "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/cam" if role == "camera" else "/clear", factory)
    server.attach(None)
    sys.stdout.write(f"port {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
