"""The scorers of a configuration: their metrics, terms and fingerprints are known before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from avpref.config.executor_settings import REWARD_MODELS as MODEL_NAMES
from avpref.config.executor_settings import Executor, RayExecutor
from avpref.config.learned_names import MODULES_OF
from avpref.config.loading import load_section
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ModelSettings, ScoringSettings
from avpref.datasets.metric_selection import select_metrics
from avpref.domain import Metric, Terms
from avpref.errors import ConfigError
from avpref.flows.workers.class_scorers import BUILT_IN, class_source, outside_source
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.rewards.built_in import BUILT_IN_CLASSES
from avpref.rewards.protocol import Scorer

WEIGHTLESS = ("toy", "signal", "fake")
"""Built-in names of groups of scorers without weights, which take no settings."""
BUILT_IN_NAMES = (*WEIGHTLESS, *MODEL_NAMES, *MODULES_OF, *BUILT_IN_CLASSES)
TINY = "tiny"
REWARD_MODELS = "audiobox,imagebind,synchformer,videoalign"


@dataclass(frozen=True)
class Weightless:
    """The source of a scorer without weights."""

    scorer: Scorer
    is_network: bool = False
    uses_device: bool = False
    is_isolated: bool = False
    has_canary: bool = False

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


def sources(scoring: ScoringSettings, executor: Executor | None = None) -> list[ScorerSource]:
    """The scorers of a configuration, in its order; ``executor`` has the environments in which some of them run.

    Raises ConfigError as :func:`resolve`, and for two scorers that give one metric name.
    """
    resolved = resolve(scoring.uses, scoring, executor)
    giver: dict[str, str] = {}
    for source in resolved:
        for metric in source.metrics:
            if giver.setdefault(metric.name, source.slug) != source.slug:
                raise ConfigError(
                    f"scorers {giver[metric.name]} and {source.slug} both give the metric {metric.name}",
                    "every metric from one scorer",
                    f"leave one of them out of scoring.scorers, or rename the metric in {source.slug}",
                )
    return resolved


def resolve(
    uses: Sequence[ScorerUse], scoring: ScoringSettings, executor: Executor | None = None
) -> list[ScorerSource]:
    """The scorers that ``uses`` names; ``scoring`` has the preset and the settings of the reward models.

    Raises ConfigError for an unknown name, a module that does not import, and settings that the scorer does not accept.
    """
    return [source for use in uses for source in _sources(use, scoring, _placed(use, executor))]


def _placed(use: ScorerUse, executor: Executor | None) -> RayExecutor | None:
    """The executor of the scorer's pool, if that has an environment of its own."""
    pool = executor.pools.get(use.slug) if isinstance(executor, RayExecutor) else None
    if pool is None or pool.runtime_env.is_empty:
        return None
    assert isinstance(executor, RayExecutor)
    return executor.of_pool(use.slug)


def _sources(use: ScorerUse, scoring: ScoringSettings, placed: RayExecutor | None) -> Sequence[ScorerSource]:
    match use.use:
        case name if name in BUILT_IN_CLASSES:
            return [class_source(use, BUILT_IN_CLASSES[name], BUILT_IN, placed)]
        case name if name in MODEL_NAMES:
            from avpref.flows.workers.reward_models import reward_model

            _refuse_name(use)
            return [reward_model(name, _with_settings(use, scoring))]
        case name if name in MODULES_OF:
            from avpref.rewards.learned.learned_catalogue import LEARNED

            _refuse_name(use)
            _refuse_settings(use)
            return [LEARNED[name]]
        case name if name in WEIGHTLESS:
            _refuse_name(use)
            _refuse_settings(use)
            return [Weightless(scorer) for scorer in _weightless(name)]
        case _:
            return [outside_source(use, BUILT_IN_NAMES, placed)]


def _weightless(name: str) -> Sequence[Scorer]:
    match name:
        case "toy":
            from avpref.rewards.toy.toy import toy_scorers

            return toy_scorers()
        case "signal":
            from avpref.rewards.signals.signals import signal_scorers

            return signal_scorers()
        case _:
            from avpref.rewards.fake import FakeScorer

            return [FakeScorer()]


def _refuse_name(use: ScorerUse) -> None:
    if use.name and use.name != use.use:
        raise ConfigError(
            f"scorer {use.use} is called {use.name}", "no name: this scorer keeps its own", f"use: {use.use}"
        )


def _refuse_settings(use: ScorerUse) -> None:
    if use.settings:
        found = f"scorer {use.use}: settings {', '.join(use.settings)}"
        raise ConfigError(found, "no settings: this scorer has none", f"--set scoring.scorers={use.use}")


def _with_settings(use: ScorerUse, scoring: ScoringSettings) -> ScoringSettings:
    """``scoring`` with the settings of the entry in the section of its reward model. Raises ConfigError."""
    section: ModelSettings = getattr(scoring, use.use)
    try:
        changed = type(section).model_validate({**section.model_dump(), **use.settings})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        expected = f"keys of scoring.{use.use} in docs/configuration.md"
        raise ConfigError(
            f"scorer {use.use}: settings: {problems}", expected, f"--set scoring.{use.use}.KEY=VALUE"
        ) from None
    return scoring.model_copy(update={use.use: changed})


def metrics_of(scoring: ScoringSettings, executor: Executor | None = None) -> tuple[Metric, ...]:
    """The metrics that enter rewards, with weight and scorer: the selected ones, or those of the paper that the scorers compute.

    Raises ConfigError; see :func:`avpref.datasets.metric_selection.select_metrics`.
    """
    computed = [
        replace(metric, scorer=source.name) for source in sources(scoring, executor) for metric in source.metrics
    ]
    return select_metrics(computed, scoring.metrics, scoring.weights)


def open_named(names: Sequence[str], device: str = "auto") -> list[Scorer]:
    """Load the scorers ``names`` with default settings; ``tiny`` stands for the four reward models with random weights.

    Raises ConfigError for an unknown name, InputError where weights are absent.
    """
    return [source.open(device) for source in sources(named(",".join(names)))]


def named(names: str) -> ScoringSettings:
    """Scoring settings for ``names``, separated by commas as on the command line. Raises ConfigError for a name of the wrong form."""
    return load_section(ScoringSettings, "scoring", overrides_of(names), environment={})


def overrides_of(names: str) -> list[str]:
    """The ``--set`` overrides that select the scorers ``names``, or the four reward models for ``tiny``."""
    if names == TINY:
        return ["scoring.preset=tiny", f"scoring.scorers={REWARD_MODELS}"]
    return [f"scoring.scorers={names}"]
