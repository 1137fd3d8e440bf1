"""Authentication beside the worked examples of the RFCs."""

from __future__ import annotations

import hashlib
import re
import time

import pytest

from streamderain.video.rtsp.login import Login

_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={},'
    ' nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
_2617 = (
    'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",'
    ' opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
_2069 = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
_MD5, _SHA = _7616.format("MD5"), _7616.format("SHA-256")
_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("challenges", "password", "cnonce", "response"),
    [
        # RFC 7616, 3.9.1
        ([_MD5], "Circle of Life", _CNONCE, "8ca523f5e9506fed4657c9700eebdbec"),
        ([_SHA], "Circle of Life", _CNONCE, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        # both are offered: the stronger one is taken, in one header or two
        ([_MD5, _SHA], "Circle of Life", _CNONCE, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        (
            [f'Basic realm="x", {_SHA}, {_MD5}'], "Circle of Life", _CNONCE,
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        # RFC 2617, 3.5
        ([_2617], "Circle Of Life", "0a4f113b", "6629fae49393a05397450978507c4ef1"),
        # RFC 2069, 2.4, by its errata
        ([_2069], "CircleOfLife", "", "1949323746fe6a43ef61f9606e7febea"),
    ],
)  # fmt: skip
def test_the_examples_of_the_rfcs(challenges: list[str], password: str, cnonce: str, response: str) -> None:
    login = Login("Mufasa", password, random=lambda: cnonce)
    assert login.header("GET", "/dir/index.html") is None
    assert login.challenge(challenges)
    header = login.header("GET", "/dir/index.html")
    assert header is not None
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
    assert given["response"] == response
    assert given["username"] == "Mufasa"
    assert given["uri"] == "/dir/index.html"
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenges[0]))
    asked.pop("qop", None)
    assert asked.items() <= given.items()  # realm, nonce and opaque
    if "qop" in given:
        assert (given["qop"], given["nc"], given["cnonce"]) == ("auth", "00000001", cnonce)


def test_basic_is_the_example_of_rfc_7617() -> None:
    login = Login("Aladdin", "open sesame")
    assert login.challenge(['Basic realm="WallyWorld"'])
    assert login.header("DESCRIBE", "rtsp://x/") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert not login.challenge(['Basic realm="WallyWorld"'])  # the same answer again would be no better


def test_every_request_is_counted_and_another_nonce_begins_anew() -> None:
    login = Login("u", "p")
    assert login.challenge([_MD5])
    counts = [re.search(r"nc=(\d+)", login.header("OPTIONS", "x") or "") for _ in range(3)]
    assert [found and found[1] for found in counts] == ["00000001", "00000002", "00000003"]
    assert login.challenge([_MD5.replace("7ypf", "8ypf") + ", stale=TRUE"])
    assert 'nonce="8ypf' in (login.header("OPTIONS", "x") or "")


def test_a_refusal_is_final_unless_the_nonce_is_stale_or_was_good_before() -> None:
    login = Login("u", "p")
    assert login.challenge([_MD5])
    assert not login.challenge([_MD5.replace("7ypf", "8ypf")])
    login.accepted = True
    assert login.challenge([_MD5.replace("7ypf", "9ypf")])
    assert not login.challenge([_MD5.replace("7ypf", "9ypf")])


@pytest.mark.parametrize("challenge", ["", "Negotiate abc", 'Digest realm="x"', 'Digest algorithm=WHO, nonce="1"'])
def test_what_is_not_known_is_not_tried(challenge: str) -> None:
    assert not Login("u", "p").challenge([challenge])


def test_a_quote_in_a_name_stays_inside_its_quotes() -> None:
    login = Login('a"b\r\nEvil: 1', "p")
    assert login.challenge([_2069])
    header = login.header("OPTIONS", "x") or ""
    assert r'username="a\"bEvil: 1"' in header
    assert "\n" not in header


def test_a_session_s_secret_has_the_nonces_in_it() -> None:
    """RFC 7616, 3.4.2, which has no example of it."""

    def digest(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    login = Login("u", "p", random=lambda: "c")
    assert login.challenge(['Digest realm="r", nonce="n", qop="auth", algorithm=MD5-sess'])
    header = login.header("PLAY", "x") or ""
    secret = digest(digest("u", "r", "p"), "n", "c")
    assert f'response="{digest(secret, "n", "00000001", "c", "auth", digest("PLAY", "x"))}"' in header
    assert "algorithm=MD5-sess" in header


@pytest.mark.parametrize("challenge", ["a" * 8100, "a" + " " * 8000, 'a="' + "\\a" * 4000, ",Digest" * 1100])
def test_an_answer_full_of_hostile_challenges_takes_no_time(challenge: str) -> None:
    began = time.process_time()
    assert not Login("u", "p").challenge([f"Digest {challenge}"] * 97)
    assert time.process_time() - began < 0.5
