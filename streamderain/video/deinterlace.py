"""Deinterlacing: one whole picture for each, at its own time, also where size or pixel format change on the way."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
from av.filter import Graph


class Deinterlacer:
    """FFmpeg's bwdif, one picture a frame; progressive pictures of a mixed stream pass untouched. Not thread-safe.

    It holds one picture back. Its methods raise what PyAV raises where FFmpeg cannot do it.

    Args:
        tick: seconds per tick of the pictures' pts.
    """

    def __init__(self, tick: Fraction) -> None:
        self._tick = tick
        self._graph: Graph | None = None
        self._like: tuple[int, int, str] | None = None

    def through(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Takes one picture, in the CPU's memory, and gives what is ready."""
        like = picture.width, picture.height, picture.format.name
        if self._graph is None or like != self._like:
            # A graph is made for one size and one format: of any other, bwdif reads memory that holds no picture.
            yield from self.rest()
            self._graph, self._like = self._made_for(picture), like
        self._graph.vpush(picture)
        yield from _pulled(self._graph)

    def rest(self) -> Iterator[av.VideoFrame]:
        """Gives what was held back."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.vpush(None)
            yield from _pulled(graph)

    def _made_for(self, picture: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=self._tick, name="in"
        )
        # deint=interlaced: progressive pictures pass.
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
