"""Rows of ``avpref weights``: the files of the reward models on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from avpref.errors import ConfigError, InputError
from avpref.rewards.learned.learned_catalogue import LEARNED, LearnedScorer
from avpref.rewards.learned.packaged_weights import PackagedWeights
from avpref.rewards.weights import catalogue
from avpref.rewards.weights.catalogue import Model, WeightFile
from avpref.rewards.weights.weight_verify import Finding, State, verify


@dataclass(frozen=True)
class Listing:
    """The folder of fetched weights, one row per file, and note and licence by model."""

    home: str
    rows: list[dict[str, Any]]
    notes: dict[str, str]


def listing(names: Sequence[str], folder: Path | None) -> Listing:
    """The files of the named models (all if empty). Raises ConfigError for an unknown model, or a folder without one model."""
    models = models_named(names, folder)
    rows = [_row(model, file, folder) for model in models for file in model.files]
    notes = {model.name: f"{model.note} [{model.terms.licence}]" for model in models}
    return Listing(str(catalogue.weights_home()), rows, notes)


def packaged() -> list[dict[str, Any]]:
    """The weight files inside Python packages, one row per learned scorer and file; version and path are empty where absent."""
    return [_packaged_row(source, weights) for source in LEARNED.values() for weights in source.weights]


def _packaged_row(source: LearnedScorer, weights: PackagedWeights) -> dict[str, Any]:
    package, installed = weights.package, find_spec(weights.package.module) is not None
    return {
        "scorer": source.name,
        "package": package.distribution,
        "version": package.version() if installed else "",
        "file": weights.file,
        "trained_on": source.trained_on,
        "licence": source.terms.licence,
        "commercial_use": source.terms.commercial_use,
        "is_there": installed,
        "where": str(weights.path(source.name)) if installed else f"absent: {package.install}",
    }


def for_people(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with readable sizes; an estimated size begins with ``~``."""
    return [
        {
            **row,
            "size": ("" if row["is_size_exact"] else "~") + catalogue.size_text(row["num_bytes"]),
            "commercial": "yes" if row["commercial_use"] else "no",
            "where": row["path"] or "absent",
        }
        for row in rows
    ]


def findings(names: Sequence[str], folder: Path | None) -> list[Finding]:
    """The check of every file of the named models; without names, of the models with a file on this machine.

    Raises ConfigError as :func:`listing`, InputError where no file of any model is there.
    """
    models = models_named(names, folder)
    if not names:
        models = [model for model in models if any(catalogue.find(model, file) for file in model.files)]
    if not models:
        raise InputError("no file of any reward model is there", "at least one model", "avpref weights list")
    return [finding for model in models for finding in verify(model, folder)]


def are_whole(findings: Sequence[Finding]) -> bool:
    """Whether every file is present and as published."""
    return all(finding.state is State.OK for finding in findings)


def line(finding: Finding) -> str:
    """The check of a file on one line."""
    start = f"{finding.state:<12}  {finding.model} {finding.file}: {finding.found}"
    if not finding.fix:
        return f"{start}, {finding.expected}"
    where = f" in {finding.path}" if finding.path else ""
    return f"{start}{where}; expected: {finding.expected}; fix: {finding.fix}"


def models_named(names: Sequence[str], folder: Path | None = None) -> list[Model]:
    """The named models, each once; all without names. Raises ConfigError."""
    if folder is not None and len(names) != 1:
        raise ConfigError("--folder without a model", "the one model whose files it holds", "avpref weights list MODEL")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"no folder {folder}", "a folder with the files of the model", "avpref weights list")
    return [catalogue.model_named(name) for name in dict.fromkeys(names)] or list(catalogue.MODELS)


def _row(model: Model, file: WeightFile, folder: Path | None) -> dict[str, Any]:
    path = catalogue.find(model, file, folder)
    return {
        "model": model.name,
        "file": file.name,
        "source": str(file.source),
        "num_bytes": file.num_bytes,
        "is_size_exact": file.is_size_exact,
        "sha256": file.sha256,
        "licence": model.terms.licence,
        "commercial_use": model.terms.commercial_use,
        "is_there": path is not None,
        "path": str(path or ""),
    }
