"""Import of foreign pairs: their clips become candidates of the run, and the pairs those of table ``pairs``.

Stage ``prompts`` lists the pairs (table ``imported``), stage ``generate`` imports the clips, stage ``score`` measures them, and stage
``pair`` keeps the pairs as they were listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.data_settings import PairPrompts
from avpref.datasets import tables
from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace
from avpref.datasets.foreign_pairs.pair_list import clip_folder
from avpref.datasets.metric_tables import SIDES
from avpref.datasets.selection.listed_pairs_table import ListedPairs
from avpref.domain import Split, candidate_id
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import StagePlan, plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import ClipImporter
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import sampler_hash
from avpref.flows.stages.same_base import on_same_base
from avpref.flows.workers.import_worker import ImportItem, ImportSpec
from avpref.flows.workers.prompt_sources import imports_pairs
from avpref.identity import digest

STAGE = "import"
FIRST_INDEX = 1
SHARD_CLIPS, UNIT_CLIPS = 2048, 128
"""Clips of a shard and of a unit. Units are larger than those of generated clips, because little is lost with one."""


@reporting.stage(STAGE)
def import_clips(run: Run) -> StageCounts:
    """Import the clips of the run's list of pairs; the rows are clips."""
    units, counts = imported_units(run)
    return StageCounts(sum(len(unit.items) for unit in units), (counts,))


def imported_units(run: Run) -> FinishedUnits[ImportItem]:
    """The units that hold the imported candidates; missing ones are imported. There are none unless ``prompts.kind`` is ``pairs``."""
    folder = clip_folder(run.settings.prompts) if isinstance(run.settings.prompts, PairPrompts) else run.root
    files = run.units(tables.CANDIDATES)
    importer = ClipImporter(run.files, keeps_latents=False, ground_truth_has_latents=False)
    reuse: Reuse[ImportItem] = Reuse(files, run.files, run.siblings, "candidate_id", importer=importer)
    spec = on_same_base(ImportSpec(run.files, folder, run.settings, files), run.settings)
    return run_stage(run, import_plan(run), files, lambda: spec, reuse, reporting.observer())


def import_plan(run: Run) -> StagePlan[ImportItem]:
    """All units of the import, in the order of the list. Raises InputError before stage ``prompts`` has run."""
    items = [item for _, item in _items(run)]
    fingerprint = run.fingerprint(STAGE, sampler_hash(run.settings), run.settings.clip.model_dump(mode="json"))
    groups = [items[start : start + SHARD_CLIPS] for start in range(0, len(items), SHARD_CLIPS)]
    sizes = run.settings.run.model_copy(update={"shard_prompts": 1, "unit_candidates": UNIT_CLIPS})
    return plan_stage(STAGE, "clips", fingerprint, groups, sizes)


def listed_pairs(run: Run) -> ListedPairs:
    """The pairs of the training split in the order of the list, with the ids of their candidates."""
    rows = _training_rows(run)
    of_clip = {clip: item.item_id for clip, item in _items(run)}
    ids = {
        side: [of_clip[clip] for clip in zip(rows["prompt_id"], rows[f"{side}_sha256"], strict=True)] for side in SIDES
    }
    return ListedPairs(ids["chosen"], ids["rejected"], rows["dimension"])


@dataclass(frozen=True)
class _Clip:
    """A clip of a training prompt: where it was found first, and whether the list gave its hash."""

    place: ClipPlace
    is_verified: bool


def _items(run: Run) -> Iterator[tuple[tuple[str, str], ImportItem]]:
    """(prompt, SHA-256) and item of every distinct clip of the training split, in the order of the list, which is that of shards.

    The clips of a prompt are numbered in the order of their hashes, so an id does not depend on the order of the list.
    """
    if not imports_pairs(run.settings):
        return
    clips = _clips(_training_rows(run))
    hashes: dict[str, list[str]] = {}
    for prompt, sha256 in clips:
        hashes.setdefault(prompt, []).append(sha256)
    index = {
        (prompt, sha256): number
        for prompt, of_prompt in hashes.items()
        for number, sha256 in enumerate(sorted(of_prompt), start=FIRST_INDEX)
    }
    sampler = sampler_hash(run.settings)
    for (prompt, sha256), clip in clips.items():
        number = index[prompt, sha256]
        source = "imported" + digest("imported", sha256)
        identity = candidate_id(prompt, number, 0, source, sampler)
        yield (prompt, sha256), ImportItem(identity, prompt, number, clip.place, sha256, clip.is_verified)


def _clips(rows: Mapping[str, list[Any]]) -> dict[tuple[str, str], _Clip]:
    """The distinct clips of pairs, in the order of the list."""
    clips: dict[tuple[str, str], _Clip] = {}
    columns = ("file", "row", "sha256")
    for number, (prompt, is_verified) in enumerate(zip(rows["prompt_id"], rows["is_verified"], strict=True)):
        for side in SIDES:
            file, row, sha256 = (rows[f"{side}_{name}"][number] for name in columns)
            place = ClipPlace(str(file), row, side)
            clips.setdefault((str(prompt), str(sha256)), _Clip(place, bool(is_verified)))
    return clips


def _training_rows(run: Run) -> dict[str, list[Any]]:
    rows: pa.Table = run.tables.read(tables.IMPORTED)
    return rows.filter(pc.equal(rows["split"], str(Split.TRAIN))).to_pydict()
