"""A tiny JavisDiT v0.1 with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_v01 import save_tiny_v01

from avpref.models.javisdit_v01.v01_base import V01Base
from avpref.models.javisdit_v01.v01_settings import V01Settings


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all weights; the settings that name them are in :func:`settings`."""
    return tmp_path_factory.mktemp("v01-weights") / "weights"


@pytest.fixture(scope="session")
def settings(weights: Path) -> V01Settings:
    return V01Settings(**save_tiny_v01(weights))


@pytest.fixture
def base(settings: V01Settings) -> V01Base:
    return V01Base(settings)
