"""The index of an mp4 file: codecs, sizes, rates and sample counts of its tracks, read from its boxes alone.

Source: ISO/IEC 14496-12 (boxes moov, trak, mdia, stbl) and 14496-14. Nothing is decoded, so it takes a small
part of the time that FFmpeg needs to open a file. A file with fragments, or with boxes that contradict each other, has no index here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True)
class Mp4Track:
    """One track: handler (``vide``, ``soun``), codec (``avc1``, ``mp4a``), number of samples, length in seconds of all of them, and
    whether all samples have one duration. ``height_px`` and ``width_px`` of pictures, ``sample_rate_hz`` and ``channels`` of sound."""

    handler: str
    codec: str
    num_samples: int
    duration_s: Fraction
    is_even: bool
    height_px: int = 0
    width_px: int = 0
    sample_rate_hz: int = 0
    channels: int = 0


def read_index(data: bytes) -> list[Mp4Track] | None:
    """The tracks of an mp4 whose media data are all there; None for any other file."""
    try:
        top = list(_boxes(data, 0, len(data)))
        kinds = [kind for kind, _, _ in top]
        if kinds[:1] != [b"ftyp"] or kinds.count(b"moov") != 1 or b"moof" in kinds or b"mdat" not in kinds:
            return None
        ((_, start, end),) = [box for box in top if box[0] == b"moov"]
        tracks = [_track(data, first, last) for kind, first, last in _boxes(data, start, end) if kind == b"trak"]
    except (struct.error, ValueError, KeyError, IndexError, ZeroDivisionError):
        return None
    media = [(first, last) for kind, first, last in top if kind == b"mdat"]
    is_whole = all(any(first <= offset < last for first, last in media) for _, offsets in tracks for offset in offsets)
    return [track for track, _ in tracks] if is_whole else None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box. Raises ValueError for a box that reaches past ``end``."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            header = 16
        size = size or end - start
        if size < header or start + size > end:
            raise ValueError("a box longer than what holds it")
        yield kind, start + header, start + size
        start += size


def _track(data: bytes, start: int, end: int) -> tuple[Mp4Track, list[int]]:
    """A track, and the offsets of its first and last chunk of media data."""
    boxes: dict[bytes, tuple[int, int]] = {}
    pending = [(start, end)]
    while pending:
        for kind, first, last in _boxes(data, *pending.pop()):
            boxes.setdefault(kind, (first, last))
            if kind in CONTAINERS:
                pending.append((first, last))
    handler = data[boxes[b"hdlr"][0] + 8 : boxes[b"hdlr"][0] + 12].decode("ascii")
    codec, sizes = _description(data, boxes[b"stsd"][0], handler)
    timescale = _timescale(data, boxes[b"mdhd"][0])
    (num_samples,) = struct.unpack_from(">I", data, boxes[b"stsz"][0] + 8)
    runs = _runs(data, boxes[b"stts"][0])
    if sum(count for count, _ in runs) != num_samples:
        raise ValueError("tables that contradict each other")
    duration = Fraction(sum(count * delta for count, delta in runs), timescale)
    is_even = len({delta for _, delta in runs}) == 1
    track = Mp4Track(handler, codec, num_samples, duration, is_even, **sizes)
    return track, _offsets(data, boxes)


def _description(data: bytes, start: int, handler: str) -> tuple[str, dict[str, int]]:
    """Codec and sizes of the only sample description. Raises ValueError where there are several."""
    (count,) = struct.unpack_from(">I", data, start + 4)
    if count != 1:
        raise ValueError("several sample descriptions")
    entry = start + 8
    codec = data[entry + 4 : entry + 8].decode("ascii")
    if handler == "vide":
        width, height = struct.unpack_from(">HH", data, entry + 32)
        return codec, {"height_px": height, "width_px": width}
    if handler == "soun":
        channels, _, _, _, rate = struct.unpack_from(">HHHHI", data, entry + 24)
        return codec, {"sample_rate_hz": rate >> 16, "channels": channels}
    return codec, {}


def _timescale(data: bytes, start: int) -> int:
    """Units per second of a track's times."""
    (scale,) = struct.unpack_from(">I", data, start + (20 if data[start] == 1 else 12))
    return int(scale)


def _runs(data: bytes, start: int) -> list[tuple[int, int]]:
    """Number and duration of consecutive samples of equal duration."""
    (count,) = struct.unpack_from(">I", data, start + 4)
    return [struct.unpack_from(">II", data, start + 8 + 8 * place) for place in range(count)]


def _offsets(data: bytes, boxes: dict[bytes, tuple[int, int]]) -> list[int]:
    """Offsets of the first and the last chunk."""
    code, step, start = (">I", 4, boxes[b"stco"][0]) if b"stco" in boxes else (">Q", 8, boxes[b"co64"][0])
    (count,) = struct.unpack_from(">I", data, start + 4)
    places = (0, count - 1) if count else ()
    return [struct.unpack_from(code, data, start + 8 + step * place)[0] for place in places]
