"""What may be pasted into a bug report: addresses without what opens them."""

from __future__ import annotations

import time

import pytest

from streamderain.redaction import in_line, redact, redact_said, redact_target, visible


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
    "names",
    [
        "user username usr login loginuse loginpas",
        "pass passwd password passphrase pwd psw Password",
        "secret token access_token auth authToken apikey api_key key sig signature TOKEN",
        "X-Amz-Signature X-Amz-Credential X-Amz-Security-Token X-Goog-Signature jwt hmac hdnts streamid",
    ],
)
def test_what_secrets_are_called(names: str) -> None:
    for name in names.split():
        assert redact(f"srt://cam/x?{name}=hunter2&size=2") == f"srt://cam/x?{name}=***&size=2"


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


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("rtmp://a.example/app/hunter2", "rtmp://a.example/app/***"),
        (
            "rtmps://me:hunter2@a.example:443/one/app/hunter2?bandwidthtest=true",
            "rtmps://a.example:443/one/app/***?bandwidthtest=true",
        ),
        ("RTMP://a.example/hunter2", "RTMP://a.example/***"),
        ("rtsp://me:hunter2@a.example/app/clear", "rtsp://a.example/app/clear"),
        ("rtmp_hunter/app/hunter2.mp4", "rtmp_hunter/app/hunter2.mp4"),
    ],
)
def test_where_it_is_sent_to_a_stream_key_goes_however_short(uri: str, safe: str) -> None:
    assert redact_target(uri) == safe


def test_a_stream_key_that_the_server_repeats_goes() -> None:
    said = "Server error: ab is in use, cable is not; rtmp://a.example/app/ab"
    assert (
        redact_said(said, "rtmp://a.example/app/ab")
        == "Server error: *** is in use, cable is not; rtmp://a.example/app/***"
    )
    assert redact_said("cable, app", "tcp://a.example/app") == "cable, app"


def test_a_long_word_takes_no_time() -> None:
    began = time.process_time()
    assert redact("a" * 20_000) == "a" * 20_000
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J\x9b31m\x7f", "?]0;title??[2J?31m?"),
        ("gepj.\u202e4pm, zero\u200bwidth, \ud800", "gepj.?4pm, zero?width, ?"),
        ("Überführung 雨\u3000at 10.00\u202fAM\xa0🌧", "Überführung 雨\u3000at 10.00\u202fAM\xa0🌧"),
    ],
)
def test_what_terminals_obey_is_not_shown(text: str, shown: str) -> None:
    assert visible(text) == in_line(text) == shown
    assert (visible(f"{text}\n\t"), in_line(f"{text}\n\t")) == (f"{shown}\n\t", f"{shown}??")
