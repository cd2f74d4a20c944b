"""The notebook runs on a tiny run, shows the content of its tables, and does not change the folder."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from avpref.datasets import tables
from avpref.identity import file_sha256
from avpref.storage.run_folder import RunFolder

marimo = pytest.importorskip("marimo", reason="needs the extra: pip install 'avpref[notebooks]'")

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "inspect_pairs.py"


def run_notebook() -> Mapping[str, Any]:
    spec = importlib.util.spec_from_file_location("inspect_pairs_notebook", NOTEBOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app.run()[1]


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    return {str(path): (file_sha256(path), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def variables(tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    monkeypatch.setenv("AVPREF_RUN", str(tiny_run.root))
    return run_notebook()


def test_marimo_check_passes() -> None:
    command = [sys.executable, "-m", "marimo", "check", "--strict", str(NOTEBOOK)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_shows_the_run_and_changes_nothing(tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(tiny_run.root)
    monkeypatch.setenv("AVPREF_RUN", str(tiny_run.root))
    variables = run_notebook()
    assert variables["picked"].value == tiny_run.run_id
    assert len(variables["pairs"]) == tiny_run.tables.num_rows(tables.PAIRS)
    assert snapshot(tiny_run.root) == before


def test_the_selected_pair_has_scores_and_two_players(variables: Mapping[str, Any]) -> None:
    first = variables["pairs"].iloc[0]
    assert variables["pair"].pair_id == first.pair_id and first.margin_total == variables["pairs"].margin_total.max()
    assert len(variables["scores"]) == 7
    assert {"chosen", "rejected"} <= set(variables["scores"][0])
    assert variables["players"].text.count("<video") == 2


def test_sql_answers_and_reaches_no_files(variables: Mapping[str, Any], tmp_path: Path) -> None:
    ask = variables["ask"]
    answered = ask("SELECT count(*) AS n FROM pairs")
    assert answered.data["n"].tolist() == [len(variables["pairs"])]
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden words")
    refused = ask(f"SELECT * FROM read_text('{secret}')")
    assert "hidden words" not in refused.text and "disabled" in refused.text
    assert "Error" in ask("SELEC").text


def test_without_a_run_it_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVPREF_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "picked" not in run_notebook()
