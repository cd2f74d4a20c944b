"""Selection of the device of networks."""

from __future__ import annotations

import torch

AUTO = "auto"


def resolved(device: str) -> str:
    """``device``; ``auto`` becomes ``cuda`` if this process has a CUDA device and ``cpu`` otherwise."""
    if device != AUTO:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
