"""A norm that one run measured is reused by another, named by its id."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from avpref.errors import InputError
from avpref.flows.stages.pair import saved_norm
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import read_norm


def test_a_norm_is_found_in_the_run_that_measured_it(tiny_run: RunFolder, tmp_path: Path) -> None:
    measured = read_norm(tiny_run.tables)
    shutil.copytree(tiny_run.root, tmp_path / "runs" / "first")
    second = RunFolder(tmp_path / "runs" / "second", tiny_run.settings)
    assert saved_norm(second, measured.norm_id) == measured


def test_a_norm_that_no_run_has_is_an_error(tiny_run: RunFolder) -> None:
    with pytest.raises(InputError, match=r"no run in .* has a norm nope"):
        saved_norm(tiny_run, "nope")
