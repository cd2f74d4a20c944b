"""Selection of the device of networks."""

from __future__ import annotations

AUTO = "auto"


def resolved(device: str) -> str:
    """``device``; ``auto`` becomes ``cuda`` if this process has a CUDA device and ``cpu`` otherwise."""
    if device != AUTO:
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
