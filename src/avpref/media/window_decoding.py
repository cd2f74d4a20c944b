"""Decoding of a window: seek, decode, and hand each frame with its time to the collectors of picture and sound. PyAV only."""

from __future__ import annotations

import av
from av.container import InputContainer

from avpref.media.audio_samples import PREROLL_S, AudioCollector
from avpref.media.containers import ends_early
from avpref.media.shown_frames import FRAME_SLACK_S, FramePicker
from avpref.media.timeline import container_end_s, declared_end_s, origin_s, time_s

END_SLACK_S = 0.1
"""Seconds by which a window may extend past the end of a recording, because containers round lengths."""


def decode_window(container: InputContainer, start_s: float, collectors: list[FramePicker | AudioCollector]) -> None:
    """Decode the collectors' streams from before ``start_s`` until all are done. Raises MediaError for a damaged packet."""
    first_s = origin_s(container)
    by_stream = {collector.stream.index: collector for collector in collectors}
    for collector in collectors:
        collector.stream.codec_context.thread_count = 1
    if start_s > 2 * PREROLL_S:
        container.seek(int((first_s + start_s - PREROLL_S) * av.time_base))
    for packet in container.demux([collector.stream for collector in collectors]):
        collector = by_stream[packet.stream.index]
        if collector.is_done:
            if all(other.is_done for other in collectors):
                break
            continue
        if packet.is_corrupt:
            raise ends_early(container.name, f"a damaged {packet.stream.type} packet", "whole packets")
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame) and isinstance(collector, FramePicker):
                collector.offer(time_s(container, frame) - first_s, frame)
            if isinstance(frame, av.AudioFrame) and isinstance(collector, AudioCollector):
                collector.offer(time_s(container, frame) - first_s, frame)
    for collector in collectors:
        collector.finish()


def require_end(container: InputContainer, collector: FramePicker | AudioCollector, end_s: float) -> None:
    """Raises MediaError for a stream that ended before both the window's end and its declared end, less one frame."""
    declared_s = declared_end_s(container, collector.stream)
    has_nothing = isinstance(collector, FramePicker) and not collector.picked
    needed_s = end_s if declared_s is None else min(end_s, declared_s)
    is_short = declared_s is not None and collector.end_s < needed_s - collector.slack_s - FRAME_SLACK_S
    if has_nothing or (collector.has_run_out and is_short):
        raise ends_early(container.name, f"{collector.stream.type} until {collector.end_s:.3f} s", f"{needed_s:.3f} s")


def require_container_end(
    container: InputContainer, collectors: list[FramePicker | AudioCollector], end_s: float
) -> None:
    """Raises MediaError if no stream reaches the container's end; for containers without lengths per stream."""
    length_s = container_end_s(container)
    if length_s is None or not all(collector.has_run_out for collector in collectors):
        return
    reached_s, needed_s = max(collector.end_s for collector in collectors), min(end_s, length_s)
    if reached_s < needed_s - END_SLACK_S:
        raise ends_early(container.name, f"media until {reached_s:.3f} s", f"{needed_s:.3f} s")
