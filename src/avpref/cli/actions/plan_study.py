"""The work of ``avpref votes plan``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.studies import ASPECTS, StudyOptions
from avpref.errors import ConfigError
from avpref.registry.study_files import StudyFiles
from avpref.registry.study_planning import Model, plan_models, plan_pairs
from avpref.storage.run_folder import RunFolder


@dataclass(frozen=True)
class PlanRequest:
    """The options of the command; ``items`` None: all."""

    of: str
    side: str
    items: int | None
    raters: int
    annotators: int
    checks: int
    aspects: tuple[str, ...]
    seed: int


def plan(folder: RunFolder, baseline: RunFolder | None, request: PlanRequest) -> dict[str, Any]:
    """Plan and store a study; returns its facts. Raises ConfigError for options that do not fit together, and as the planning."""
    aspects = request.aspects or ASPECTS
    options = StudyOptions(request.raters, request.annotators, request.checks, aspects, request.seed)
    if request.of == "pairs":
        if baseline is not None:
            raise ConfigError("--of pairs with --against", "the pairs of one run", "avpref votes plan --of pairs")
        study = plan_pairs(folder, options, request.items)
    elif baseline is None:
        if request.side != "policy":
            raise ConfigError("--side reference without --against", "two runs to compare", "--against RUN")
        reference, policy = Model(folder, EvaluationSide.REFERENCE), Model(folder, EvaluationSide.POLICY)
        study = plan_models(reference, policy, options, request.items)
    else:
        side = EvaluationSide(request.side)
        study = plan_models(Model(baseline, side), Model(folder, side), options, request.items)
    is_new = StudyFiles(folder.files).plan(study)
    return {
        "study_id": study.study_id,
        "run_id": folder.run_id,
        "is_new": is_new,
        "first": study.names[0],
        "second": study.names[1],
        "items": len(study.items),
        "votes": sum(map(len, study.queues)),
        "per_annotator": max(map(len, study.queues)),
    }


def find(folder: RunFolder, study: str) -> str:
    """The id of the study that begins with ``study``. Raises InputError."""
    return StudyFiles(folder.files).find(study).study_id
