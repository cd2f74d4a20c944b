"""Stage ``prompts``: the prompts of a run, both splits, sealed; refused recordings become quarantine rows."""

from __future__ import annotations

from pathlib import Path

from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Prompt, Split
from avpref.flows import reporting
from avpref.flows.run_folder import RunFolder, open_root
from avpref.flows.worlds import open_world
from avpref.identity import digest, file_sha256
from avpref.settings import ClipPrompts

REFUSED_FILE = "refused.json"


@reporting.stage("prompts")
def prompts(run_dir: str) -> int:
    """Seal the prompt table of the run in ``run_dir``; returns the number of prompts."""
    folder = open_root(Path(run_dir))
    fingerprint = _fingerprint(folder)
    if folder.is_sealed(tables.PROMPTS, fingerprint):
        return folder.num_rows(tables.PROMPTS)
    found = open_world(folder.settings).prompts()
    rows = [QuarantineRow(item.file, "prompts", "Refused", item.reason, 1) for item in found.refused]
    folder.write_json(REFUSED_FILE, [vars(row) for row in rows])
    folder.seal(tables.PROMPTS, fingerprint, tables.to_arrow(tables.PROMPTS, found.prompts, fingerprint))
    return len(found.prompts)


def refused(folder: RunFolder) -> list[QuarantineRow]:
    """Recordings that were refused at import."""
    return [QuarantineRow(**row) for row in folder.read_json(REFUSED_FILE) or []]


def read_prompts(folder: RunFolder) -> list[Prompt]:
    """The sealed prompts, in order. Raises InputError before the stage has run."""
    rows = folder.read(tables.PROMPTS).to_pylist()
    return [Prompt(**{**row, "split": Split(row["split"])}) for row in rows]


def _fingerprint(folder: RunFolder) -> str:
    settings = folder.settings
    source = ""
    if isinstance(settings.prompts, ClipPrompts):
        path = Path(settings.prompts.clips)
        source = file_sha256(path) if path.is_file() else "absent"
    parts = settings.prompts.model_dump(mode="json"), settings.clip.model_dump(mode="json"), settings.run.seed
    return folder.fingerprint("prompts", digest(*parts), source)
