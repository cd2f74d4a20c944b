"""Models that a run beside this one has trained already: the same derived name, so the same training, settings and data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from avpref.flows.run import Run
from avpref.storage.links import link_all
from avpref.storage.local_files import TEMPORARY_PREFIX, LocalFiles, replace
from avpref.storage.sibling_runs import siblings
from avpref.trainer.metrics import METRICS_FILE


def take_over(run: Run, output: Path, files: Sequence[str], last: str) -> str:
    """Link a finished model of another run into ``output``; returns the run's name, empty where nobody has finished it.

    ``files`` are files or folders of the model, ``last`` is written last by the trainer and linked last here: with it the model counts
    as finished. Training curves are copied, because trainers append to them. Raises StorageError where ``output`` cannot be written.
    """
    for sibling in siblings(LocalFiles(run.runs), run.root.name):
        source = run.runs / sibling.name / output.relative_to(run.root)
        if not all((source / name).exists() for name in (*files, last)):
            continue
        try:
            replace(output / METRICS_FILE, (source / METRICS_FILE).read_bytes())
            link_all((path, output / path.relative_to(source)) for path in _files(source, files))
            link_all([(source / last, output / last)])
        except FileNotFoundError:  # the sibling is being removed
            continue
        return sibling.name
    return ""


def _files(source: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        path = source / name
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (each for each in found if not each.name.startswith((TEMPORARY_PREFIX, ".")))
