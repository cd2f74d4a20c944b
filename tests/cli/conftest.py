"""Commands called in the test's process, and folders of runs for them to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avpref.cli.main import main


@dataclass(frozen=True)
class Answer:
    """What a command exited with and printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """``call("runs", "list")`` runs the command line in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int), f"the command line ended with a text instead of a number: {code}"
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def runs(tiny_run) -> Path:
    """The folder that holds the finished tiny run; to be read only."""
    return tiny_run.root.parent


@pytest.fixture
def own_runs(tiny_run, tmp_path: Path) -> Path:
    """A folder with a copy of the finished tiny run, to be changed."""
    shutil.copytree(tiny_run.root, tmp_path / "runs" / tiny_run.run_id)
    return tmp_path / "runs"


@pytest.fixture
def own_run(own_runs: Path):
    """The copied run."""
    from avpref.storage.run_folder import open_run

    return open_run(own_runs)
