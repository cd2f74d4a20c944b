"""Base class of the scorers with a network: validity rules, then the front end clip by clip, then the network in batches.

``prepare`` reads all frames and returns small inputs, so a worker decodes each clip once, prepares it for all of its
scorers and frees the frames. ``score_prepared`` runs the network in batches, and halves the batch when memory runs out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from avpref.domain import Metric, Score, Terms
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.validity import (
    Flag,
    ValidityRules,
    in_flag_order,
    picture_flags,
    reason_from_flags,
    sound_flags,
    track_dimension,
)

ModelInputs = TypeVar("ModelInputs")

NO_TEXT = "empty text"
MODEL_RULES = ValidityRules(min_moving_share=0.001)


class NotScorable(Exception):
    """Raised by a front end for a clip that its network cannot score; the message is the reason in the score rows."""


@dataclass(frozen=True)
class Placement:
    """Where and how a network runs: device, floating-point type, and the maximum number of clips per batch."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_clips: int = 4


CPU = Placement()


@dataclass(frozen=True, eq=False)
class Prepared(Generic[ModelInputs]):
    """A clip after the front end.

    ``reasons`` maps each metric's name to the reason why it is skipped, empty if it is scored. ``inputs`` is None if every
    metric is skipped.
    """

    candidate_id: str
    reasons: Mapping[str, str]
    inputs: ModelInputs | None


class ModelScorer(ABC, Generic[ModelInputs]):
    """A scorer whose numbers come from a network. Final classes implement the properties, ``inputs`` and ``measure``."""

    rules: ValidityRules = MODEL_RULES
    text_metrics: frozenset[str] = frozenset()
    """Names of the metrics that compare with the text; they are skipped if it is empty."""

    def __init__(self, placement: Placement, terms: Terms) -> None:
        self._placement, self._terms = placement, terms

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """See :class:`avpref.rewards.protocol.Scorer`: hash of version, weights, floating-point type and settings."""

    @property
    def terms(self) -> Terms:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return self._terms

    @property
    def placement(self) -> Placement:
        """Device, floating-point type and batch size of the network."""
        return self._placement

    @abstractmethod
    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ModelInputs:
        """Run the front end: the inputs that the network needs to compute ``metrics`` (names) of ``clip``, on the CPU.

        Raises NotScorable if the network cannot score the clip. Never changes the clip.
        """

    @abstractmethod
    def measure(self, batch: Sequence[ModelInputs]) -> list[Mapping[str, float]]:
        """Run the network: for each entry of ``batch`` the numbers by metric name, at least those whose inputs are present.

        The numbers of a clip do not depend on the other entries.
        """

    def pop_embeddings(self) -> list[Mapping[str, Tensor]]:
        """Return and forget the embeddings of the clips measured since the last call, one mapping by name per clip.

        They are stored beside the scores. Most scorers have none and return an empty list.
        """
        return []

    def prepare(self, clip: ScorableClip) -> Prepared[ModelInputs]:
        """Apply the validity rules, and run the front end for the metrics that are not skipped."""
        flags = self._flags(clip)
        reasons = {metric.name: self.skip_reason(clip, metric, flags) for metric in self.metrics}
        scorable = [name for name, reason in reasons.items() if not reason]
        if not scorable:
            return Prepared(clip.candidate_id, reasons, None)
        try:
            return Prepared(clip.candidate_id, reasons, self.inputs(clip, scorable))
        except NotScorable as error:
            reasons = {name: reason or str(error) for name, reason in reasons.items()}
            return Prepared(clip.candidate_id, reasons, None)

    def score_prepared(self, prepared: Sequence[Prepared[ModelInputs]]) -> list[list[Score]]:
        """Scores of clips that this scorer prepared; same order and invariants as :meth:`score`."""
        values = iter(self._measured([clip.inputs for clip in prepared if clip.inputs is not None]))
        return [self._scores(clip, {} if clip.inputs is None else next(values)) for clip in prepared]

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return self.score_prepared([self.prepare(clip) for clip in clips])

    def skip_reason(self, clip: ScorableClip, metric: Metric, flags: Sequence[Flag]) -> str:
        """The reason why ``metric`` is skipped for a clip with ``flags``; empty if it is scored."""
        if metric.name in self.text_metrics and not clip.text.strip():
            return NO_TEXT
        return reason_from_flags(flags, track_dimension(metric))

    def _flags(self, clip: ScorableClip) -> tuple[Flag, ...]:
        """The flags of the clip; those of the picture are computed once for all scorers with the same rules."""
        key = ("picture flags", self.rules)
        if key not in clip.measurements:
            clip.measurements[key] = picture_flags(clip.clip, self.rules)
        picture = cast("frozenset[Flag]", clip.measurements[key])
        return in_flag_order(picture | sound_flags(clip.clip, self.rules))

    def _measured(self, inputs: Sequence[ModelInputs]) -> list[Mapping[str, float]]:
        values: list[Mapping[str, float]] = []
        size = self.placement.batch_clips
        while len(values) < len(inputs):
            try:
                with torch.inference_mode():
                    values += self.measure(inputs[len(values) : len(values) + size])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                torch.cuda.empty_cache()
        return values

    def _scores(self, prepared: Prepared[ModelInputs], values: Mapping[str, float]) -> list[Score]:
        return [
            skipped(prepared.candidate_id, metric, prepared.reasons[metric.name])
            if prepared.reasons[metric.name]
            else measured(prepared.candidate_id, metric, values[metric.name])
            for metric in self.metrics
        ]
