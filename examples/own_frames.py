"""Derain frames of your own, here OpenCV's: python examples/own_frames.py CAMERA_OR_FILE FOLDER [COUNT] [MODEL]

CAMERA is a number, 0 for the first; FOLDER receives COUNT pictures. Needs opencv-python-headless.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import torch

import streamderain

TICK = Fraction(1, 1_000_000)  # time is an integer number of ticks, never a float


def camera_frames(capture: cv2.VideoCapture, *, live: bool) -> Iterator[streamderain.Frame]:
    """Wraps what OpenCV gives, [H, W, 3] uint8 in the order blue, green, red, without copying it twice.

    A camera's frames have the time at which they came, a file's their own.
    """
    began = time.monotonic()
    while True:
        good, picture = capture.read()
        if not good:
            return
        rgb = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        seconds = time.monotonic() - began if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        yield streamderain.Frame(pixels=rgb, pts=round(seconds / TICK), time_base=TICK)


def main(name: str, folder: str, count: str = "100", model: str = "fast") -> None:
    live = name.isdigit()
    capture = cv2.VideoCapture(int(name) if live else name)
    if not capture.isOpened():  # OpenCV says nothing, and would give no frame
        sys.exit(f"{name} cannot be opened")
    Path(folder).mkdir(parents=True, exist_ok=True)
    rainy = itertools.islice(camera_frames(capture, live=live), int(count))

    # Lazy: a frame is taken from the camera when the loop asks for the next clean one. One call is one stream: the
    # network remembers the frames before, so frames of two cameras go through two calls.
    clean = streamderain.derain(rainy, streamderain.Derainer(model))
    for number, frame in enumerate(clean):
        bgr = cv2.cvtColor(frame.pixels.numpy(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(Path(folder) / f"{number:05d}.png"), bgr)
        print(f"frame {number} of {frame.seconds:.3f} s")
    capture.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
