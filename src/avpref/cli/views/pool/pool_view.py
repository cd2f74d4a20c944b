"""The documents of ``avpref pool show``, ``funnel`` and ``sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.pool import funnel as funnel_module
from avpref.pool.pool_folder import open_pool_folder
from avpref.pool.show.pool_page import Selection, funnel_document, write_page
from avpref.pool.show.pool_state import clip_document, duplicate_rows, pool_state


def shown(pools: Path, pool: str, clip: str, duplicates: bool) -> dict[str, Any]:
    """The state of a pool; or ``rows``: the measures of a clip (with its origin in ``clips``), or the duplicates."""
    folder = open_pool_folder(pools, pool)
    if clip:
        return {"pool": folder.root.name, **clip_document(folder, clip)}
    if duplicates:
        return {"pool": folder.root.name, "rows": duplicate_rows(folder)}
    return pool_state(folder)


def funnel(pools: Path, pool: str) -> dict[str, Any]:
    """The funnel of a pool."""
    folder = open_pool_folder(pools, pool)
    return {"pool": folder.root.name, **funnel_document(funnel_module.funnel(folder))}


def sample(pools: Path, pool: str, number: int, is_removed: bool, filter_name: str, seed: int) -> dict[str, Any]:
    """Write the page of a pool with a selection of its clips; returns the path."""
    folder = open_pool_folder(pools, pool)
    page = write_page(folder, Selection(number, is_removed, filter_name, seed))
    return {"pool": folder.root.name, "page": str(page)}
