"""avpref lineage show, runs reproduce and runs gc as users call them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avpref.datasets import tables
from avpref.storage.run_folder import RunFolder

LONG_AGO_S = 100 * 86400


def test_lineage_goes_down_and_up(call, runs: Path, tiny_run: RunFolder) -> None:
    down = call("lineage", "show", tiny_run.run_id, "--runs", runs, "--pairs", 2, "--json")
    assert down.code == 0 and down.document["kind"] == "adapter" and len(down.document["pairs"]) == 2
    chosen = down.document["pairs"][0]["chosen"]
    up = call("lineage", "show", chosen["sha256"], "--runs", runs, "--json").document
    assert [(each["policy_hash"], each["role"]) for each in up["adapters"]] == [(down.document["id"], "chosen")]
    everything = call("lineage", "show", tiny_run.run_id, "--runs", runs, "--all", "--json").document
    assert len(everything["pairs"]) == tiny_run.tables.num_rows(tables.PAIRS)


def test_lineage_is_a_tree_for_people(call, runs: Path, tiny_run: RunFolder) -> None:
    answer = call("lineage", "show", tiny_run.run_id, "--runs", runs)
    assert answer.out.startswith("adapter ") and "├─ checkpoint_sha256: " in answer.out and "└─ " in answer.out


def test_lineage_of_nothing(call, runs: Path) -> None:
    answer = call("lineage", "show", "feedfacefeedface", "--runs", runs)
    assert answer.code == 4 and "feedfacefeedface" in answer.err and "fix: " in answer.err


def test_lineage_loads_neither_torch_nor_prefect_nor_pandas(runs: Path, tiny_run: RunFolder) -> None:
    code = (
        "import sys\nfrom avpref.cli.main import app\n"
        f"app(['lineage', 'show', {tiny_run.run_id!r}, '--runs', {str(runs)!r}, '--json'], exit_on_error=False)\n"
        "print([name for name in ('torch', 'prefect', 'ray', 'pandas', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"


def test_reproduce_says_whether_and_what(call, own_runs: Path, own_run: RunFolder) -> None:
    whole = call("runs", "reproduce", "--runs", own_runs, "--num", 3, "--json")
    assert whole.code == 0 and whole.document["is_same"] and whole.document["clips"] >= 3
    path = own_run.root / own_run.tables.read(tables.CANDIDATES)["path"][0].as_py()
    path.write_bytes(path.read_bytes()[:-1])
    broken = call("runs", "reproduce", "--runs", own_runs, "--share", 1.0)
    assert broken.code == 1 and "not reproduced" in broken.out and path.stem.split("-")[0] in broken.out


def test_gc_says_what_would_go_and_then_removes_it(call, own_runs: Path, own_run: RunFolder) -> None:
    orphan = own_run.root / "clips" / "cab" / "cabcab-00000000.mp4"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"orphan")
    os.utime(orphan, (time.time() - LONG_AGO_S,) * 2)
    dry = call("runs", "gc", "--runs", own_runs, "--dry-run", "--all", "--json")
    assert dry.code == 0 and orphan.exists() and dry.document["list"] is None
    assert [each["path"] for each in dry.document["entries"]] == [f"{own_run.run_id}/clips/cab/cabcab-00000000.mp4"]
    done = call("runs", "gc", "--runs", own_runs)
    assert done.code == 0 and not orphan.exists() and "orphan media" in done.out and "gc/" in done.out


def test_gc_takes_bounds_from_the_environment_and_flags_win(
    call, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVPREF_RETENTION__KEEP_DAYS", "90")
    asked = call("runs", "gc", "--runs", own_runs, "--dry-run", "--grace-hours", 1, "--json").document["retention"]
    assert (asked["keep_days"], asked["grace_hours"]) == (90.0, 1.0)
    assert call("runs", "gc", "--runs", own_runs, "--keep-days", -1).code == 2


def test_gc_refuses_while_a_run_is_in_use(call, own_runs: Path, own_run: RunFolder) -> None:
    with own_run.locked():
        refused = call("runs", "gc", "--runs", own_runs)
        assert refused.code == 1 and "in use" in refused.err
        passed = call("runs", "gc", "--runs", own_runs, "--leave-busy", "--json")
        assert passed.code == 0 and list(passed.document["passed_by"]) == [own_run.run_id]


def test_gc_of_no_folder(call, tmp_path: Path) -> None:
    assert call("runs", "gc", "--runs", tmp_path / "nowhere").code == 4
