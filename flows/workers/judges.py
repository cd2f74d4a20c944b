"""The judges of a configuration: scorers that select no pairs and judge the held-out clips of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets.evidence.judging import JudgeMetric, judge_metric_name
from avpref.domain import METRIC_BY_NAME
from avpref.errors import ConfigError, InputError
from avpref.flows.workers.class_scorers import ClassSource
from avpref.flows.workers.scorers import ScorerSource, Weightless, metrics_of, sources

NO_JUDGES = "--set evaluation.judges=[]"


@dataclass(frozen=True)
class Judge:
    """A judge under the name that ``evaluation.judges`` gives it.

    ``scoring`` is the section ``scoring`` with this judge as its only scorer; models, preset and window stay as they are.
    """

    name: str
    source: ScorerSource
    scoring: ScoringSettings


def judges_of(settings: Settings) -> list[Judge]:
    """The judges in the configuration's order. Raises as :func:`avpref.flows.workers.scorers.sources`, for one judge.

    Each is resolved by itself, because two judges may give metrics of one name.
    """
    judges = []
    for use in settings.evaluation.judge_uses:
        scoring = settings.scoring.model_copy(update={"scorers": (use.short,), "metrics": (), "weights": {}})
        judges += [Judge(use.slug, source, scoring) for source in sources(scoring, settings.executor)]
    return judges


def all_scorers(settings: Settings) -> list[ScorerSource]:
    """The scorers, then the judges, which run in the same pools."""
    return [*sources(settings.scoring, settings.executor), *(judge.source for judge in judges_of(settings))]


def judge_metrics(settings: Settings) -> list[JudgeMetric]:
    """The judges' metrics that count: those of ``evaluation.judge_metrics``, or all. Raises InputError where weights are absent.

    Raises ConfigError as :func:`check_judges`.
    """
    check_judges(settings)
    listed = settings.evaluation.judge_metrics
    return [
        JudgeMetric(name, str(metric.dimension), metric.higher_is_better, judge.source.fingerprint)
        for judge in judges_of(settings)
        for metric in judge.source.metrics
        if (name := judge_metric_name(judge.name, metric.name)) in listed or not listed
    ]


def check_judges(settings: Settings) -> None:
    """Raises ConfigError for a judge that selects pairs too, and for a name in ``evaluation.judge_metrics`` that no judge gives.

    A judge selects pairs if it is one of the scorers, has the class or the weights of one, or has a metric that enters rewards. The
    seven published metrics are columns that any scorer may fill with a measurement of its own, so an equal name among those alone
    makes no selector of a judge. A scorer of which any metric selects is no judge by its other metrics either: they rest on the
    same measurements.
    """
    judges = judges_of(settings)
    if not judges:
        _refuse_unknown(settings.evaluation.judge_metrics, ())
        return
    selectors = sources(settings.scoring, settings.executor)
    rewarded = {metric.name for metric in metrics_of(settings.scoring, settings.executor)} - set(METRIC_BY_NAME)
    for judge in judges:
        for selector in selectors:
            if reason := _shared(judge.source, selector):
                _refuse(judge, f"{selector.name} of scoring.scorers: {reason}")
        if shared := rewarded & {metric.name for metric in judge.source.metrics}:
            _refuse(judge, f"metric {', '.join(sorted(shared))} enters rewards")
    names = [judge_metric_name(judge.name, metric.name) for judge in judges for metric in judge.source.metrics]
    _refuse_unknown(settings.evaluation.judge_metrics, names)


def require_judges(settings: Settings) -> None:
    """Raises ConfigError as :func:`check_judges`, and InputError where a judge's weights are absent or damaged."""
    check_judges(settings)
    for judge in judges_of(settings):
        try:
            assert judge.source.fingerprint, judge.name  # reads the weights' identity
        except (ConfigError, InputError) as error:
            raise type(error)(f"judge {judge.name}: {error.found}", error.expected, error.fix) from error


def _shared(judge: ScorerSource, selector: ScorerSource) -> str:
    """The measurements that judge and selector share; empty where there are none."""
    if judge.name == selector.name:
        return "the same scorer"
    if isinstance(judge, ClassSource | Weightless) and isinstance(selector, ClassSource | Weightless):
        return "the same class" if _class_of(judge) == _class_of(selector) else ""
    if judge.is_network and selector.is_network:
        from avpref.flows.workers.reward_models import RewardModel

        if isinstance(judge, RewardModel) and isinstance(selector, RewardModel) and judge.model == selector.model:
            return "the same weights"
    return ""


def _class_of(source: ClassSource | Weightless) -> str:
    """``package.module:Class`` of the scorer, whatever its name and settings are."""
    if isinstance(source, ClassSource):
        return source.reference
    return f"{type(source.scorer).__module__}:{type(source.scorer).__qualname__}"


def _refuse(judge: Judge, reason: str) -> None:
    raise ConfigError(
        f"judge {judge.name} of evaluation.judges also selects pairs ({reason})",
        "judges that take no part in selecting pairs",
        f"{NO_JUDGES}, or another scorer that scoring.scorers does not name",
    )


def _refuse_unknown(listed: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in listed if name not in known]
    if unknown:
        expected = f"metrics of evaluation.judges: {', '.join(known) or '(no judges)'}"
        raise ConfigError(
            f"evaluation.judge_metrics lists {', '.join(unknown)}", expected, "--set evaluation.judge_metrics=[]"
        )
