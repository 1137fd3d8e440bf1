"""GStreamer's RTSP server as a target that nobody here wrote. Run by a Python that has gi; prints "port N".

``gst_recorder.py PORT USER:PASSWORD FILE`` takes what is published to ``/clear``, with Digest authentication, and
appends its H.264 to FILE. SIGKILL ends it.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

    port, account, path = sys.argv[1:]
    Gst.init(None)
    server: Any = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream,alignment=au"
        f" ! filesink location={path} append=true buffer-mode=unbuffered async=false sync=false )"
    )
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_shared(True)
    user, _, password = account.partition(":")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "publisher")
    auth.add_digest(user, password, token)
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("publisher", "media.factory.access", True)
    permissions.add_permission_for_role("publisher", "media.factory.construct", True)
    factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/clear", factory)
    server.attach(None)
    sys.stdout.write(f"port {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
