"""Stage ``prompts``: the prompts of a run, both splits, sealed; refused recordings become quarantine rows."""

from __future__ import annotations

import os
from pathlib import Path

from avpref.config.data_settings import ClipPrompts, PairPrompts, TextPrompts, ToyWorldPrompts
from avpref.datasets import tables
from avpref.datasets.foreign_pairs.pair_list import list_identity
from avpref.datasets.rows import QuarantineRow
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.shapes import prompt_shapes
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.prompt_sources import open_prompt_source
from avpref.identity import digest, file_sha256
from avpref.storage.documents import REFUSED_FILE
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import read_prompts

STAGE = "prompts"
HASH_SHOWN = 12


@reporting.stage("prompts")
def prompts(run: Run) -> StageCounts:
    """Seal the prompt table of the run; the rows are prompts. Raises InputError or ConfigError for an unusable list of prompts.

    Raises InputError for a text that is too long for the text encoder.
    """
    fingerprint = _fingerprint(run)
    if run.tables.is_sealed(tables.PROMPTS, fingerprint) and _has_shapes(run, fingerprint):
        num_prompts = run.tables.num_rows(tables.PROMPTS)
        counts = ItemCounts(STAGE, STAGE, present=num_prompts, because=_because(run, "unchanged"))
        return StageCounts(num_prompts, (log_counts(run.events, counts),))
    known = {prompt.prompt_id for prompt in read_prompts(run.tables)} if run.tables.has(tables.PROMPTS) else set()
    prompt_list = open_prompt_source(run.settings).prompts()
    texts = [run.settings.sampling.negative_prompt, *(prompt.text for prompt in prompt_list.prompts)]
    base_of(run.settings).check_texts(texts)
    rows = [
        QuarantineRow(item.file, "prompts", "Refused", f"line {item.line}: {item.reason}", 1)
        for item in prompt_list.refused
    ]
    run.documents.write_quarantine(REFUSED_FILE, rows)
    if prompt_list.pairs:
        run.tables.seal(tables.IMPORTED, fingerprint, tables.to_arrow(tables.IMPORTED, prompt_list.pairs, fingerprint))
    run.tables.seal(tables.PROMPTS, fingerprint, tables.to_arrow(tables.PROMPTS, prompt_list.prompts, fingerprint))
    if run.settings.clip.shapes:
        shapes = tables.to_arrow(tables.PROMPT_SHAPES, prompt_shapes(run.settings, prompt_list.prompts), fingerprint)
        run.tables.seal(tables.PROMPT_SHAPES, fingerprint, shapes)
    num_new = sum(prompt.prompt_id not in known for prompt in prompt_list.prompts)
    present = len(prompt_list.prompts) - num_new
    counts = ItemCounts(STAGE, STAGE, made=num_new, present=present, because=_because(run, "read"))
    return StageCounts(len(prompt_list.prompts), (log_counts(run.events, counts),))


def _has_shapes(run: Run, fingerprint: str) -> bool:
    """Whether the shapes of the prompts are sealed, where the run has several shapes."""
    return not run.settings.clip.shapes or run.tables.is_sealed(tables.PROMPT_SHAPES, fingerprint)


def refused(run: RunFolder) -> list[QuarantineRow]:
    """The recordings that stage ``prompts`` refused, with reasons."""
    return run.documents.read_quarantine(REFUSED_FILE)


def _fingerprint(run: Run) -> str:
    settings, source = run.settings, _source_hash(run)
    parts = settings.prompts.model_dump(mode="json"), settings.clip.model_dump(mode="json"), settings.run.seed
    return run.fingerprint("prompts", digest(*parts), source)


def _source_hash(run: Run) -> str:
    """Hash of what lists the prompts; empty for the toy world."""
    if isinstance(run.settings.prompts, PairPrompts):
        return list_identity(run.settings.prompts)
    path = _csv(run)
    return "" if path is None else file_sha256(path) if os.path.isfile(path) else "absent"


def _csv(run: Run) -> Path | None:
    """The file that lists the prompts, or the folder of pairs; None for the toy world."""
    match run.settings.prompts:
        case ClipPrompts(clips=path):
            return Path(path)
        case TextPrompts(prompts=path):
            return Path(path)
        case PairPrompts(pairs=path):
            return Path(path)
        case ToyWorldPrompts():
            return None


def _because(run: Run, verb: str) -> str:
    path = _csv(run)
    if path is None:
        return "derived from the settings"
    kind = "file" if os.path.isfile(path) else "list"
    source = _source_hash(run)
    return f"{path.name} absent" if source == "absent" else f"{path.name} {verb}, {kind} hash {source[:HASH_SHOWN]}…"
