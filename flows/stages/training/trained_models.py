"""Reuse of models that another run has trained.

A model folder is named by everything that its training depends on, so a folder of the same name in another run holds the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from avpref.flows.run import Run
from avpref.storage.links import link_all
from avpref.storage.local_files import TEMPORARY_PREFIX, LocalFiles, replace
from avpref.storage.sibling_runs import siblings
from avpref.trainer.metrics import METRICS_FILE


def reuse_trained_model(run: Run, output: Path, files: Sequence[str], last: str) -> str:
    """Link a finished model of another run into ``output``; returns that run's name, empty where no run has the model.

    ``files`` are files or folders of the model. The trainer writes ``last`` after them, and it is linked last here too: a model
    with that file counts as finished. Training curves are copied, because trainers append to them. Raises StorageError where
    ``output`` cannot be written.
    """
    for sibling in siblings(LocalFiles(run.runs), run.root.name):
        source = run.runs / sibling.name / output.relative_to(run.root)
        if not all((source / name).exists() for name in (*files, last)):
            continue
        try:
            replace(output / METRICS_FILE, (source / METRICS_FILE).read_bytes())
            link_all((path, output / path.relative_to(source)) for path in _model_files(source, files))
            link_all([(source / last, output / last)])
        except FileNotFoundError:  # the sibling is being removed
            continue
        return sibling.name
    return ""


def _model_files(source: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files called ``names``, and those in folders of these names; temporary and hidden files are left out."""
    for name in names:
        path = source / name
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (file for file in files if not file.name.startswith((TEMPORARY_PREFIX, ".")))
