"""Stage ``prompts``: the prompts of a run, both splits, sealed; refused recordings become quarantine rows."""

from __future__ import annotations

from pathlib import Path

from avpref.config.data_settings import ClipPrompts, TextPrompts, ToyWorldPrompts
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Prompt, Split
from avpref.execution.item_counts import Tally, record
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.workers.prompt_sources import open_world
from avpref.identity import digest, file_sha256
from avpref.storage.run_folder import RunFolder, open_root

STAGE = "prompts"
REFUSED_FILE = "refused.json"
HASH_SHOWN = 12


@reporting.stage("prompts")
def prompts(run_dir: str) -> int:
    """Seal the prompt table of the run in ``run_dir``; returns the number of prompts."""
    folder = open_root(Path(run_dir))
    fingerprint = _fingerprint(folder)
    if folder.is_sealed(tables.PROMPTS, fingerprint):
        num_prompts = folder.num_rows(tables.PROMPTS)
        record(folder.events, Tally(STAGE, STAGE, present=num_prompts, because=_because(folder, "unchanged")))
        return num_prompts
    known = {prompt.prompt_id for prompt in read_prompts(folder)} if folder.has(tables.PROMPTS) else set()
    found = open_world(folder.settings).prompts()
    rows = [QuarantineRow(item.file, "prompts", "Refused", item.reason, 1) for item in found.refused]
    folder.write_json(REFUSED_FILE, [vars(row) for row in rows])
    folder.seal(tables.PROMPTS, fingerprint, tables.to_arrow(tables.PROMPTS, found.prompts, fingerprint))
    num_new = sum(prompt.prompt_id not in known for prompt in found.prompts)
    present = len(found.prompts) - num_new
    record(folder.events, Tally(STAGE, STAGE, made=num_new, present=present, because=_because(folder, "read")))
    return len(found.prompts)


def refused(folder: RunFolder) -> list[QuarantineRow]:
    """Recordings that were refused at import."""
    return [QuarantineRow(**row) for row in folder.read_json(REFUSED_FILE) or []]


def read_prompts(folder: RunFolder) -> list[Prompt]:
    """The sealed prompts, in order. Raises InputError before the stage has run."""
    rows = folder.read(tables.PROMPTS).to_pylist()
    return [Prompt(**{**row, "split": Split(row["split"])}) for row in rows]


def _fingerprint(folder: RunFolder) -> str:
    settings, path = folder.settings, _csv(folder)
    source = "" if path is None else file_sha256(path) if path.is_file() else "absent"
    parts = settings.prompts.model_dump(mode="json"), settings.clip.model_dump(mode="json"), settings.run.seed
    return folder.fingerprint("prompts", digest(*parts), source)


def _csv(folder: RunFolder) -> Path | None:
    """The file that the prompts come from, if they come from one."""
    match folder.settings.prompts:
        case ClipPrompts() as given:
            return Path(given.clips)
        case TextPrompts() as given:
            return Path(given.prompts)
        case ToyWorldPrompts():
            return None


def _because(folder: RunFolder, verb: str) -> str:
    path = _csv(folder)
    if path is None:
        return "derived from the settings"
    return (
        f"{path.name} {verb}, file hash {file_sha256(path)[:HASH_SHOWN]}…" if path.is_file() else f"{path.name} absent"
    )
