"""Fixtures of the tests of pools."""

from __future__ import annotations

from pathlib import Path

import pytest
from pool_clips import BuildPool

from avpref.pool.pool_folder import PoolFolder, create_pool
from avpref.pool.pool_stages import STAGES, configured, owned, run_stages

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "pool.yaml"
PLAIN = (
    "executor={kind: in_process}",
    "measure.optional=[]",
    "measure.scorers=[frame_measures, sound_measures, flow_measures]",
    "filter.filters=[]",
    "run.unit_candidates=2",
)
"""In this process, with measures that need no package of an extra, and without filters."""


@pytest.fixture
def build_pool(tmp_path: Path) -> BuildPool:
    """Builds a pool of the sources, with overrides, up to the stage ``until``."""

    def build(*sources: Path | str, sets: tuple[str, ...] = (), until: str = "write") -> PoolFolder:
        config = configured(str(CONFIG), [str(source) for source in sources], [*PLAIN, *sets])
        pool = create_pool(tmp_path / "pools", config)
        names = [stage.name for stage in STAGES]
        with owned(pool):
            run_stages(pool, STAGES[: names.index(until) + 1])
        return pool

    return build
