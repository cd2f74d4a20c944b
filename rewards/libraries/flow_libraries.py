"""The optional libraries of optical flow, by network."""

from __future__ import annotations

from collections.abc import Mapping

from avpref.rewards.learned.packaged_weights import Package
from avpref.rewards.libraries.library_import import OWN_ENVIRONMENT

MATCHING_BUILDS = "builds of torch and torchvision that belong together, from one index"
PTLFLOW = Package("ptlflow", "ptlflow", f"pip install torch torchvision ptlflow==0.4.2, {OWN_ENVIRONMENT}")
TORCHVISION = Package("torchvision", "torchvision", f"pip install torch torchvision, {OWN_ENVIRONMENT}")
LIBRARY_OF: Mapping[str, Package] = {"unimatch": PTLFLOW, "raft_large": TORCHVISION, "raft_small": TORCHVISION}
