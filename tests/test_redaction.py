"""What may be pasted into a bug report: addresses without what opens them."""

from __future__ import annotations

import pytest

from streamderain.redaction import redact


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("rtsp://admin:hunter2@cam/x", "rtsp://cam/x"),
        ("rtsp://admin:hunt@er2@cam:554/x", "rtsp://cam:554/x"),
        ("rtsp://admin:hunter2?#@cam/x", "rtsp://cam/x"),
        ("rtsp://admin:hun/ter2@cam/x", "rtsp://cam/x"),
        ("rtsp://admin:it's\"2@cam/x", "rtsp://cam/x"),
        ("rtsp://admin:1234/hunter@192.168.0.9:554/x", "rtsp://192.168.0.9:554/x"),
        ("'rtsp://admin:hunter2@cam/x' and rtmp://me:hunter2@there/y: no", "'rtsp://cam/x' and rtmp://there/y: no"),
        ("http://cam/v.mjpg?user=hunter2&pwd=hunter2&size=2", "http://cam/v.mjpg?user=***&pwd=***&size=2"),
        (
            "rtsp://cam/user=hunter2_password=hunter_2_channel=1_stream=0.sdp",
            "rtsp://cam/user=***_password=***_channel=1_stream=0.sdp",
        ),
        ("(rtmps://a.example/live2/hunter2-hunter2-hunter2) failed", "(rtmps://a.example/live2/***) failed"),
        ('{"input": "rtsp://u:hunter2@cam/1", "at": "x@y"}', '{"input": "rtsp://cam/1", "at": "x@y"}'),
    ],
)
def test_secrets_go(text: str, safe: str) -> None:
    assert redact(text) == safe
    assert "hunter" not in safe


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://cam:554/path@2x?listen=1",
        "rtsp://[::1]:8554/a@b",
        "rtsp://cam:554/clip@2x.mp4",
        "udp://239.0.0.1:1234?pkt_size=1316",
        "rtmp://server/live/kitchen",
        "out/password=1.mp4 by me@home",
        "http://127.0.0.1:8080/",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
