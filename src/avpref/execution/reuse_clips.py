"""What goes with rows that are taken over from a run beside this one: clips and latents, embeddings; and what must be alike.

A clip is linked into the run, never referred to across runs, so every run folder stays whole by itself; its bytes are compared with the
row's SHA-256 first. What cannot be brought is not taken over: the work is done anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avpref.domain import Origin
from avpref.identity import bytes_sha256
from avpref.storage.files import Files
from avpref.storage.score_files import EMBEDDINGS
from avpref.storage.sibling_runs import SiblingRun, UnitFile, bring_files, find, units_by_fingerprint

HASHING_THREADS = 4


@dataclass(frozen=True)
class BringClips:
    """Brings candidates' clips to ``store``, and their latents where the run keeps latents."""

    store: Files
    keeps_latents: bool
    ground_truth_has_latents: bool

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.execution.reuse.Bring`. Rows without a whole clip, or without latents that are asked for, are left out."""
        source, documents = file.owner.files, rows.to_pylist()
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            is_whole = list(threads.map(lambda row: self._is_whole(source, row), documents))
        taken = [
            row for row, whole in zip(documents, is_whole, strict=True) if whole and self._has_latents(source, row)
        ]
        kept = rows.filter(
            pc.is_in(rows["candidate_id"], pa.array([row["candidate_id"] for row in taken], pa.string()))
        )
        names = [name for row in taken for name in (row["path"], row["latents_path"] if self.keeps_latents else "")]
        if not bring_files(source, self.store, [name for name in names if name]):
            return kept.slice(0, 0)
        return kept if self.keeps_latents else _without_latents(kept)

    def _is_whole(self, source: Files, row: Mapping[str, Any]) -> bool:
        """Whether the clip is what the row says: the one that is here already, or the neighbour's."""
        holder = self.store if self.store.exists(row["path"]) else source
        try:
            return bytes_sha256(holder.read(row["path"])) == row["sha256"]
        except FileNotFoundError:
            return False

    def _has_latents(self, source: Files, row: Mapping[str, Any]) -> bool:
        if not self.keeps_latents:
            return True
        if not row["latents_path"]:
            return row["origin"] == Origin.GROUND_TRUTH and not self.ground_truth_has_latents
        return source.exists(row["latents_path"])


def _without_latents(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("latents_path")
    return rows.set_column(at, rows.schema.field(at), pa.array([""] * rows.num_rows, pa.string()))


@dataclass(frozen=True)
class SameClips:
    """Lets rows through that a neighbour made from the very clips that are here: its file has the same name, hash included.

    ``paths`` are the clips' by item, in folders' own files unless ``are_shared`` says that they are everyone's. Columns whose
    fingerprint is in ``embedded`` keep embeddings, which are brought to ``store``.
    """

    store: Files
    key: str
    paths: Mapping[str, str]
    are_shared: bool = False
    embedded: frozenset[str] = frozenset()

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.execution.reuse.Bring`."""
        source = file.owner.files
        found = rows[self.key].unique().to_pylist()
        same = [item for item in found if self.are_shared or source.exists(self.paths[item])]
        rows = rows.filter(pc.is_in(rows[self.key], pa.array(same, pa.string())))
        if file.fingerprint not in self.embedded:
            return rows
        ending = f"-{file.fingerprint}/{file.unit_name}.safetensors"
        kept = [name for name in source.names(EMBEDDINGS) if name.endswith(ending)]
        return rows if kept and bring_files(source, self.store, kept) else rows.slice(0, 0)


@dataclass(frozen=True)
class GroundTruthElsewhere:
    """Finds ground-truth candidates that were made beside another network's: no checkpoint enters them.

    ``owners`` are the run itself and those beside it. A folder of units says with one of its generated rows what network it is of;
    that network's ``fingerprint`` must be the folder's name, so product version and sampler settings are this run's.
    """

    owners: Callable[[], Sequence[SiblingRun]]
    sampler_hash: str
    fingerprint: Callable[[str], str]

    def __call__(self, stage: str, fingerprint: str, items: Sequence[Any]) -> dict[str, UnitFile]:
        """See :data:`avpref.execution.reuse.Elsewhere`."""
        left = {item.item_id for item in items if item.origin == Origin.GROUND_TRUTH}
        found: dict[str, UnitFile] = {}
        for files in units_by_fingerprint(self.owners(), stage) if left else ():
            if not left:
                break
            if files[0].fingerprint != fingerprint and self._same_sampler_and_version(files):
                found |= find(files, "candidate_id", {"": sorted(left)})
                left -= found.keys()
        return found

    def _same_sampler_and_version(self, files: Sequence[UnitFile]) -> bool:
        """Whether this product would give the folder its name, for the network of its first generated row."""
        for file in files:
            rows = file.rows(["sampler_hash", "checkpoint_hash"])
            for row in [] if rows is None else rows.to_pylist():
                if row["sampler_hash"] != self.sampler_hash:
                    return False
                if row["checkpoint_hash"]:
                    return self.fingerprint(row["checkpoint_hash"]) == file.fingerprint
        return False
