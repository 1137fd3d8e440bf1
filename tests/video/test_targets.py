"""Where an output may go: never over the input, never over another run's file, never in place of a pipe or a link."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import cv2
import pytest

from streamderain.errors import InputError, OutputError, OutputExistsError, OutputOptionError
from streamderain.video import list_stills, open_sink, open_source, sequence
from streamderain.video.target import Target
from streamderain.video.writer_lock import WriterLock

from .clips import COUNT, scene, times, write_clip
from .copying import copy, copy_open


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4", count=COUNT)
    return tmp_path / "in.mp4"


def write_sequence(folder: Path, count: int, *, first: int = 1) -> dict[Path, bytes]:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        assert cv2.imwrite(str(folder / f"f{number:03d}.png"), scene(number)[..., ::-1])
    return {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_that_is_named_like_the_temporary_file_is_kept(tmp_path: Path, overwrite: bool) -> None:
    write_clip(tmp_path / "long.ts.part", format="mpegts")
    before = (tmp_path / "long.ts.part").read_bytes()
    with pytest.raises(OutputOptionError, match=r"long\.ts\.part, as which .* is the input itself"):
        copy(tmp_path / "long.ts.part", tmp_path / "long.ts", overwrite=overwrite)
    assert (tmp_path / "long.ts.part").read_bytes() == before


def test_standard_input_from_the_output_is_refused(clip: Path) -> None:
    before = clip.read_bytes()
    kept = os.dup(0)
    try:
        with clip.open("rb") as file, open_source(str(clip)) as source:
            os.dup2(file.fileno(), 0)
            source.side.uri = "-"
            with pytest.raises(OutputOptionError, match="is the input itself"):
                open_sink(str(clip), source.info, side=source.side, overwrite=True)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert clip.read_bytes() == before


def test_two_runs_cannot_write_one_output(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with open_source(str(clip)) as source:
        first = open_sink(str(out), source.info, side=source.side)
        with pytest.raises(OutputError, match=r"out\.mp4 is being written by another run, as .*out\.mp4\.part"):
            open_sink(str(out), source.info, side=source.side, overwrite=True)
        for frame in source:
            first.write(frame)
        first.close()
    assert len(times(out)) == COUNT
    assert copy(clip, out, overwrite=True) == COUNT  # the lock is gone with the sink


def test_a_run_that_was_aborted_is_in_nobody_s_way_and_its_file_gets_another_name(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with open_source(str(clip)) as source:
        aborted = open_sink(str(out), source.info)
        aborted.write(next(iter(source)))
        aborted.abort()
    part = out.with_name("out.mp4.part")
    left = part.read_bytes()
    with pytest.raises(OutputOptionError), open_source(str(clip)) as source:
        open_sink(str(out), source.info, options={"refs": "many"})
    assert part.read_bytes() == left  # a run that could not begin has touched nothing
    aside = [out.with_name(f"out.unfinished-{number}.mp4") for number in (1, 2)]
    for number, moved in enumerate(aside):
        part.write_bytes(left)
        _, sink = copy_open(clip, out, overwrite=number > 0)
        (note,) = (note for note in sink.notes if "left by a run that did not finish" in note)
        assert note.endswith(f"is {moved.name} from now on")
        assert [path.read_bytes() for path in aside if path.exists()] == [left] * (number + 1)
    assert len(times(aside[0])) == 1  # it plays
    assert not part.exists()
    _, sink = copy_open(clip, out, overwrite=True)
    assert sink.notes == ()


def no_links(*names: Path) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("newcomer", ["file", "link"])
@pytest.mark.parametrize("links", [True, False])
def test_what_was_made_under_the_name_meanwhile_is_not_replaced_unasked(
    clip: Path, monkeypatch: pytest.MonkeyPatch, links: bool, newcomer: str
) -> None:
    if not links:  # as on FAT, and on some network file systems
        monkeypatch.setattr(os, "link", no_links)
    out, part = clip.with_name("out.mp4"), clip.with_name("out.mp4.part")
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source.info)
        for frame in source:
            sink.write(frame)
    if newcomer == "file":
        out.write_bytes(b"precious")
    else:
        out.symlink_to("elsewhere")
    with pytest.raises(OutputExistsError, match=r"out\.mp4 has been made .*out\.mp4\.part; give it another") as caught:
        sink.close()
    assert caught.value.exit_code == 2
    sink.abort()  # harmless
    assert out.is_symlink() or out.read_bytes() == b"precious"
    out.unlink()
    part.rename(clip.with_name("kept.mp4"))
    assert len(times(clip.with_name("kept.mp4"))) == COUNT
    assert copy(clip, out) == COUNT  # the lock is gone with the sink
    assert len(times(out)) == COUNT
    assert out.stat().st_nlink == 1
    assert not part.exists()


def test_what_was_made_just_before_the_lock_is_seen_before_any_work(tmp_path: Path) -> None:
    target = Target(str(tmp_path / "out.mp4"), None, overwrite=False)
    (tmp_path / "out.mp4").write_bytes(b"of a run that has just finished")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        target.claim()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_picture_that_was_made_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in", 2)
    with open_source(str(tmp_path / "in" / "f%03d.png")) as source:
        sink = open_sink(str(tmp_path / "o%d.png"), source.info)
        first, second = source
        sink.write(first)
        (tmp_path / "o2.png").write_bytes(b"precious")
        with pytest.raises(OutputExistsError, match=r"o2\.png exists already"):
            sink.write(second)
        sink.abort()
    assert (tmp_path / "o2.png").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "o1.png", "o2.png"]


def test_a_temporary_name_that_is_no_file_is_in_the_way(clip: Path) -> None:
    clip.with_name("out.mp4.part").mkdir()
    with pytest.raises(OutputError, match=r"out\.mp4\.part is in the way"):
        copy(clip, clip.with_name("out.mp4"))


@pytest.mark.parametrize("name", ["out.mp4", "o%d.png", "out.m3u8"])
@pytest.mark.parametrize("there", [True, False])
def test_a_temporary_name_that_is_a_link_is_in_the_way(clip: Path, name: str, there: bool) -> None:
    elsewhere = clip.with_name("elsewhere")
    if there:
        elsewhere.touch()
    clip.with_name(f"{name}.part").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"\.part is in the way: it is a link"):
        copy(clip, clip.with_name(name))
    assert elsewhere.exists() == there
    assert not there or elsewhere.read_bytes() == b""
    assert sorted(clip.parent.glob("*")) == sorted([clip, clip.with_name(f"{name}.part"), *[elsewhere] * there])


@pytest.mark.parametrize("name", ["out_init.mp4", "out_00000.m4s.tmp", "out.m3u8.tmp"])
def test_a_link_in_place_of_a_segment_is_not_followed(clip: Path, name: str) -> None:
    clip.with_name("elsewhere").write_text("kept")
    clip.with_name(name).symlink_to("elsewhere")
    with pytest.raises(OutputError, match=rf"{name} is in the way: it is a link"):
        copy(clip, clip.with_name("out.m3u8"))
    assert clip.with_name("elsewhere").read_text() == "kept"


def test_a_link_that_comes_just_before_the_file_is_made_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.part").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(os.path, "islink", lambda path: False)
    with pytest.raises(OutputError, match=r"out\.part cannot be written"):
        WriterLock(tmp_path / "out.part", name="out")
    assert not (tmp_path / "elsewhere").exists()


def test_a_finished_part_leaves_the_older_file_its_name(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    out.write_bytes(b"precious")
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source.info, side=source.side, overwrite=True)
        assert sink.replaces
        for frame in source:
            sink.write(frame)
        sink.close_as_part()
        sink.close()  # harmless
    assert out.read_bytes() == b"precious"
    out.with_name("out.mp4.part").rename(out.with_name("part.mp4"))
    assert len(times(out.with_name("part.mp4"))) == COUNT
    with open_source(str(clip)) as source:
        sink = open_sink(str(clip.with_name("new.mp4")), source.info)
        assert not sink.replaces
        with pytest.raises(OutputError, match="no frame came"):
            sink.close_as_part()
    assert not list(clip.parent.glob("new*"))


@pytest.mark.parametrize("name", ["pipe", "pipe.ts"])
def test_a_named_pipe_is_written_to_and_stays(clip: Path, name: str) -> None:
    pipe = clip.with_name(name)
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    copy(clip, pipe, format=None if pipe.suffix else "mpegts")
    reader.join(10)
    assert pipe.is_fifo()
    assert sorted(p.name for p in clip.parent.iterdir()) == sorted(["in.mp4", name])
    clip.with_name("read.ts").write_bytes(read[0])
    assert len(times(clip.with_name("read.ts"))) == COUNT


def test_a_device_stays_a_device(clip: Path) -> None:
    null = Path("/dev/null")
    copy(clip, null, format="mpegts", overwrite=True)
    assert null.is_char_device()
    assert not Path("/dev/null.part").exists()
    with pytest.raises(OutputOptionError, match="name it with --format"):
        copy(clip, null)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(clip: Path) -> None:
    real, link = clip.with_name("real"), clip.with_name("link.mp4")
    real.mkdir()
    link.symlink_to(Path("real") / "out.mp4")
    copy(clip, link)  # the file is not there yet
    with pytest.raises(OutputExistsError):
        copy(clip, link)
    copy(clip, link, overwrite=True)
    assert link.is_symlink()
    assert not (real / "out.mp4").is_symlink()
    assert len(times(real / "out.mp4")) == COUNT
    assert [p.name for p in real.iterdir()] == ["out.mp4"]
    loop = clip.with_name("loop.mp4")
    loop.symlink_to("loop.mp4")
    with pytest.raises(OutputOptionError, match="leads nowhere"):
        copy(clip, loop, overwrite=True)


@pytest.mark.parametrize("prefix", ["file:", "file://", "FILE://"])
def test_a_file_url_is_the_path_that_it_means(clip: Path, prefix: str) -> None:
    before = clip.read_bytes()
    out = clip.with_name("out.mp4")
    with pytest.raises(OutputOptionError, match="is the input itself"):
        copy(clip, f"{prefix}{clip}", overwrite=True)
    with pytest.raises(OutputOptionError, match="is the input itself"):
        copy(f"{prefix}{clip}", clip, overwrite=True)
    assert clip.read_bytes() == before
    with open_source(f"{prefix}{clip}") as source, open_sink(f"{prefix}{out}", source.info) as sink:
        for frame in source:
            sink.write(frame)
        assert not out.exists()
    with pytest.raises(OutputExistsError):
        copy(clip, f"{prefix}{out}")
    cv2.imwrite(str(clip.with_name("f1.png")), scene(1))
    assert list_stills(f"{prefix}{clip.with_name('f1.png')}") == [clip.with_name("f1.png")]
    with open_source(f"{prefix}{clip.with_name('f%d.png')}") as source:
        assert len(list(source)) == 1


@pytest.mark.parametrize("target", ["seq/f%03d.png", "link/f%03d.png", "seq/../seq/%03d.png", "seq/f%d.png"])
def test_a_sequence_is_never_written_over_itself(tmp_path: Path, target: str) -> None:
    first = 99 if target.endswith("f%d.png") else 1  # from 100 on both patterns mean one file
    before = write_sequence(tmp_path / "seq", 3, first=first)
    (tmp_path / "link").symlink_to("seq")
    if target.endswith("/%03d.png"):  # by links to the pictures
        for path in before:
            path.rename(path.with_name(path.name[1:]))
            path.symlink_to(path.name[1:])
    with pytest.raises(OutputOptionError, match="is one of the input's pictures"):
        copy(tmp_path / "seq" / "f%03d.png", tmp_path / target, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("old", "gone"),
    [
        ((1, 5), "f003.png to f005.png"),
        ((0, 3), "f000.png"),
        ((0, 5), "f000.png and f003.png to f004.png"),
    ],
)
def test_the_rest_of_an_older_sequence_goes_and_is_noted(tmp_path: Path, old: tuple[int, int], gone: str) -> None:
    """Or what is there then would be another one. What is beyond a gap is of something else."""
    write_sequence(tmp_path / "in", 2)
    write_sequence(tmp_path / "out", old[1], first=old[0])
    write_sequence(tmp_path / "out", 1, first=9)
    (tmp_path / "out" / "f7.png").touch()
    _, sink = copy_open(tmp_path / "in" / "f%03d.png", tmp_path / "out" / "f%03d.png", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["f001.png", "f002.png", "f009.png", "f7.png"]
    assert any(note.startswith(f"removed {gone}, of the") for note in sink.notes)


@pytest.mark.parametrize(
    "name", ["out/100%_o%05d.png", "100% rain/f%05d.png", "10:00_%05d.png", "100%d/x%d.png", "%%_%03d.png", "%s%3d.png"]
)
def test_only_the_number_of_a_sequence_is_read_into_its_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("in.mp4"), count=3)
    Path(name).parent.mkdir(exist_ok=True)
    assert copy("in.mp4", name) == 3
    number = re.search(r"%0?(\d*)d", Path(name).name)
    assert number
    for index in (1, 2, 3):
        counted = str(index).zfill(int(number[1] or 0))
        assert (Path(name).parent / Path(name).name.replace(number[0], counted)).is_file()
    assert copy(name, "back.mp4") == 3
    found = list_stills(Path(name).parent)
    assert found
    assert len(found) == 3
    assert sequence.pattern_of(found) is None or sequence.pictures(sequence.pattern_of(found) or "") == found


def test_an_interrupted_sequence_keeps_what_is_beyond_it(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in", 2)
    write_sequence(tmp_path / "out", 5)
    with open_source(str(tmp_path / "in" / "f%03d.png")) as source:
        sink = open_sink(str(tmp_path / "out" / "f%03d.png"), source.info, side=source.side, overwrite=True)
        assert sink.replaces
        sink.write(next(iter(source)))
        sink.close_as_part()
        sink.close()  # harmless
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_two_runs_cannot_write_one_sequence(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    with open_source(str(tmp_path / "in" / "f%03d.png")) as source:
        first = open_sink(str(tmp_path / "out" / "f%03d.png"), source.info, side=source.side)
        for same in ("f%03d.png", "f%d.png"):
            with pytest.raises(OutputError, match="is being written by another run"):
                open_sink(str(tmp_path / "out" / same), source.info, side=source.side, overwrite=True)
        other = open_sink(str(tmp_path / "out" / "g%03d.png"), source.info, side=source.side)
        for frame in source:
            first.write(frame)
            other.write(frame)
        first.close()
        other.abort()
        names = ["f001.png", "f002.png", "g001.png", "g002.png"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
        with pytest.raises(OutputExistsError):
            open_sink(str(tmp_path / "out" / "f%03d.png"), source.info, side=source.side)
        open_sink(str(tmp_path / "out" / "f%03d.png"), source.info, side=source.side, overwrite=True).abort()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_sound_that_a_sequence_cannot_hold_is_noted(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", audio=0.4, subtitles=True)
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "o%d.png")
    assert [note.split(" stream")[0] for note in sink.notes] == ["audio", "subtitle"]
    assert not sink.replaces
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "p%d.png", audio="none", subtitles="none")
    assert sink.notes == ()


@pytest.mark.parametrize(
    "name", ["{250}.mkv", "{300}.mkv", "{300}.m3u8", "{255}%d.png", "{300}/f%d.png", "{300}/f.mp4"]
)
def test_an_output_whose_name_is_too_long_is_one_line(clip: Path, name: str) -> None:
    """Also where only its temporary name is: 250 characters and ".mkv" would do."""
    length = re.search(r"\{(\d+)\}", name)
    assert length
    with pytest.raises(OutputError, match=r"File name too long|is not a folder"):
        copy(clip, clip.parent / name.replace(length[0], "x" * int(length[1])))
    assert list(clip.parent.iterdir()) == [clip]


@pytest.mark.parametrize("suffix", [".mp4", ".png", "%d.png", "/f%d.png", "/f.mp4"])
def test_an_input_whose_name_is_too_long_is_one_line(tmp_path: Path, suffix: str) -> None:
    name = f"{tmp_path}/{'x' * 300}{suffix}"
    assert list_stills(name) is None
    with pytest.raises(InputError, match=r"File name too long|no picture matches"):
        open_source(name)
