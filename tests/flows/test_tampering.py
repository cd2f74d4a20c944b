"""Every stage that reads a changed table names it in its error, and the fix in the error repairs the run."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from invariants import same_end

from avpref.datasets import tables
from avpref.errors import TableError
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.evaluate import evaluate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.score import score
from avpref.identity import file_sha256
from avpref.storage.run_folder import RunFolder

READERS = {
    tables.PROMPTS: (score, "score"),
    tables.CANDIDATES: (score, "result"),
    tables.SCORES: (pair, "pair"),
    tables.NORMS: (evaluate, "evaluate"),
    tables.SKIPPED: (pair, "result"),
}
"""For each table a stage that reads it, and the first stage that the copied run has not done."""


def tamper(folder: RunFolder, table: tables.Table) -> tuple[Path, str]:
    """Change one byte of a table's file and keep its size and time; returns the file and its expected hash."""
    manifest = folder.tables.current(table.name)
    assert manifest is not None
    (path,) = (folder.root / "tables" / name for name in folder.tables.store.names(manifest))
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return path, manifest.files[0].sha256


@pytest.mark.parametrize("table", READERS, ids=lambda table: table.name)
def test_the_stage_that_reads_a_changed_table_names_file_and_hashes(
    tiny_copy: Callable[..., RunFolder], table: tables.Table
) -> None:
    stage, before = READERS[table]
    folder = tiny_copy(before)
    path, expected = tamper(folder, table)
    with pytest.raises(TableError) as caught:
        stage.fn(Run.of(folder))
    assert caught.value.found == f"{path}: sha-256 {file_sha256(path)}"
    assert caught.value.expected == f"sha-256 {expected}"


def test_the_fix_in_the_error_repairs_the_run(tiny_run: RunFolder, tiny_copy: Callable[..., RunFolder]) -> None:
    """Each execution names one changed table; the test only follows the fix in its error."""
    folder = tiny_copy()
    changed = [tables.PROMPTS, tables.CANDIDATES, tables.NORMS, tables.PAIRS]
    for table in changed:
        tamper(folder, table)
    for _ in changed:
        with pytest.raises(TableError) as caught:
            run_loop(folder)
        (version_folder,) = re.findall(r"delete the folder (\S+)", caught.value.fix)
        shutil.rmtree(version_folder)
    run_loop(folder)
    same_end(folder, tiny_run)


def test_a_changed_manifest_is_named(tiny_copy: Callable[..., RunFolder]) -> None:
    folder = tiny_copy()
    manifest = folder.tables.current("pairs")
    assert manifest is not None
    path = folder.root / "tables" / "pairs" / f"{manifest.version}.json"
    document = json.loads(path.read_text())
    document["files"][0]["rows"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=re.escape(str(path))):
        folder.tables.read(tables.PAIRS)


def test_a_verified_file_is_verified_again_after_it_was_changed(tiny_copy: Callable[..., RunFolder]) -> None:
    """Within one process: a rewritten file has another inode or time."""
    folder = tiny_copy()
    folder.tables.read(tables.PAIRS)
    folder.tables.connect().close()
    path, _ = tamper(folder, tables.PAIRS)
    os.utime(path)
    for read in (lambda: folder.tables.read(tables.PAIRS), folder.tables.connect):
        with pytest.raises(TableError):
            read()
