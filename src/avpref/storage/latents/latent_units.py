"""Commits encoded samples: the shard of a unit first, then the unit's rows of the index, which name the shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets.latents import EncodedSample, LatentRow, shape_text
from avpref.datasets.rows import QuarantineRow
from avpref.identity import bytes_sha256
from avpref.storage.files import Files
from avpref.storage.latents.shards import shard_of
from avpref.storage.sibling_runs import UnitFile, bring_files
from avpref.storage.unit import Item, Unit
from avpref.storage.unit_files import UnitFiles

FOLDER = "latents"
"""Folder of the shards in a run: ``latents/STAGE-FINGERPRINT/UNIT-HASH.safetensors``."""
HASH_IN_NAME = 8


def commit_samples(
    store: Files,
    files: UnitFiles,
    unit: Unit[Item],
    samples: Sequence[EncodedSample],
    quarantined: Sequence[QuarantineRow] = (),
) -> None:
    """Commit ``samples`` as a shard in ``store`` and their rows as the unit's. A unit without samples has no shard.

    Raises StorageError where the disk is full or read-only; the unit is then not committed, and a later run computes it again.
    """
    data, places = shard_of([(sample.sample_id, sample.parts) for sample in samples])
    sha256 = bytes_sha256(data)
    path = f"{FOLDER}/{unit.stage}-{unit.fingerprint}/{unit.name}-{sha256[:HASH_IN_NAME]}.safetensors"
    if samples:
        store.commit_once(path, data)
    rows = []
    for sample in samples:
        for part in sample.parts:
            place = places[sample.sample_id, part]
            rows.append(
                LatentRow(
                    sample_id=sample.sample_id,
                    part=part,
                    text=sample.text,
                    latents_path=path,
                    sha256=sha256,
                    offset=place.offset,
                    num_bytes=place.num_bytes,
                    crc32=place.crc32,
                    dtype=place.dtype,
                    shape=shape_text(place.shape),
                    num_frames=sample.num_frames,
                    height_px=sample.height_px,
                    width_px=sample.width_px,
                    fingerprint=unit.fingerprint,
                )
            )
    files.commit(unit, rows, quarantined)


@dataclass(frozen=True)
class ShardImporter:
    """Imports rows of the index from a sibling: links the shards that they name into ``store``.

    ``paths`` maps the id of a candidate to its clip's file name, which contains the clip's hash: rows of clips that the sibling lacks
    are left out. None where samples are no candidates.
    """

    store: Files
    paths: dict[str, str] | None = None

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """See :class:`avpref.execution.reuse.Importer`. No rows where a shard is gone."""
        source = file.owner.files
        if self.paths is not None:
            ids = [item for item in rows["sample_id"].unique().to_pylist() if source.exists(self.paths[item])]
            rows = rows.filter(pc.is_in(rows["sample_id"], pa.array(ids, pa.string())))
        names = rows["latents_path"].unique().to_pylist()
        return rows if bring_files(source, self.store, names) else rows.slice(0, 0)
