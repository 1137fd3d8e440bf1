"""Several cameras in one program: python examples/several_cameras.py FOLDER SECONDS MODEL CAMERA [CAMERA ...]"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import streamderain
from streamderain.live import run_live
from streamderain.turns import FifoLock, SharedDerainer
from streamderain.video.live import open_live


def main(folder: str, seconds: str, model: str, *cameras: str) -> None:
    # The model is loaded once. Threads may use a Derainer as it is, each with a session of its own; a shared one lets
    # their frames through one at a time, in the order in which they come, so that they do not slow each other down.
    derainer = SharedDerainer(streamderain.Derainer(model, build="ready"), FifoLock(), streams=len(cameras))
    Path(folder).mkdir(parents=True, exist_ok=True)

    def watch(number: int, camera: str) -> str:
        with open_live(camera) as source:  # comes back by itself when the camera does
            sink = streamderain.open_sink(f"{folder}/{number}.mkv", source.info)
            stats = run_live(source, sink, derainer, duration=float(seconds))
        return f"{number}.mkv: {stats.frames} frames, {stats.skipped} skipped"

    with ThreadPoolExecutor(len(cameras)) as threads:  # one for each: a stream is one thread's, from frame to frame
        for said in threads.map(watch, range(len(cameras)), cameras):
            print(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
