"""The work of ``avpref pairs export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.exchange.hub_upload import HubTarget, upload
from avpref.exchange.pair_export import ExportFormat, ExportLayout, PairExport
from avpref.exchange.pair_export import export_pairs as write_export
from avpref.storage.run_folder import RunFolder

SHOWN = ("run_id", "export", "num_pairs", "num_prompts", "strategy", "pairs_hash")


def export_run(
    folder: RunFolder, out: Path, format: ExportFormat, layout: ExportLayout, push: str, public: bool
) -> dict[str, Any]:
    """Export a run's pairs into the new folder ``out``, and upload it where ``push`` names a repository."""
    manifest = write_export(folder, PairExport(out, format, layout))
    document = {name: manifest[name] for name in SHOWN}
    document |= {"out": str(out), "files": manifest["files"]}
    if push:
        document["pushed"] = upload(out, HubTarget(push, "dataset", is_private=not public))
    return document
