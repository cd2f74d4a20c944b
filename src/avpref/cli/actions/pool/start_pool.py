"""The start of ``avpref pool build``: a new pool's actors start before the modules of its stages are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.pool.early_start import started_early


def build(
    config: Path, sources: Sequence[str] | None, pools: Path, overrides: Sequence[str], wait: bool
) -> dict[str, Any]:
    """Run all stages; returns as :func:`avpref.cli.actions.pool.build_pool.build`."""
    with started_early(config, sources, pools, overrides):
        from avpref.cli.actions.pool import build_pool

        return build_pool.build(config, sources, pools, overrides, wait)
