"""The worker that imports clips of foreign pairs: checks each and commits it, encoded again unless it has the run's shape already."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from avpref.config.schema import Settings
from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace, ClipReader
from avpref.datasets.prompts.clips import MAX_SILENT_SHARE
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Candidate, Origin
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.stages.candidate_plan import sampler_hash, sampler_parts
from avpref.flows.workers.prompt_sources import STEREO, clip_shape, makes_stereo, reading_rules
from avpref.identity import bytes_sha256
from avpref.media.conformity import conforms
from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip
from avpref.media.writing import encode_clip
from avpref.storage.commits.batch_commit import commit_all
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.files import Files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

MAX_WAITING_BYTES = 64 << 20
"""Bytes of clips that wait to be committed together."""


@dataclass(frozen=True)
class ImportItem:
    """A clip to import as a candidate. ``sha256`` is that of its bytes in the list; ``is_verified``: the list gave the same hash."""

    item_id: str
    prompt_id: str
    index: int
    place: ClipPlace
    sha256: str
    is_verified: bool


@dataclass(frozen=True)
class ImportSpec:
    """Builds workers that import clips from ``folder`` into ``store`` and commit rows to ``files``."""

    store: Files
    folder: Path
    settings: Settings
    files: UnitFiles

    def build(self) -> ImportWorker:
        """A worker; there is nothing to load."""
        return ImportWorker(self)


@dataclass(frozen=True)
class ImportWorker:
    """Imports units of clips. A clip that cannot be used is quarantined, and its pairs are not trained on."""

    spec: ImportSpec

    @cached_property
    def shape(self) -> ClipShape:
        """The shape of the run's clips."""
        return clip_shape(self.spec.settings)

    @cached_property
    def sampler(self) -> tuple[str, str]:
        """Hash and JSON of the settings that clips depend on, for the rows."""
        parts = json.dumps(sampler_parts(self.spec.settings), sort_keys=True, ensure_ascii=False)
        return sampler_hash(self.spec.settings), parts

    @cached_property
    def reader(self) -> ClipReader:
        """Reads clips of the list; units in the order of the list read each shard once."""
        return ClipReader(self.spec.folder)

    def run(self, unit: Unit[ImportItem]) -> Receipt:
        """Commit the candidates of ``unit``'s items: media first, then the rows that refer to them."""
        started, rows, quarantined = time.perf_counter(), [], []
        waiting: list[tuple[str, bytes]] = []
        for item in unit.items:
            try:
                row, data = self._imported(item)
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
                continue
            rows.append(row)
            waiting.append((row.path, data))
            if sum(len(data) for _, data in waiting) >= MAX_WAITING_BYTES:
                commit_all(self.spec.store, waiting)
                waiting = []
        commit_all(self.spec.store, waiting)
        hit(FailPoint.MEDIA_COMMITTED)
        self.spec.files.commit(unit, rows, quarantined)
        return Receipt(len(rows), len(quarantined), time.perf_counter() - started)

    def _imported(self, item: ImportItem) -> tuple[Candidate, bytes]:
        """The candidate and the bytes of its file."""
        started = time.perf_counter()
        source = self.reader.read(item.place)
        if bytes_sha256(source) != item.sha256:
            found = f"{item.place.file} has changed since the pairs were listed"
            raise MediaError(found, f"a clip with sha-256 {item.sha256[:12]}…", "import the pairs again")
        data = self._conforming(source, item.is_verified)
        sha256 = bytes_sha256(data)
        path = f"clips/{item.item_id[:3]}/{item.item_id}-{sha256[:8]}.mp4"
        hashed, parts = self.sampler
        candidate = Candidate(
            candidate_id=item.item_id,
            prompt_id=item.prompt_id,
            index=item.index,
            origin=Origin.IMPORTED,
            seed=0,
            checkpoint_hash="",
            sampler_hash=hashed,
            sampler=parts,
            elapsed_s=time.perf_counter() - started,
            path=path,
            sha256=sha256,
            num_frames=self.shape.num_frames,
            height_px=self.shape.height_px,
            width_px=self.shape.width_px,
            fps_hz=self.shape.fps_hz,
            sample_rate_hz=self.shape.sample_rate_hz,
            duration_s=self.shape.duration_s,
        )
        return candidate, data

    def _conforming(self, source: bytes, is_verified: bool) -> bytes:
        """The clip in the run's shape: the same bytes where they have it already, otherwise read and encoded again.

        Bytes whose hash the list gave are not decoded; all others are. Raises MediaError for a clip that cannot be read, is shorter
        than the run's clips, or lacks a track.
        """
        has_shape = conforms(source, self.shape)
        if has_shape and is_verified:
            return source
        clip = read_clip(io.BytesIO(source), self.shape, rules=reading_rules(self.spec.settings.clip))
        if clip.frames is None or clip.audio is None:
            missing = "picture" if clip.frames is None else "sound"
            raise MediaError(f"a clip without {missing}", "picture and sound", "remove its pairs from the list")
        if clip.sound_share < 1 - MAX_SILENT_SHARE:
            found = f"a clip with sound for {clip.sound_share:.0%} of its length"
            raise MediaError(found, f"sound for at least {1 - MAX_SILENT_SHARE:.0%}", "remove its pairs from the list")
        if has_shape:
            return source
        is_kept = makes_stereo(self.spec.settings) and clip.channels is not None and len(clip.channels) == STEREO
        sound = clip.channels if is_kept else clip.audio
        assert sound is not None
        return encode_clip(clip.frames, self.shape.fps_hz, sound, self.shape.sample_rate_hz)
