"""AV-DPO on the toy world improves held-out clips and passes the gate. benchmarks/toyworld.py runs more seeds and a control."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.flows.retrain import run_loop
from avpref.storage.run_folder import create

TOYWORLD = Path(__file__).parents[2] / "configs" / "toyworld.yaml"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_toy_world_passes_the_gate(tmp_path: Path) -> None:
    folder = create(tmp_path, load_config(TOYWORLD, ["run.seed=1"], {}).settings)
    result = run_loop(folder)
    assert result.gate.verdict == "promote", result.gate.reasons
    assert folder.tables.num_rows(tables.EVALUATIONS) > 0
