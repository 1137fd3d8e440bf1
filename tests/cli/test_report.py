"""What is said while work goes on: numbers in words, progress without a terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streamderain.cli.report import Reporter, size_in_words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (812_400, "812 kB"),
        (999_500, "1.0 MB"),
        (3_960_000_000, "4.0 GB"),
        (2_000_000_000_000, "2000 GB"),
    ],
)
def test_sizes_have_units_of_a_thousand(size: int, words: str) -> None:
    assert size_in_words(size) == words


def test_progress_is_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("streamderain.cli.report.time", SimpleNamespace(monotonic=lambda: now))
    reporter = Reporter()
    reporter.start_progress(10_000)
    for seconds, frames in ((20, 20), (40, 40), (60, 60), (80, 8000), (120, 12_000), (121, 12_001)):
        now = 1000.0 + seconds
        reporter.advance(frames)
    assert capsys.readouterr().err.splitlines() == [
        "streamderain: 40/10000 frames, 1.0 frames/s, 2:46:00 left",
        "streamderain: 8000/10000 frames, 100.0 frames/s, 0:20 left",
        "streamderain: 12000 frames, 100.0 frames/s",  # the expectation was wrong
    ]


def test_a_note_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    for note in ("one", "two", "one"):
        reporter.note(note)
    assert capsys.readouterr().err == "streamderain: one\nstreamderain: two\n"


@pytest.mark.parametrize("event", ["note", "debug"])
def test_a_terminal_obeys_no_line(event: str) -> None:
    said = "cannot read \x1b]0;evil\x07\r\x1b[2J.mp4"
    assert Reporter().line(event, said).isprintable()
    assert Reporter(style="json").line(event, said).isprintable()
