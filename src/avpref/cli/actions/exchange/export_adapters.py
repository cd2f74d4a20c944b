"""The work of ``avpref adapters``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.exchange.adapter_card import AdapterCard, adapter_card
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import adapter_sources, find_adapter
from avpref.exchange.hub_upload import HubTarget, upload
from avpref.models.bases.base_model import require_layout
from avpref.models.bases.base_opening import open_base
from avpref.models.bases.javis_base import JavisBase
from avpref.models.checkpoints.lora_files import read_lora

__all__ = ["AdapterExport", "card_of", "export_one", "rows"]


def rows(runs: Path) -> list[dict[str, Any]]:
    """Every adapter with a decision, the promoted ones first."""
    return [source.document() for source in adapter_sources(runs)]


def export_one(
    runs: Path, adapter: str, request: AdapterExport, allows_refused: bool, push: str, public: bool
) -> dict[str, Any]:
    """Export an adapter, and upload it where ``push`` names a repository; raises as :func:`find_adapter` and :func:`export_adapter`."""
    source = find_adapter(runs, adapter, allows_refused)
    files = export_adapter(source, request)
    document = {
        "adapter": source.name,
        "run_id": source.run_id,
        "layout": request.layout_for(open_base(source.run.settings.base_sections)),
        "merged": request.merged,
        "part": request.part,
        "out": str(request.out),
        "files": files,
    }
    if push:
        document["pushed"] = upload(request.out, HubTarget(push, "model", is_private=not public))
    return document


def card_of(runs: Path, adapter: str, layout: str, base_model: str, revision: str, allows_refused: bool) -> str:
    """The card of an adapter without clips; raises as :func:`find_adapter`."""
    source = find_adapter(runs, adapter, allows_refused)
    base = open_base(source.run.settings.base_sections)
    require_layout(layout, base.adapter_layouts)
    lora = read_lora(source.folder) if isinstance(base, JavisBase) else None
    return adapter_card(AdapterCard(source, base.terms, lora, layout, base_model, revision, ()))
