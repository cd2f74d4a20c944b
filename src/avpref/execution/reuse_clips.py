"""Importers of reused rows: clips with their latents, embeddings, and rows that depend on clips.

Clips are linked into this run and never referred to across runs, so that every run folder is complete by itself; before
that a clip's bytes are compared with the SHA-256 of its row. Items whose files cannot be imported are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from avpref.domain import Origin
from avpref.identity import bytes_sha256
from avpref.storage.files import Files
from avpref.storage.score_files import EMBEDDINGS
from avpref.storage.sibling_runs import SiblingRun, UnitFile, bring_files, find, units_by_fingerprint
from avpref.storage.unit import Item

HASHING_THREADS = 4


@dataclass(frozen=True)
class ClipImporter:
    """Imports candidates: links their clips into ``store``, and their latents if this run keeps latents."""

    store: Files
    keeps_latents: bool
    ground_truth_has_latents: bool

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.execution.reuse.Importer`. Omits rows whose clip is damaged, or whose latents are needed and missing."""
        source, row_dicts = file.owner.files, rows.to_pylist()
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            is_intact = list(threads.map(lambda row: self._is_clip_intact(source, row), row_dicts))
        usable = [
            row for row, intact in zip(row_dicts, is_intact, strict=True) if intact and self._has_latents(source, row)
        ]
        ids = pa.array([row["candidate_id"] for row in usable], pa.string())
        kept = rows.filter(pc.is_in(rows["candidate_id"], ids))
        names = [name for row in usable for name in (row["path"], row["latents_path"] if self.keeps_latents else "")]
        if not bring_files(source, self.store, [name for name in names if name]):
            return kept.slice(0, 0)
        return kept if self.keeps_latents else _without_latents(kept)

    def _is_clip_intact(self, source: Files, row: Mapping[str, Any]) -> bool:
        """Whether the clip has the row's SHA-256: the one in this run if it exists, else the sibling's."""
        store = self.store if self.store.exists(row["path"]) else source
        try:
            return bytes_sha256(store.read(row["path"])) == row["sha256"]
        except FileNotFoundError:
            return False

    def _has_latents(self, source: Files, row: Mapping[str, Any]) -> bool:
        """Whether the latents exist, or none are needed for the row."""
        if not self.keeps_latents:
            return True
        if not row["latents_path"]:
            return row["origin"] == Origin.GROUND_TRUTH and not self.ground_truth_has_latents
        return source.exists(row["latents_path"])


def _without_latents(rows: pa.Table) -> pa.Table:
    index = rows.schema.get_field_index("latents_path")
    return rows.set_column(index, rows.schema.field(index), pa.array([""] * rows.num_rows, pa.string()))


@dataclass(frozen=True)
class SameClips:
    """Imports rows that a sibling computed from the same clips as this run's: the file names contain the clips' hashes.

    Attributes:
        store: the files of this run.
        key: the column of item ids.
        paths: item id → the clip's file name.
        are_shared: whether the clips are not files of a run but shared by all runs.
        embedded: fingerprints of the columns that have embeddings, which are linked into ``store``.
    """

    store: Files
    key: str
    paths: Mapping[str, str]
    are_shared: bool = False
    embedded: frozenset[str] = frozenset()

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.execution.reuse.Importer`."""
        source = file.owner.files
        ids = rows[self.key].unique().to_pylist()
        same = [item_id for item_id in ids if self.are_shared or source.exists(self.paths[item_id])]
        rows = rows.filter(pc.is_in(rows[self.key], pa.array(same, pa.string())))
        if file.fingerprint not in self.embedded:
            return rows
        ending = f"-{file.fingerprint}/{file.unit_name}.safetensors"
        embeddings = [name for name in source.names(EMBEDDINGS) if name.endswith(ending)]
        return rows if embeddings and bring_files(source, self.store, embeddings) else rows.slice(0, 0)


class ItemWithOrigin(Item, Protocol):
    """A candidate that is to be made."""

    @property
    def origin(self) -> Origin:
        """Whether it is generated or ground truth."""
        ...


@dataclass(frozen=True)
class GroundTruthOfOtherNetworks:
    """Finds ground-truth candidates in the unit files of other networks: no network enters them.

    ``owners`` gives this run and its siblings. The generated rows of a folder of units name its network's checkpoint.
    ``fingerprint`` of that checkpoint must equal the folder's name; then product version and sampler settings are this run's.
    """

    owners: Callable[[], Sequence[SiblingRun]]
    sampler_hash: str
    fingerprint: Callable[[str], str]

    def __call__(self, stage: str, fingerprint: str, items: Sequence[ItemWithOrigin]) -> dict[str, UnitFile]:
        """See :data:`avpref.execution.reuse.SearchOtherFingerprints`."""
        missing = {item.item_id for item in items if item.origin == Origin.GROUND_TRUTH}
        found: dict[str, UnitFile] = {}
        for files in units_by_fingerprint(self.owners(), stage) if missing else ():
            if not missing:
                break
            if files[0].fingerprint != fingerprint and self._same_sampler_and_version(files):
                found |= find(files, "candidate_id", {"": sorted(missing)})
                missing -= found.keys()
        return found

    def _same_sampler_and_version(self, files: Sequence[UnitFile]) -> bool:
        """Whether this product gives the folder's name to the network of the folder's first generated row."""
        for file in files:
            rows = file.rows(["sampler_hash", "checkpoint_hash"])
            for row in [] if rows is None else rows.to_pylist():
                if row["sampler_hash"] != self.sampler_hash:
                    return False
                if row["checkpoint_hash"]:
                    return self.fingerprint(row["checkpoint_hash"]) == file.fingerprint
        return False
