"""The rows of ``avpref scorers list``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from avpref.config.executor_settings import REWARD_MODELS
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import AvprefError
from avpref.flows.workers.class_scorers import BUILT_IN
from avpref.flows.workers.scorers import BUILT_IN_NAMES, ScorerSource, resolve
from avpref.outside.class_loading import SCORER, offers
from avpref.rewards.weights.catalogue import terms_text


def listing() -> list[dict[str, Any]]:
    """A document per scorer: name, origin, metrics, terms, and the reason why it cannot be used here (empty if it can)."""
    offered = [(offer.name, offer.distribution) for offer in offers(SCORER) if offer.name not in BUILT_IN_NAMES]
    return [_document(name, origin) for name, origin in [*((name, BUILT_IN) for name in BUILT_IN_NAMES), *offered]]


def for_people(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A table row per metric; name, origin, terms and availability appear in the first of a scorer."""
    for row in rows:
        head = {"scorer": row["name"], "origin": row["origin"], "terms": row["terms"]}
        head["available"] = "yes" if not row["reason"] else f"no: {row['reason'].splitlines()[0]}"
        for metric in row["metrics"] or [{}]:
            inputs = ", ".join(metric.get("inputs", ()))
            yield {
                **dict.fromkeys(head, ""),
                **head,
                "metric": metric.get("name"),
                "dimension": metric.get("dimension"),
                "inputs": inputs,
            }
            head = {}


def _document(name: str, origin: str) -> dict[str, Any]:
    try:
        sources = resolve([ScorerUse(use=name)], ScoringSettings())
    except AvprefError as error:
        return {"name": name, "origin": origin, "metrics": [], "terms": "", "reason": error.found}
    metrics = [metric for source in sources for metric in source.metrics]
    return {
        "name": name,
        "origin": origin,
        "metrics": [
            {
                "name": metric.name,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "dimension": str(metric.dimension),
                "inputs": sorted(map(str, metric.inputs)),
            }
            for metric in metrics
        ],
        "terms": "; ".join(dict.fromkeys(terms_text(source.terms) for source in sources)),
        "reason": _reason(name, sources),
    }


def _reason(name: str, sources: Sequence[ScorerSource]) -> str:
    """Why the scorer cannot be used here: the absent weights of a reward model."""
    if name not in REWARD_MODELS:
        return ""
    try:
        for source in sources:
            assert source.fingerprint
    except AvprefError as error:
        return f"{error.found}; {error.fix}"
    return ""
