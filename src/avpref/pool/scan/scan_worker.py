"""The worker of stage ``scan``: content hash, properties and profile of each source. A source that cannot be used is a row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from avpref.config.pool.pool_settings import BucketAccess
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.media.containers import MediaSource, opened
from avpref.media.reading import MediaInfo, probe
from avpref.media.reading_rules import ReadingRules
from avpref.pool.pool_tables import OK, REFUSED
from avpref.pool.scan.pool_source import PoolSource, content_sha256, opened_source
from avpref.pool.scan.source_profile import SourceProfile, profile
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

RECORDING_ID_CHARS = 16
COVER_ART = "no picture (cover art alone)"


@dataclass(frozen=True)
class SourceRow:
    """A source as stage ``scan`` found it; columns of :data:`avpref.pool.pool_tables.SOURCES`."""

    source_id: str
    uri: str
    member: str
    offset: int
    num_bytes: int
    sha256: str = ""
    recording_id: str = ""
    status: str = REFUSED
    reason: str = ""
    container: str = ""
    num_streams: int = 0
    duration_s: float = 0.0
    video_codec: str = ""
    height_px: int = 0
    width_px: int = 0
    fps_hz: float = 0.0
    rotation_deg: int = 0
    is_variable_rate: bool = False
    num_frames: int = 0
    hdr: str = ""
    audio_codec: str = ""
    sample_rate_hz: int = 0
    num_channels: int = 0
    audio_start_s: float = 0.0
    audio_end_s: float = 0.0
    frame_times_s: Sequence[float] = field(default=())
    hue_changes: Sequence[float] = field(default=())
    saturation_changes: Sequence[float] = field(default=())
    luma_changes: Sequence[float] = field(default=())
    histogram_matches: Sequence[float] = field(default=())
    picture_hashes: Sequence[int] = field(default=())
    picture_slots: Sequence[int] = field(default=())
    sound_prints: Sequence[int] = field(default=())
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class ScanSpec:
    """Builds workers of the scan. ``requires_sound`` refuses recordings without sound."""

    files: UnitFiles
    bucket: BucketAccess
    rules: ReadingRules
    requires_sound: bool

    def build(self) -> ScanWorker:
        """A worker; there is nothing to load."""
        return ScanWorker(self)


@dataclass(frozen=True)
class ScanWorker:
    """Scans units of sources."""

    spec: ScanSpec

    def run(self, unit: Unit[PoolSource]) -> Receipt:
        """Commit a row per source of ``unit``."""
        started = time.perf_counter()
        rows = [self._row(source) for source in unit.items]
        self.spec.files.commit(unit, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _row(self, source: PoolSource) -> SourceRow:
        started = time.perf_counter()
        place = (source.item_id, source.uri, source.member, source.offset, source.num_bytes)
        sha256 = ""
        try:
            with opened_source(source, self.spec.bucket) as media:
                sha256 = content_sha256(media)
                values = self._measured(media)
        except (MediaError, PermissionError) as error:
            reason = error.found if isinstance(error, MediaError) else f"unreadable: {error.strerror}"
            return SourceRow(*place, sha256=sha256, reason=reason, elapsed_s=time.perf_counter() - started)
        recording_id = "r" + sha256[:RECORDING_ID_CHARS]
        elapsed_s = time.perf_counter() - started
        return SourceRow(*place, sha256=sha256, recording_id=recording_id, **values, elapsed_s=elapsed_s)

    def _measured(self, media: MediaSource) -> dict[str, Any]:
        """Columns of the row. Raises MediaError for a source that cannot be decoded, or lacks a track."""
        info = probe(media, self.spec.rules)
        if info.video is None:
            raise MediaError(_without_picture(media), "a recording with a picture", "remove it")
        if info.audio is None and self.spec.requires_sound:
            raise MediaError("no sound", "a recording with sound", "--set scan.require_sound=false")
        profiled = profile(media, self.spec.rules)
        return {**_properties(info), **_profile_columns(profiled), "status": OK}


def _without_picture(media: MediaSource) -> str:
    with opened(media) as container:
        return COVER_ART if container.streams.video else "no picture"


def _properties(info: MediaInfo) -> dict[str, Any]:
    video, audio = info.video, info.audio
    assert video is not None
    values: dict[str, Any] = {
        **{"container": info.container, "num_streams": info.num_streams, "video_codec": video.codec},
        **{"height_px": video.height_px, "width_px": video.width_px, "fps_hz": video.fps_hz},
        **{"rotation_deg": video.rotation_deg, "hdr": video.hdr},
    }
    if audio is not None:
        values |= {"audio_codec": audio.codec, "sample_rate_hz": audio.sample_rate_hz}
        values |= {"num_channels": audio.num_channels, "audio_start_s": audio.start_s, "audio_end_s": audio.duration_s}
    return values


def _profile_columns(profiled: SourceProfile) -> dict[str, Any]:
    return {
        **{"duration_s": profiled.end_s, "is_variable_rate": profiled.is_variable_rate},
        **{"num_frames": len(profiled.frame_times_s), "frame_times_s": profiled.frame_times_s},
        **{"hue_changes": profiled.changes.hue, "saturation_changes": profiled.changes.saturation},
        **{"luma_changes": profiled.changes.luma, "histogram_matches": profiled.changes.matches},
        **{"picture_hashes": profiled.pictures.hashes, "picture_slots": profiled.pictures.slots},
        "sound_prints": profiled.sound_prints,
    }
