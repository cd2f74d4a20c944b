"""Where networks run."""

from __future__ import annotations

import torch

AUTO = "auto"


def resolved(device: str) -> str:
    """``device``, or for ``auto`` CUDA where this process sees one and the CPU otherwise."""
    if device != AUTO:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
