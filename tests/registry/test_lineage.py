"""Lineage over a folder of runs: every answer is compared with what the tables say when they are read whole."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from present import present

from avpref.datasets import tables
from avpref.domain import METRICS
from avpref.errors import InputError, TableError
from avpref.identity import digest
from avpref.registry import aliases, lineage
from avpref.registry.aliases import Action, AliasMove
from avpref.registry.catalog import RunCatalog, open_catalog
from avpref.registry.lineage import Kind, Role
from avpref.registry.lineage_view import document
from avpref.storage.local_files import commit_once
from avpref.storage.run_folder import RunFolder, open_root

OTHER = "tiny-s0-0ther"


def record_of(folder: RunFolder) -> dict[str, Any]:
    (path,) = (folder.root / "adapters").glob("*.json")
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def runs(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, and beside it one over the same clips whose pairs are others, promoted and serving."""
    folder = tmp_path_factory.mktemp("lineage") / "runs"
    shutil.copytree(tiny_run.root, folder / tiny_run.run_id)
    shutil.copytree(tiny_run.root, folder / OTHER)
    other = open_root(folder / OTHER)
    pairs = other.tables.read(tables.PAIRS)
    half = pairs.slice(0, pairs.num_rows // 2)
    names = half.column_names
    turned = {name: half[_other_side(name)] for name in names}
    ids = [
        "x" + digest("pair", *sides)
        for sides in zip(turned["chosen"].to_pylist(), turned["rejected"].to_pylist(), strict=True)
    ]
    manifest = other.tables.seal(
        tables.PAIRS, "turned", tables.conform(tables.PAIRS, pa.table(turned | {"pair_id": ids}))
    )
    old = record_of(other)
    shutil.rmtree(other.root / "adapters")
    versions = dict(old["tables"]) | {"pairs": manifest.version}
    new = old | {"run_id": OTHER, "policy_hash": digest("another", size=64), "tables": versions}
    commit_once(other.root / "adapters" / "0123456789abcdef-1.json", json.dumps(new).encode())
    decision = {
        "decision_id": "g1",
        "verdict": "promote",
        "lineage": new,
        "inputs": {"policy_hash": new["policy_hash"]},
    }
    commit_once(folder / "registry" / "adapters" / "a00112233445566aa.json", json.dumps(decision).encode())
    last = None
    for adapter in ("agone", "a00112233445566aa"):
        move = AliasMove("serving", 0, Action.PROMOTE, adapter, OTHER, "g1", by="ada", reason="", at=aliases.now())
        last = aliases.append(folder, last, move)
    return folder


def _other_side(name: str) -> str:
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if name.startswith(one):
            return other + name.removeprefix(one)
    return name


@pytest.fixture
def catalog(runs: Path) -> RunCatalog:
    return open_catalog(runs)


def roles(folder: RunFolder) -> dict[str, Role]:
    """What each candidate is to the adapter of its run, from the whole tables."""
    found = dict.fromkeys(folder.tables.read(tables.CANDIDATES)["candidate_id"].to_pylist(), Role.CANDIDATE)
    pairs = folder.tables.read(tables.PAIRS)
    found |= dict.fromkeys(pairs["rejected"].to_pylist(), Role.REJECTED)
    return found | dict.fromkeys(pairs["chosen"].to_pylist(), Role.CHOSEN)


def test_every_clip_touched_what_the_tables_say(catalog: RunCatalog, runs: Path) -> None:
    expected = {path.parent.name: roles(open_root(path.parent)) for path in runs.glob("*/run.json")}
    for candidate in next(iter(expected.values())):
        touches = lineage.touched(catalog, [candidate])
        assert {touch.record.run_id: touch.role for touch in touches} == {
            run: of[candidate] for run, of in expected.items()
        }
        assert all(bool(touch.pairs) == (touch.role is not Role.CANDIDATE) for touch in touches)


def test_an_adapter_leads_down_to_both_clips_of_each_pair(runs: Path, catalog: RunCatalog) -> None:
    folder = open_root(runs / OTHER)
    pairs, clips = folder.tables.read(tables.PAIRS).to_pylist(), folder.tables.read(tables.CANDIDATES).to_pylist()
    of = {row["candidate_id"]: row for row in clips}
    texts = {row["prompt_id"]: row["text"] for row in folder.tables.read(tables.PROMPTS).to_pylist()}
    found = document(catalog, OTHER, None)
    assert found["kind"] == "adapter" and found["run_id"] == OTHER
    assert [each["pair_id"] for each in found["pairs"]] == [row["pair_id"] for row in pairs]
    for each, row in zip(found["pairs"], pairs, strict=True):
        assert each["prompt"] == texts[row["prompt_id"]]
        for side in ("chosen", "rejected"):
            clip = of[row[side]]
            assert {name: each[side][name] for name in ("seed", "sha256", "path", "checkpoint_hash")} == {
                name: clip[name] for name in ("seed", "sha256", "path", "checkpoint_hash")
            }
            assert each[side]["scores"] == {metric.name: row[f"{side}_{metric.name}"] for metric in METRICS}
    for name, table in found["tables"].items():
        assert table["version"] == present(folder.tables.current(name)).version
    assert found["norm"]["norm_id"] == folder.tables.read(tables.NORMS)["norm_id"][0].as_py()
    assert found["counts"]["pairs"] == len(pairs) and found["counts"]["all_candidates"] == len(clips)
    assert found["counts"]["clips"] == len({row[side] for row in pairs for side in ("chosen", "rejected")})
    assert found["product_version"] and found["settings_hash"] and found["seed"] == folder.settings.run.seed


def test_a_limit_shortens_the_lists_and_not_the_counts(catalog: RunCatalog) -> None:
    short, whole = document(catalog, OTHER, 2), document(catalog, OTHER, None)
    assert len(short["pairs"]) == 2 < len(whole["pairs"]) and short["counts"] == whole["counts"]


def test_run_record_alias_and_hash_all_name_the_adapter(catalog: RunCatalog, runs: Path) -> None:
    policy = digest("another", size=64)
    for name in (
        OTHER,
        OTHER[:-1],
        policy,
        policy[:9],
        "serving",
        "a00112233445566aa",
        "a0011223344",
        "0123456789abcdef-1",
    ):
        found = document(catalog, name, 1)
        assert (found["kind"], found["id"], found["run_id"]) == ("adapter", policy, OTHER), name
        assert found["serves_as"] == ["serving"] and found["is_promoted"]


def test_every_sort_of_id_is_known_by_its_beginning(catalog: RunCatalog, runs: Path, tiny_run: RunFolder) -> None:
    draw = random.Random(5)
    pair = draw.choice(tiny_run.tables.read(tables.PAIRS).to_pylist())
    clip = next(
        row for row in tiny_run.tables.read(tables.CANDIDATES).to_pylist() if row["candidate_id"] == pair["rejected"]
    )
    decision = tiny_run.tables.read(tables.GATE_DECISIONS)["gate_id"][0].as_py()
    expected = {
        pair["pair_id"]: Kind.PAIR,
        pair["prompt_id"]: Kind.PROMPT,
        pair["norm_id"]: Kind.NORM,
        clip["candidate_id"]: Kind.CANDIDATE,
        clip["sha256"]: Kind.CLIP,
        decision: Kind.DECISION,
        tiny_run.tables.read(tables.CANDIDATES)["checkpoint_hash"].to_pylist()[1]: Kind.CHECKPOINT,
    }
    for name, kind in expected.items():
        for given in (name, name[:14]):
            found = document(catalog, given, 1)
            assert (found["kind"], found["id"]) == (str(kind), name)
            assert {each["run_id"] for each in found["adapters"]} <= {tiny_run.run_id, OTHER} and found["adapters"]
    assert document(catalog, clip["sha256"], 1)["clips"][0]["candidate_id"] == clip["candidate_id"]


def test_a_clip_of_the_policy_is_known_from_the_evaluation(catalog: RunCatalog, tiny_run: RunFolder) -> None:
    rows = tiny_run.tables.read(tables.EVALUATIONS).to_pylist()
    policy = next(row for row in rows if row["side"] == "policy")
    found = document(catalog, policy["candidate_id"], 1)
    assert found["kind"] == "candidate" and not found["adapters"]
    assert {each["side"] for each in found["evaluations"]} == {"policy"}
    assert [each["prompt_id"] for each in found["prompts"]] == [policy["prompt_id"]]


@pytest.mark.parametrize(
    ("given", "message"), [("c" * 16, "nothing in"), ("zz-nothing", "nothing in"), ("p", "nothing in")]
)
def test_what_is_not_there_is_refused(catalog: RunCatalog, given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        document(catalog, given, 1)


def test_a_beginning_that_may_mean_two_things_is_refused(catalog: RunCatalog) -> None:
    with pytest.raises(InputError, match="may mean 2 things"):
        document(catalog, "tiny-s0-", 1)


def test_the_index_is_made_once_and_another_version_has_another(runs: Path, tiny_run: RunFolder) -> None:
    root = runs / tiny_run.run_id
    candidate = tiny_run.tables.read(tables.CANDIDATES)["candidate_id"][0].as_py()
    shutil.rmtree(root / "index", ignore_errors=True)
    assert document(open_catalog(runs), candidate, 1)["id"] == candidate
    (path,) = (root / "index").iterdir()
    assert path.stem == f"{present(tiny_run.tables.current('candidates')).version}-0000"
    before = path.stat().st_mtime_ns
    assert document(open_catalog(runs), candidate, 1)["id"] == candidate
    assert path.stat().st_mtime_ns == before


def test_a_broken_record_is_named(tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(
        tiny_run.root, tmp_path / "runs" / tiny_run.run_id, ignore=shutil.ignore_patterns("clips", "models")
    )
    path = tmp_path / "runs" / tiny_run.run_id / "adapters" / "torn.json"
    path.write_text('{"run_id": "x"')
    with pytest.raises(InputError, match=r"torn\.json"):
        open_catalog(tmp_path / "runs")


def test_a_chain_of_moves_that_was_edited_is_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "registry", tmp_path / "registry")
    assert open_catalog(tmp_path).moves[-1].adapter == "a00112233445566aa"
    path = tmp_path / "registry" / "aliases" / "serving" / "000001.json"
    path.write_text(path.read_text().replace("agone", "aback"))
    with pytest.raises(TableError, match=r"000002\.json: it does not follow"):
        open_catalog(tmp_path)


def test_a_version_that_is_gone_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(
        tiny_run.root, tmp_path / "runs" / tiny_run.run_id, ignore=shutil.ignore_patterns("clips", "models")
    )
    folder = open_root(tmp_path / "runs" / tiny_run.run_id)
    record = record_of(folder)
    gone = record | {"policy_hash": "f" * 64, "tables": dict(record["tables"]) | {"pairs": "0" * 16}}
    commit_once(folder.root / "adapters" / "gone.json", json.dumps(gone).encode())
    found = document(open_catalog(tmp_path / "runs"), "f" * 64, 1)
    assert found["missing"] == [f"{folder.run_id}: pairs {'0' * 16}"] and not found["pairs"]
