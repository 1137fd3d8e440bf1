"""Somebody who watches a stream, in a process of its own: prints each frame's time and mean as JSON. By PyAV alone."""

from __future__ import annotations

import json
import sys

import av
import av.error


def main() -> None:
    url, options = sys.argv[1], json.loads(sys.argv[2])
    try:
        # Reads give up after 5 s, so that a stream without an end (UDP) ends.
        with av.open(url, options=options, timeout=(200, 5)) as container:
            for frame in container.decode(video=0):
                time = None if frame.pts is None else float(frame.pts * frame.time_base)
                print(json.dumps([time, float(frame.to_ndarray(format="rgb24").mean())]), flush=True)
    except (av.error.FFmpegError, OSError) as error:
        print(json.dumps(["end", str(error)]), flush=True)


if __name__ == "__main__":
    main()
