"""A folder of runs that refer to each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "runs").mkdir()
    return Workshop(tmp_path / "runs")
