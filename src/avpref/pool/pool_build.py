"""Flow ``pool-build``, which deployments call. Commands call :func:`avpref.pool.pool_stages.build_pool`, which needs no Prefect."""

from __future__ import annotations

from typing import Any

from avpref.flows.prefect.deployable import deployable
from avpref.pool.pool_stages import build_pool

DAY_S = 24 * 3600


@deployable("pool-build", timeout_s=7 * DAY_S)
def pool_build(
    config_path: str,
    pools: str = "pools",
    sources: list[str] | None = None,
    overrides: list[str] | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run all stages of the pool of a configuration file; ``sources`` replaces ``scan.sources``."""
    return build_pool(config_path, pools, sources, overrides, wait)
