"""The scorers of a configuration: their metrics, terms and fingerprints are known before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from avpref.config.loading import load_section
from avpref.config.scoring_settings import ScorerName, ScoringSettings
from avpref.datasets.metric_selection import select_metrics
from avpref.domain import Metric, Terms
from avpref.rewards.protocol import Scorer

TINY = "tiny"
REWARD_MODELS = "audiobox,imagebind,synchformer,videoalign"


class ScorerSource(Protocol):
    """Describes a scorer and loads it. Picklable: actors receive it and load the scorer."""

    @property
    def name(self) -> str:
        """The scorer's name in the score table."""
        ...

    @property
    def slug(self) -> str:
        """The scorer's name in settings, stage names and folders."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the scorer computes."""
        ...

    @property
    def terms(self) -> Terms:
        """The licence of the scores, whether commercial use is allowed, and whether the scores are meaningful."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the scores depend on, except the clip. Raises InputError where weights are absent."""
        ...

    @property
    def is_network(self) -> bool:
        """Whether the scorer is a reward model, which sees the clip at its own size and rates and is checked with a canary."""
        ...

    @property
    def keeps_embeddings(self) -> bool:
        """Whether the scorer gives embeddings, which are stored with the scores."""
        ...

    def open(self, device: str) -> Scorer:
        """Load the scorer on ``device``. Raises InputError where weights are absent or do not match their hashes."""
        ...


@dataclass(frozen=True)
class Weightless:
    """The source of a scorer without weights."""

    scorer: Scorer
    is_network: bool = False

    @property
    def name(self) -> str:
        """The class's name."""
        return type(self.scorer).__name__

    @property
    def slug(self) -> str:
        """The class's name in lower case."""
        return self.name.lower()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`ScorerSource`."""
        return self.scorer.metrics

    @property
    def terms(self) -> Terms:
        """See :class:`ScorerSource`."""
        return self.scorer.terms

    @property
    def fingerprint(self) -> str:
        """See :class:`ScorerSource`."""
        return self.scorer.fingerprint

    @property
    def keeps_embeddings(self) -> bool:
        """False: there are no embeddings."""
        return False

    def open(self, device: str) -> Scorer:
        """The scorer; nothing is loaded."""
        return self.scorer


def sources(scoring: ScoringSettings) -> list[ScorerSource]:
    """The scorers of a configuration, in its order."""
    return [source for name in scoring.scorers for source in _sources(name, scoring)]


def _sources(name: ScorerName, scoring: ScoringSettings) -> Sequence[ScorerSource]:
    match name:
        case "toy":
            from avpref.rewards.toy.toy import toy_scorers

            return [Weightless(scorer) for scorer in toy_scorers()]
        case "signal":
            from avpref.rewards.signals.signals import signal_scorers

            return [Weightless(scorer) for scorer in signal_scorers()]
        case "fake":
            from avpref.rewards.fake import FakeScorer

            return [Weightless(FakeScorer())]
        case _:
            from avpref.flows.workers.reward_models import reward_model

            return [reward_model(name, scoring)]


def metrics_of(scoring: ScoringSettings) -> tuple[Metric, ...]:
    """The metrics that enter rewards, with weight and scorer: the selected ones, or those of the paper that the scorers compute.

    Raises ConfigError; see :func:`avpref.datasets.metric_selection.select_metrics`.
    """
    computed = [replace(metric, scorer=source.name) for source in sources(scoring) for metric in source.metrics]
    return select_metrics(computed, scoring.metrics, scoring.weights)


def open_named(names: Sequence[str], device: str = "auto") -> list[Scorer]:
    """Load the scorers ``names`` with default settings; ``tiny`` stands for the four reward models with random weights.

    Raises ConfigError for an unknown name, InputError where weights are absent.
    """
    return [source.open(device) for source in sources(named(",".join(names)))]


def named(names: str) -> ScoringSettings:
    """Scoring settings for ``names``, separated by commas as on the command line. Raises ConfigError for an unknown name."""
    return load_section(ScoringSettings, "scoring", overrides_of(names), environment={})


def overrides_of(names: str) -> list[str]:
    """The ``--set`` overrides that select the scorers ``names``, or the four reward models for ``tiny``."""
    if names == TINY:
        return ["scoring.preset=tiny", f"scoring.scorers={REWARD_MODELS}"]
    return [f"scoring.scorers={names}"]
