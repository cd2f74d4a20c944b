"""The artificial weights of the golden vectors: each tensor is made from the set's seed and its own name."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GoldenWeights = Callable[[Path, str], dict[str, Tensor]]


def _tensor(entry: dict[str, Any], seed: str) -> np.ndarray:
    name, shape = entry["name"], tuple(entry["shape"])
    key = zlib.crc32(f"{seed}:{name}".encode())
    z = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
    match entry["rule"]:
        case "fan_in":
            return z * np.float32(1 / math.sqrt(math.prod(shape[1:])))
        case "small":
            return z * np.float32(0.02)
        case "norm":
            return np.float32(1) + z * np.float32(0.02)
        case "unit":
            return z
    raise AssertionError(f"{name}: unknown rule {entry['rule']}")


@pytest.fixture(scope="session")
def golden_weights() -> GoldenWeights:
    """``golden_weights(folder, seed)``: the tensors that ``state_dict_names.json`` of ``folder`` describes, checked by crc32.

    Tensors of rule ``keep`` with a value are scalars; those without one, and those of rule ``ignored``, are left out.
    """

    def make(folder: Path, seed: str) -> dict[str, Tensor]:
        made = {}
        for entry in json.loads((folder / "state_dict_names.json").read_text(encoding="utf-8")):
            if entry["rule"] == "keep" and "value" in entry:
                made[entry["name"]] = torch.tensor(entry["value"], dtype=torch.float32)
            if entry["rule"] in ("keep", "ignored"):
                continue
            values = np.ascontiguousarray(_tensor(entry, seed), dtype="<f4")
            assert zlib.crc32(values.tobytes()) == entry["crc32"], f"{entry['name']}: another NumPy draws other numbers"
            made[entry["name"]] = torch.from_numpy(values)
        return made

    return make
