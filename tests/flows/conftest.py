"""Runs that a test may change: copies of the finished one, whole or taken back to an earlier stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invariants import Mark, finished
from nursery import Nursery, open_nursery

from avpref.datasets.tables import CANDIDATES
from avpref.flows.run_folder import RunFolder, open_root

MADE_BY = {
    "generate": ["units/generate", "clips", "tables/candidates", "quarantine-generate.json"],
    "score": ["units/score", "tables/scores", "quarantine-score.json"],
    "pair": [f"tables/{table}" for table in ("norms", "rewards", "skipped", "excluded", "pairs")],
    "audit": ["units/audit", "tables/clip_facts", "tables/audits"],
    "train": ["units/encode", "models/dpo-*"],
    "evaluate": ["units/evaluate", "units/evaluate_score", "tables/evaluations", "tables/gate_decisions", "decisions"],
    "result": ["result.json", "evaluation.json", "report.html", "plots", "promoted", "tables/quarantine"],
}
"""What each stage leaves in the run folder, in the order of the stages."""


@pytest.fixture
def finished_marks() -> Callable[[Path], dict[str, Mark]]:
    """Marks of everything that counts as done wherever it exists."""
    return finished


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A process that forks loops and kills them."""
    with open_nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found


@pytest.fixture
def tiny_copy(tiny_run: RunFolder, tmp_path: Path) -> Callable[..., RunFolder]:
    """``tiny_copy()`` is a copy of the finished run; ``tiny_copy("score")`` one that has not got to stage ``score``."""

    def make(before: str = "", name: str = "copy") -> RunFolder:
        root = tmp_path / name / tiny_run.run_id
        shutil.copytree(tiny_run.root, root)
        stages = list(MADE_BY)
        for stage in stages[stages.index(before) :] if before else []:
            for pattern in MADE_BY[stage]:
                for path in list(root.glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return open_root(root)

    return make


def sealed_bytes(folder: RunFolder, table: str) -> list[bytes]:
    """The files of a table's current version."""
    manifest = folder.tables.current(table)
    assert manifest is not None
    return [folder.tables.files.read(name) for name in folder.tables.names(manifest)]


@pytest.fixture
def sealed() -> Callable[[RunFolder, str], list[bytes]]:
    """The bytes of a sealed table."""
    return sealed_bytes


@pytest.fixture
def timeless() -> Callable[[RunFolder], list[dict[str, object]]]:
    """The sealed candidates without the seconds that they took."""
    return lambda folder: folder.read(CANDIDATES).drop_columns("elapsed_s").to_pylist()
