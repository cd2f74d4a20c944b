"""An installed package that stands in for an optional library: source and version are the test's, nothing else is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

SHIFT_NETWORK = '''
import torch
from torch import nn


class Shift(nn.Module):
    """Knows one flow for all pixels: the shift at which two periodic pictures agree, times its only weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, inputs):
        first, second = (torch.fft.fft2(inputs["images"][:, index].mean(1)) for index in (0, 1))
        spectrum = second * first.conj()
        height, width = spectrum.shape[1:]
        peak = torch.fft.ifft2(spectrum / spectrum.abs().clamp(min=1e-9)).real.flatten(1).argmax(1)
        shift = torch.stack([(peak % width + width // 2) % width - width // 2,
                             (peak // width + height // 2) % height - height // 2], 1)
        return {"flows": (shift * self.scale)[:, None, :, None, None].expand(-1, 1, 2, height, width)}


def get_model_reference(name):
    return {"unimatch_sc2_ref6": Shift}[name]
'''
"""A stand-in for ptlflow."""


@contextmanager
def installed(folder: Path, name: str, source: str, version: str = "9.0") -> Iterator[None]:
    """Within the block, package ``name`` has this source and version, whatever else is installed."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source, encoding="utf-8")
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    kept = _removed(name)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _removed(name)
        sys.modules.update(kept)


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Within the block, package ``name`` is not installed."""
    kept = _removed(name)
    paths, sys.path[:] = list(sys.path), [path for path in sys.path if not (Path(path) / name).is_dir()]
    try:
        yield
    finally:
        sys.path[:] = paths
        sys.modules.update(kept)


def _removed(name: str) -> dict[str, ModuleType]:
    """The modules of package ``name``, which are taken out of those that are imported."""
    names = [module for module in sys.modules if module.split(".")[0] == name]
    return {module: sys.modules.pop(module) for module in names}
