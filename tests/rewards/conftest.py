"""The artificial weights of the golden vectors: each tensor is made from the set's seed and its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from golden_tensors import golden_tensors
from torch import Tensor

GoldenWeights = Callable[[Path, str], dict[str, Tensor]]


@pytest.fixture(scope="session")
def golden_weights() -> GoldenWeights:
    """``golden_weights(folder, seed)``: see :func:`golden_tensors.golden_tensors`."""
    return golden_tensors
