"""Optical flow of a clip by a network, sampled as JavisDiT's and Open-Sora's curation do: comparable with their thresholds.

The published tool uses UniMatch (GMFlow with two scales and six refinements, trained at 320 × 576 on a mixture of data). Its number is the
mean magnitude of the flow's components over x and y, pixels and pairs of frames 0, 10, 20 and 30, in pixels of 320 × 576; clips
below 0.1 count as still. The library is optional and imported where the scorer loads; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from avpref.domain import PICTURE, Dimension, Metric, Score, Terms
from avpref.errors import InputError
from avpref.identity import digest, file_sha256
from avpref.rewards.libraries.flow_libraries import LIBRARY_OF
from avpref.rewards.libraries.flow_sampling import TOO_FEW, flow_frames
from avpref.rewards.protocol import ScorableClip, measured, skipped

if TYPE_CHECKING:
    from avpref.rewards.libraries.flow_networks import FlowNetwork

NAME, VERSION = "optical_flow", 1
METRIC = Metric("network_flow_px", "px between frames 10 apart", True, Dimension.VIDEO, PICTURE)


class OpticalFlow:
    """The scorer ``optical_flow``; see :mod:`avpref.rewards.outside.declaration`."""

    metrics: ClassVar[tuple[Metric, ...]] = (METRIC,)
    terms: ClassVar[Terms] = Terms("that of the file of weights", commercial_use=False)
    has_canary: ClassVar[bool] = True
    not_of_scores: ClassVar[tuple[str, ...]] = ("weights",)

    class Settings(BaseModel):
        """``model``: the network. ``weights``: its file (.safetensors, or one that torch.save wrote); the bytes identify it."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        model: Literal["unimatch", "raft_large", "raft_small"] = "unimatch"
        weights: str = Field(min_length=1)

    def __init__(self, settings: Settings) -> None:
        self._model, self._weights = settings.model, Path(settings.weights)
        if not self._weights.is_file():
            raise InputError(
                f"scorer {NAME}: no file {self._weights}",
                f"the weights of {settings.model}",
                "download them, and name the file in the setting weights",
            )
        self._library = LIBRARY_OF[settings.model]
        self._library.folder(NAME)
        self._network: FlowNetwork | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of this file's version, of the library's, of the network's name and of the bytes of its weights."""
        library = (self._library.distribution, self._library.version())
        return digest(NAME, VERSION, library, self._model, file_sha256(self._weights))

    def load(self, device: str) -> None:
        """Load the network on ``device``. Raises InputError where the library does not import or the file has other tensors."""
        from avpref.rewards.libraries.flow_networks import open_flow_network

        self._network = open_flow_network(NAME, self._model, self._weights, device)

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [[self._score(clip)] for clip in clips]

    def _score(self, clip: ScorableClip) -> Score:
        assert self._network is not None, "load comes before score"
        if clip.clip.frames is None:
            return skipped(clip.candidate_id, METRIC, "no video track")
        frames = flow_frames(clip.clip.frames)
        if len(frames) < 2:
            return skipped(clip.candidate_id, METRIC, TOO_FEW)
        return measured(clip.candidate_id, METRIC, self._network.mean_flow_px(frames))
