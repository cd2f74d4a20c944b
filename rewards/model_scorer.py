"""Base of the scorers with a network: first what can be judged at all, then the front end clip by clip, then the network.

``prepare`` needs the whole picture and gives something small, so a worker decodes each clip once, prepares it for all of its
scorers and lets go of the picture; ``score_prepared`` runs the network in batches that halve where memory runs out.
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
from avpref.rewards.validity import Flag, ValidityRules, in_flag_order, picture_flags, reason_from_flags, sound_flags

ModelInputs = TypeVar("ModelInputs")

NO_TEXT = "empty text"
MODEL_RULES = ValidityRules(min_moving_share=0.001)


class NotScorable(Exception):
    """Raised by a front end for a clip that its network cannot judge; the message is the reason that score rows carry."""


@dataclass(frozen=True)
class Placement:
    """Where and how a network runs: device, floating-point type, and the most clips that go through it at once."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_clips: int = 4


CPU = Placement()


@dataclass(frozen=True, eq=False)
class Prepared(Generic[ModelInputs]):
    """A clip after the front end. ``reasons`` says of each metric why it is not judged (empty: it is); ``inputs`` is None where none is."""

    candidate_id: str
    reasons: Mapping[str, str]
    inputs: ModelInputs | None


class ModelScorer(ABC, Generic[ModelInputs]):
    """A scorer whose numbers come from a network. Final classes give the properties, ``inputs`` and ``measure``."""

    rules: ValidityRules = MODEL_RULES
    text_metrics: frozenset[str] = frozenset()
    """Metrics that compare with the text, and have nothing to say where it is empty."""

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
        """Where the network runs."""
        return self._placement

    @abstractmethod
    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ModelInputs:
        """The front end: what the network needs of ``clip`` for ``metrics`` (names), on the CPU.

        Raises NotScorable where the network cannot judge the clip. Never changes the clip.
        """

    @abstractmethod
    def measure(self, batch: Sequence[ModelInputs]) -> list[Mapping[str, float]]:
        """Numbers by metric for each of ``batch``: at least those whose inputs are there. A clip's numbers are its own."""

    def pop_embeddings(self) -> list[Mapping[str, Tensor]]:
        """Tensors to be stored beside the scores, by name: one mapping per clip measured since the last call. Most have none."""
        return []

    def prepare(self, clip: ScorableClip) -> Prepared[ModelInputs]:
        """Decide what can be judged, and run the front end for that."""
        found = self._flags(clip)
        reasons = {metric.name: self.skip_reason(clip, metric, found) for metric in self.metrics}
        judged = [name for name, why in reasons.items() if not why]
        if not judged:
            return Prepared(clip.candidate_id, reasons, None)
        try:
            return Prepared(clip.candidate_id, reasons, self.inputs(clip, judged))
        except NotScorable as error:
            reasons = {name: why or str(error) for name, why in reasons.items()}
            return Prepared(clip.candidate_id, reasons, None)

    def score_prepared(self, prepared: Sequence[Prepared[ModelInputs]]) -> list[list[Score]]:
        """Scores of clips that were prepared by this scorer; order and invariants of :meth:`score`."""
        values = iter(self._measured([each.inputs for each in prepared if each.inputs is not None]))
        return [self._scores(each, {} if each.inputs is None else next(values)) for each in prepared]

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return self.score_prepared([self.prepare(clip) for clip in clips])

    def skip_reason(self, clip: ScorableClip, metric: Metric, found: Sequence[Flag]) -> str:
        """Why ``metric`` does not judge the clip, which has the flags ``found``; empty where it does."""
        if metric.name in self.text_metrics and not clip.text.strip():
            return NO_TEXT
        return reason_from_flags(found, metric.dimension)

    def _flags(self, clip: ScorableClip) -> tuple[Flag, ...]:
        """The picture is looked at once for all scorers of one set of rules."""
        question = ("picture flags", self.rules)
        if question not in clip.measurements:
            clip.measurements[question] = picture_flags(clip.clip, self.rules)
        picture = cast("frozenset[Flag]", clip.measurements[question])
        return in_flag_order(picture | sound_flags(clip.clip, self.rules))

    def _measured(self, inputs: Sequence[ModelInputs]) -> list[Mapping[str, float]]:
        found: list[Mapping[str, float]] = []
        size = self.placement.batch_clips
        while len(found) < len(inputs):
            try:
                with torch.inference_mode():
                    found += self.measure(inputs[len(found) : len(found) + size])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                torch.cuda.empty_cache()
        return found

    def _scores(self, prepared: Prepared[ModelInputs], values: Mapping[str, float]) -> list[Score]:
        return [
            skipped(prepared.candidate_id, metric, prepared.reasons[metric.name])
            if prepared.reasons[metric.name]
            else measured(prepared.candidate_id, metric, values[metric.name])
            for metric in self.metrics
        ]
