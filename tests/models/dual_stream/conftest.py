"""The vectors of JavisDiT v0.1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dual_stream_vectors import V01, arrays


@pytest.fixture(scope="session")
def v01(golden: Path) -> V01:
    folder = golden / "javisdit_v01"
    if not folder.is_dir():
        pytest.skip("this set of vectors has none of JavisDiT v0.1")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return V01(folder, config, arrays(folder / "network_io.npz"))
