"""What goes with rows that are taken over from a run beside this one: clips and latents, embeddings; and what must be alike.

A clip is linked into the run, never referred to across runs, so every run folder stays whole by itself; its bytes are compared with the
row's SHA-256 first. What cannot be brought is not taken over: the work is done anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avpref.domain import Origin
from avpref.flows.neighbours import Neighbours, UnitFile, find
from avpref.flows.scoring import EMBEDDINGS
from avpref.identity import file_sha256
from avpref.links import link_all

HASHING_THREADS = 4
EMBEDDED = ".safetensors"


@dataclass(frozen=True)
class BringClips:
    """Links candidates' clips, and their latents where the run keeps latents."""

    root: Path
    keeps_latents: bool
    ground_truth_has_latents: bool

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.flows.reuse.Bring`. Rows without a whole clip, or without latents that are asked for, are left out."""
        documents = rows.to_pylist()
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            is_whole = list(threads.map(lambda row: self._is_whole(file.root, row), documents))
        wanted = [row for row, whole in zip(documents, is_whole, strict=True) if whole and self._has_latents(file, row)]
        kept = rows.filter(
            pc.is_in(rows["candidate_id"], pa.array([row["candidate_id"] for row in wanted], pa.string()))
        )
        names = [name for row in wanted for name in (row["path"], row["latents_path"] if self.keeps_latents else "")]
        try:
            link_all((file.root / name, self.root / name) for name in names if name)
        except FileNotFoundError:  # the neighbour is being removed
            return kept.slice(0, 0)
        return kept if self.keeps_latents else _without_latents(kept)

    def _is_whole(self, root: Path, row: Mapping[str, Any]) -> bool:
        """Whether the clip is what the row says: the one that is here already, or the neighbour's."""
        here = self.root / row["path"]
        try:
            return file_sha256(here if here.exists() else root / row["path"]) == row["sha256"]
        except OSError:
            return False

    def _has_latents(self, file: UnitFile, row: Mapping[str, Any]) -> bool:
        if not self.keeps_latents:
            return True
        if not row["latents_path"]:
            return row["origin"] == Origin.GROUND_TRUTH and not self.ground_truth_has_latents
        return (file.root / row["latents_path"]).exists()


def _without_latents(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("latents_path")
    return rows.set_column(at, rows.schema.field(at), pa.array([""] * rows.num_rows, pa.string()))


@dataclass(frozen=True)
class SameClips:
    """Lets rows through that a neighbour made from the very clips that are here: its file has the same name, hash included.

    ``paths`` are the clips' by candidate. Columns whose fingerprint is in ``embedded`` keep embeddings, which are linked.
    """

    root: Path
    key: str
    paths: Mapping[str, str]
    embedded: frozenset[str] = frozenset()

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.flows.reuse.Bring`."""
        found = set(rows[self.key].to_pylist())
        same = [item for item in found if (file.root / self.paths[item]).exists()]
        rows = rows.filter(pc.is_in(rows[self.key], pa.array(same, pa.string())))
        if file.fingerprint not in self.embedded:
            return rows
        kept = list(file.root.glob(f"{EMBEDDINGS}/*-{file.fingerprint}/{file.name}{EMBEDDED}"))
        try:
            link_all((path, self.root / path.relative_to(file.root)) for path in kept)
        except FileNotFoundError:  # the neighbour is being removed
            kept = []
        return rows if kept else rows.slice(0, 0)


@dataclass(frozen=True)
class GroundTruthElsewhere:
    """Finds ground-truth candidates that were made beside another network's: no checkpoint enters them.

    A folder of units says with one of its generated rows what network it is of; that network's ``fingerprint`` must be the folder's
    name, so product version and sampler settings are this run's.
    """

    root: Path
    sampler_hash: str
    fingerprint: Callable[[str], str]

    def __call__(self, stage: str, fingerprint: str, items: Sequence[Any]) -> dict[str, UnitFile]:
        """See :data:`avpref.flows.reuse.Elsewhere`."""
        left = {item.item_id for item in items if item.origin == Origin.GROUND_TRUTH}
        found: dict[str, UnitFile] = {}
        for files in Neighbours(self.root).elsewhere(stage, fingerprint) if left else ():
            if not left:
                break
            if self._is_kin(files):
                found |= find(files, "candidate_id", {"": sorted(left)})
                left -= found.keys()
        return found

    def _is_kin(self, files: Sequence[UnitFile]) -> bool:
        """Whether this product would give the folder its name, for the network of its first generated row."""
        for file in files:
            rows = file.rows(["sampler_hash", "checkpoint_hash"])
            for row in [] if rows is None else rows.to_pylist():
                if row["sampler_hash"] != self.sampler_hash:
                    return False
                if row["checkpoint_hash"]:
                    return self.fingerprint(row["checkpoint_hash"]) == file.fingerprint
        return False
