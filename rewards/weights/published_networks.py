"""Loading of the networks from their published files, whose tensors must have exactly the expected names and shapes.

Files are read without running code in them (:mod:`avpref.storage.weight_files`). ``Cnn14_16k_mAP=0.438.pth`` holds integer arrays
of NumPy beside its tensors, which are allowed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.features.audioclip_sound import SoundTower
from avpref.models.features.cavp import Cavp
from avpref.models.features.cnn14 import AT_32_KHZ, Cnn14
from avpref.models.features.i3d import I3d
from avpref.models.features.passt import TINY, Passt
from avpref.models.features.vggish import Vggish
from avpref.rewards.random_weights import fill
from avpref.rewards.weights import benchmark_models, catalogue
from avpref.storage.weight_files import fit, read_weights

TINY_DIVISOR = 16
COUNTER = "num_batches_tracked"
"""End of the names of counters that batch normalisation does not need for inference; files may lack them."""


@dataclass(frozen=True)
class PublishedNetwork:
    """A network: its entry in the catalogue of weights, how it is built (full or small), and the place of its tensors in the file.

    ``key`` is the entry of the file that holds the tensors (empty: the file itself), ``prefix`` the beginning of their names.
    ``skips`` are beginnings of names that belong to other parts of the published file.
    """

    model: catalogue.Model
    build: Callable[[], nn.Module]
    build_tiny: Callable[[], nn.Module]
    key: str = ""
    prefix: str = ""
    skips: tuple[str, ...] = ()


PUBLISHED: Mapping[str, PublishedNetwork] = {
    "i3d": PublishedNetwork(benchmark_models.I3D, I3d, lambda: I3d(TINY_DIVISOR)),
    "audioclip": PublishedNetwork(
        benchmark_models.AUDIOCLIP, SoundTower, lambda: SoundTower(TINY_DIVISOR), prefix="audio.", skips=("audio.",)
    ),
    "panns": PublishedNetwork(benchmark_models.PANNS, Cnn14, lambda: Cnn14(divisor=TINY_DIVISOR), key="model"),
    "panns_32k": PublishedNetwork(
        benchmark_models.PANNS_32K, lambda: Cnn14(AT_32_KHZ), lambda: Cnn14(AT_32_KHZ, TINY_DIVISOR), key="model"
    ),
    "vggish": PublishedNetwork(benchmark_models.VGGISH, Vggish, lambda: Vggish(TINY_DIVISOR)),
    "passt": PublishedNetwork(benchmark_models.PASST, Passt, lambda: Passt(TINY)),
    "cavp": PublishedNetwork(
        benchmark_models.CAVP, Cavp, lambda: Cavp(TINY_DIVISOR), key="state_dict", prefix="module."
    ),
}
"""Networks by name."""


def tiny_network(name: str) -> nn.Module:
    """A small network of the same topology with random weights: its features mean nothing."""
    network = PUBLISHED[name].build_tiny().eval().requires_grad_(False)
    fill(network)
    return network


def published_network(name: str, folder: Path | None = None) -> nn.Module:
    """The network with its published weights; ``folder`` is looked into first.

    Raises InputError where the file is absent, cannot be read, or does not fit.
    """
    entry = PUBLISHED[name]
    (path,) = catalogue.resolve(entry.model, folder).values()
    network = entry.build().eval().requires_grad_(False)
    tensors = named_tensors(entry, path)
    own = network.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER) and name not in tensors}
    fit(network, {**tensors, **counters}, path)
    return network


def named_tensors(entry: PublishedNetwork, path: Path) -> dict[str, Tensor]:
    """The tensors of ``path`` under the network's own names. Raises InputError for a file that holds none where they should be."""
    content = _content(path)
    if entry.key in content:
        content = content[entry.key]
    is_wrapped = any(str(name).startswith(entry.prefix) for name in content)
    tensors = {
        str(name).removeprefix(entry.prefix): value
        for name, value in content.items()
        if isinstance(value, Tensor) and (not is_wrapped or not entry.skips or str(name).startswith(entry.skips))
    }
    if not tensors:
        found = f"{path} holds no tensors{f' below {entry.key}' if entry.key else ''}"
        raise InputError(found, f"the published file of {entry.model.name}", catalogue.again(entry.model, path))
    return tensors


def _content(path: Path) -> Mapping[str, Any]:
    with torch.serialization.safe_globals(_integer_arrays()):
        return read_weights(path)


def _integer_arrays() -> list[Any]:
    """The types that a pickled array of integers consists of; it can hold no code."""
    import numpy as np
    from numpy._core import multiarray

    reconstruct: Any = multiarray._reconstruct
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype("int64")),
    ]
