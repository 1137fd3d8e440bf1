"""Derain a video file with the API: python examples/derain_file.py rainy.mp4 clear.mp4 [MODEL]"""

import sys

import streamderain


def main(rainy: str, clear: str, model: str = "fast") -> None:
    derainer = streamderain.Derainer(model)  # loaded once; good for any number of videos
    source = streamderain.open_source(rainy)
    # `side` carries sound, subtitles, chapters and metadata over; without it the output holds the picture only.
    sink = streamderain.open_sink(clear, source.info, side=source.side, crf=20)
    print(f"{derainer.description} → {sink.description}")

    # Decodes and encodes on threads of its own while the network works in this one, and finishes both ends.
    stats = streamderain.run(source, sink, derainer)
    print(f"{stats.frames} frames, {stats.fps:.1f} frames/s")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except streamderain.errors.StreamderainError as error:
        sys.exit(str(error))  # one clear line: what is wrong, and what to do
