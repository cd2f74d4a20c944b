"""Deinterlacing of pictures that their decoder marks as interlaced, with FFmpeg's ``bwdif``. PyAV only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

COUNTER = Fraction(1, 25)
"""Time base of the pictures inside the filter, which only needs their order."""


class Deinterlacer:
    """Passes pictures on, one for one and in order; interlaced ones have each field's missing rows filled from its neighbours.

    The filter starts at the first interlaced picture and leaves others as they are. It uses the neighbours in time, so that it
    gives a picture back only when the next one has come.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._format: tuple[int, int, str] | None = None
        self._times_s: deque[float] = deque()
        self._count = 0

    def add(self, time_s: float, frame: av.VideoFrame) -> Iterator[tuple[float, av.VideoFrame]]:
        """The pictures that are complete after ``frame``, shown from ``time_s`` on, with their times."""
        frame_format = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and frame_format != self._format:
            yield from self.rest()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield time_s, frame
                return
            self._graph, self._format = _graph(frame), frame_format
        self._times_s.append(time_s)
        frame.pts, frame.time_base = self._count, COUNTER
        self._count += 1
        self._graph.vpush(frame)
        yield from self._pull(self._graph)

    def rest(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """End of the pictures: those that waited for a next one."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull(self._graph)
            self._graph = None

    def _pull(self, graph: Graph) -> Iterator[tuple[float, av.VideoFrame]]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield self._times_s.popleft(), frame


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=COUNTER)
    filtered = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    sink = graph.add("buffersink")
    graph.link_nodes(source, filtered, sink).configure()
    return graph
