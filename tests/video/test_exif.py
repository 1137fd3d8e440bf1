"""Which way up a picture is: by its own Exif data, and by nothing else that looks like it."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import pytest
from PIL import Image

from streamderain.video import read_still

from .clips import scene

TURNED = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # nothing but the orientation


def jpeg() -> bytes:
    ok, data = cv2.imencode(".jpg", scene(3)[..., ::-1])
    assert ok
    return data.tobytes()


def with_segment(marker: bytes) -> bytes:
    body = b"Exif\0\0" + TURNED
    return jpeg()[:2] + marker + struct.pack(">H", len(body) + 2) + body + jpeg()[2:]


@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (with_segment(b"\xff\xe1"), True),
        (with_segment(b"\xff\xff\xff\xe1"), True),  # filled up, as the standard allows
        (with_segment(b"\xff\xfe"), False),
        (jpeg() + with_segment(b"\xff\xe1"), False),
    ],
    ids=["exif", "filled", "comment", "second picture"],
)
def test_a_jpeg_is_turned_by_its_own_exif_data_alone(tmp_path: Path, data: bytes, turned: bool) -> None:
    path = tmp_path / "in.jpg"
    path.write_bytes(data)
    height, width = scene(3).shape[:2]
    assert read_still(path).pixels.shape == ((width, height, 3) if turned else (height, width, 3))


def test_a_tiff_is_turned_though_no_camera_has_written_in_it(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(scene(3)).save(tmp_path / "in.tiff", exif=tags)
    height, width = scene(3).shape[:2]
    assert read_still(tmp_path / "in.tiff").pixels.shape == (width, height, 3)
