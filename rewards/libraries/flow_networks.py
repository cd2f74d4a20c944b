"""Networks of optical flow in two optional libraries, with the sizes, units and inputs that their weights were trained for.

* ``unimatch`` is GMFlow with two scales and six refinements (H. Xu et al., "Unifying Flow, Stereo and Depth Estimation", 2023), in
  ptlflow. Its tensors have the names of the original's, so the original's files fit as well as ptlflow's.
* ``raft_large`` and ``raft_small`` are RAFT (Z. Teed, J. Deng, 2020) in torchvision, with twelve updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from avpref.rewards.libraries.flow_libraries import LIBRARY_OF, MATCHING_BUILDS
from avpref.rewards.libraries.flow_sampling import HEIGHT_PX, WIDTH_PX
from avpref.rewards.libraries.library_import import import_library
from avpref.rewards.libraries.network_file import fill_network

LEVELS = 255.0
RAFT_UPDATES = 12


@dataclass(frozen=True)
class FlowNetwork:
    """A network with its weights on ``device``; ``compute`` runs it on two batches of pictures."""

    network: Callable[..., Any]
    compute: Callable[[Callable[..., Any], Tensor, Tensor], Tensor]
    device: str

    def fields(self, frames: NDArray[np.uint8]) -> Tensor:
        """Flow between consecutive frames [T, H, W, 3]: float32 [T - 1, 2, 320, 576], in pixels of that size, on the CPU.

        One pair of frames is computed at a time, because a pair's correlations take more than a gigabyte.
        """
        sized = resized(frames).to(self.device).split(1)
        with torch.no_grad():
            return torch.cat([self.compute(self.network, *pair).float().cpu() for pair in pairwise(sized)])

    def mean_flow_px(self, frames: NDArray[np.uint8]) -> float:
        """Mean magnitude of the components of the flow over all pixels and pairs of frames [T, H, W, 3], T ≥ 2."""
        return float(self.fields(frames).abs().double().mean())


def resized(frames: NDArray[np.uint8]) -> Tensor:
    """RGB frames [T, H, W, 3] as float32 [T, 3, 320, 576] in levels of 255: upright ones are transposed, all are interpolated.

    Bilinear, the corners' centres stay where they are, without a filter against aliasing, as in the published tool.
    """
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    if planes.shape[2] > planes.shape[3]:
        planes = planes.transpose(2, 3)
    return functional.interpolate(planes.contiguous(), (HEIGHT_PX, WIDTH_PX), mode="bilinear", align_corners=True)


def open_flow_network(scorer: str, model: str, weights: Path, device: str) -> FlowNetwork:
    """The network ``model`` with the tensors of ``weights``.

    Raises InputError where its library is absent or does not import, and for a file that holds other tensors.
    """
    build, compute = _NETWORKS[model]
    with torch.random.fork_rng(devices=[]):
        network = build(scorer)
    fill_network(scorer, network, weights)
    return FlowNetwork(network.to(device).eval(), compute, device)


def unimatch_fields(network: Callable[..., Any], first: Tensor, second: Tensor) -> Tensor:
    """Flow [N, 2, H, W] by a network of ptlflow, whose pictures are BGR from 0 to 1."""
    pairs = torch.stack([first, second], dim=1).flip(2).contiguous() / LEVELS
    fields: Tensor = network({"images": pairs})["flows"][:, 0]
    return fields


def raft_fields(network: Callable[..., Any], first: Tensor, second: Tensor) -> Tensor:
    """Flow [N, 2, H, W] by a network of torchvision, whose pictures are RGB from -1 to 1."""
    pictures = [(planes / LEVELS - 0.5) / 0.5 for planes in (first, second)]
    fields: Tensor = network(*pictures, num_flow_updates=RAFT_UPDATES)[-1]
    return fields


def _unimatch(scorer: str) -> nn.Module:
    library = import_library(scorer, LIBRARY_OF["unimatch"], "ptlflow", MATCHING_BUILDS)
    network: nn.Module = library.get_model_reference("unimatch_sc2_ref6")()
    return network


def _raft_large(scorer: str) -> nn.Module:
    return _raft(scorer, "raft_large")


def _raft_small(scorer: str) -> nn.Module:
    return _raft(scorer, "raft_small")


def _raft(scorer: str, name: str) -> nn.Module:
    library = import_library(scorer, LIBRARY_OF[name], "torchvision.models.optical_flow", MATCHING_BUILDS)
    network: nn.Module = getattr(library, name)(weights=None, progress=False)
    return network


_NETWORKS: Mapping[str, tuple[Callable[[str], nn.Module], Callable[[Callable[..., Any], Tensor, Tensor], Tensor]]] = {
    "unimatch": (_unimatch, unimatch_fields),
    "raft_large": (_raft_large, raft_fields),
    "raft_small": (_raft_small, raft_fields),
}
"""How each network is made, and how it is run."""
