"""Candidates of a run: which are asked for, with which network, and where the finished ones are."""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import partial
from typing import Any

import pyarrow as pa

from avpref.datasets import tables
from avpref.domain import Candidate, Origin, Prompt
from avpref.execution.plan import Shard, grouped, requests, sampler_hash, shards
from avpref.execution.pool import Unit
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import BringClips, GroundTruthElsewhere
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.networks import NetworkFiles
from avpref.storage.run_folder import RunFolder
from avpref.storage.sibling_runs import here_and_beside

FEW = 2
"""A column is shared by rows where it has fewer than one distinct text per so many rows."""


def plan_candidates(folder: RunFolder, stage: str, prompts: list[Prompt], network: NetworkFiles) -> list[Shard]:
    """Shards of candidate requests for ``prompts``, made with ``network``."""
    fingerprint = stage_fingerprint(folder, stage, network.hash)
    wanted = list(requests(prompts, folder.settings, network.hash))
    return shards(stage, fingerprint, grouped(wanted, [item.prompt.prompt_id for item in wanted]), folder.settings.run)


def stage_fingerprint(folder: RunFolder, stage: str, network_hash: str) -> str:
    """What the clips of one network depend on beside prompt, index and seed."""
    return folder.fingerprint(stage, network_hash, sampler_hash(folder.settings))


def make_candidates(folder: RunFolder, stage: str, prompts: list[Prompt], network: NetworkFiles) -> list[Unit]:
    """Make what is missing and nobody beside this run has made; returns the units that hold all of them."""
    plan = plan_candidates(folder, stage, prompts, network)
    files = folder.units(tables.CANDIDATES)
    return run_stage(
        folder,
        stage,
        files,
        plan,
        lambda: GenerateSpec(folder.files, folder.models, folder.root.parent, folder.settings, files, network),
        "candidates",
        reuse=_reuse(folder, stage),
        observer=reporting.observer(),
    )


def _reuse(folder: RunFolder, stage: str) -> Reuse:
    sampling = folder.settings.sampling
    bring = BringClips(folder.files, sampling.store_latents, sampling.ground_truth_through_codec)
    of_network = partial(stage_fingerprint, folder, stage)
    elsewhere = GroundTruthElsewhere(
        partial(here_and_beside, folder.files, folder.neighbours), sampler_hash(folder.settings), of_network
    )
    files = folder.units(tables.CANDIDATES)
    return Reuse(files, folder.files, folder.neighbours, "candidate_id", bring=bring, elsewhere=elsewhere)


def read_candidates(folder: RunFolder, units: list[Unit]) -> list[Candidate]:
    """Candidates of finished units, in the plan's order."""
    return as_candidates(folder.units(tables.CANDIDATES).read(units)[0])


def as_candidates(rows: pa.Table) -> list[Candidate]:
    """Rows of the candidate table as dataclasses. Texts that rows share are one object: most columns say the same in all."""
    columns = {field.name: _values(rows[field.name]) for field in fields(Candidate)}
    columns["origin"] = [Origin(value) for value in columns["origin"]]
    return [Candidate(*values) for values in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    if len(distinct) * FEW < len(column):
        distinct = [sys.intern(value) for value in distinct]  # one object for all batches, too
    return [distinct[index] for index in encoded.indices.to_pylist()]
