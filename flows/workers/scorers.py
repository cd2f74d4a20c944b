"""The scorers of a configuration: what each gives and depends on, known without loading a weight; one ``match`` opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from avpref.config.loading import load_section
from avpref.config.scoring_settings import ScorerName, ScoringSettings
from avpref.domain import METRICS, Metric, Terms
from avpref.errors import ConfigError
from avpref.rewards.protocol import Scorer

TINY = "tiny"
REWARD_MODELS = "audiobox,imagebind,synchformer,videoalign"


class ScorerSource(Protocol):
    """A scorer before it is opened. Picklable: it travels to the actors, which open it there."""

    @property
    def name(self) -> str:
        """What the score table calls it."""
        ...

    @property
    def slug(self) -> str:
        """What settings, stages and folders call it."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it gives."""
        ...

    @property
    def terms(self) -> Terms:
        """Under which terms its numbers may be used, and whether they mean anything."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that its numbers depend on, beside the clip. Raises InputError where weights are absent."""
        ...

    @property
    def is_network(self) -> bool:
        """Whether it is a reward model: sees the file's own frames and channels, and is checked with a canary."""
        ...

    @property
    def keeps_embeddings(self) -> bool:
        """Whether it sets embeddings aside, which are then kept beside the scores."""
        ...

    def open(self, device: str) -> Scorer:
        """Load it. Raises InputError where weights are absent or not what they should be."""
        ...


@dataclass(frozen=True)
class Weightless:
    """A scorer that is there as soon as it is asked for."""

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
        """It has none."""
        return False

    def open(self, device: str) -> Scorer:
        """It is open."""
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


def metrics_of(scoring: ScoringSettings) -> list[Metric]:
    """The metrics that enter rewards: those of the seven columns that the scorers give, or those of them that are listed.

    Raises ConfigError for a listed metric that no scorer gives.
    """
    given = {metric.name: metric for source in sources(scoring) for metric in source.metrics}
    wanted = scoring.metrics or tuple(given)
    unknown = [name for name in wanted if name not in given]
    if unknown:
        expected = f"metrics of the scorers {', '.join(scoring.scorers)}: {', '.join(given)}"
        raise ConfigError(f"scoring.metrics lists {', '.join(unknown)}", expected, "--set scoring.metrics=[]")
    return [given[metric.name] for metric in METRICS if metric.name in wanted]


def open_named(names: Sequence[str], device: str = "auto") -> list[Scorer]:
    """The scorers called ``names``, loaded with default settings; ``tiny`` is the four reward models with random weights.

    Raises ConfigError for a name that nobody knows, InputError where weights are absent.
    """
    return [source.open(device) for source in sources(named(",".join(names)))]


def named(names: str) -> ScoringSettings:
    """Scoring settings of ``names`` (commas between), as the command line takes them. Raises ConfigError."""
    return load_section(ScoringSettings, "scoring", overrides_of(names), environment={})


def overrides_of(names: str) -> list[str]:
    """Overrides that stand for the scorers ``names``, or for ``tiny``."""
    if names == TINY:
        return ["scoring.preset=tiny", f"scoring.scorers={REWARD_MODELS}"]
    return [f"scoring.scorers={names}"]
