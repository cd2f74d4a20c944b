"""Ends of streams measured from their packets, for files whose header has no length, as live recorders write them. PyAV only."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream


def measured_end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """End of ``stream`` in seconds on the container's own clock, from all of its packets; None if it has none.

    Files are read once more and remembered; a clip in memory is read from its beginning and rewound.
    """
    path = Path(container.name) if container.name else None
    if path is not None and path.is_file():
        status = path.stat()
        return _of_file(str(path), status.st_mtime_ns, status.st_size).get(stream.index)
    ends = _ends(container)
    container.seek(0)
    return ends.get(stream.index)


@lru_cache(maxsize=256)
def _of_file(path: str, mtime_ns: int, size_bytes: int) -> dict[int, float]:
    with av.open(path, "r", metadata_errors="replace") as container:
        return _ends(container)


def _ends(container: InputContainer) -> dict[int, float]:
    """End of every stream's last packet in seconds, by the stream's index."""
    ends: dict[int, float] = {}
    for packet in container.demux():
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.time_base is None:
            continue
        end_s = float((stamp + (packet.duration or _usual_ticks(packet))) * packet.time_base)
        ends[packet.stream.index] = max(end_s, ends.get(packet.stream.index, end_s))
    return ends


def _usual_ticks(packet: av.Packet) -> int:
    """Length of a picture's packet that has none, from the stream's frame rate."""
    stream = packet.stream
    rate = stream.average_rate if isinstance(stream, VideoStream) else None
    if not rate or packet.time_base is None:
        return 0
    return round(1 / rate / packet.time_base)
