"""Commands on a run that was made before metrics were open."""

from __future__ import annotations

import json

import pytest

from avpref.datasets import tables
from avpref.datasets.metric_tables import METRICS_KEY
from avpref.identity import bytes_sha256, digest
from avpref.registry.catalog import open_catalog
from avpref.storage.table_readers import pairs_hash


@pytest.fixture
def former_run(own_run):
    """The finished tiny run with tables of pairs and rewards as the release before wrote them, and its configuration."""
    for table in (tables.PAIRS, tables.REWARDS):
        rows = own_run.tables.read(table)
        kept = rows.drop_columns("dimension") if "dimension" in rows.column_names else rows
        metadata = {key: value for key, value in rows.schema.metadata.items() if key != METRICS_KEY.encode()}
        manifest = own_run.tables.current(table.name)
        former = tables.to_bytes(kept.replace_schema_metadata(metadata))
        own_run.tables.store.seal(table.name, manifest.fingerprint, [(former, rows.num_rows)])
        (name,) = own_run.tables.store.names(own_run.tables.current(table.name))
        assert bytes_sha256(own_run.tables.store.files.read(name)) == bytes_sha256(former)
    config = own_run.root / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if line.strip() not in ("weights: {}", "modalities: {}")))
    return own_run


@pytest.mark.parametrize(
    "command",
    [
        ("pairs", "show"),
        ("pairs", "select"),
        ("pairs", "leaderboard"),
        ("pairs", "audit"),
        ("runs", "show"),
        ("scores", "list"),
    ],
)
def test_it_opens_and_answers_as_a_present_run(call, former_run, runs, command):
    present = call(*command, "--runs", runs, "--json")
    former = call(*command, "--runs", former_run.root.parent, "--json")
    assert former.code == present.code == 0, former.err
    if command != ("runs", "show"):
        assert json.loads(former.out) == json.loads(present.out)


def test_its_pairs_do_not_differ_from_those_of_a_present_run(call, former_run):
    answer = call("pairs", "diff", former_run.run_id, former_run.run_id, "--runs", former_run.root.parent, "--json")
    assert answer.document["differences"] == []


def test_its_lineage_is_shown(call, former_run):
    pair = former_run.tables.read(tables.PAIRS)["pair_id"][0].as_py()
    answer = call("lineage", "show", pair, "--runs", former_run.root.parent, "--json")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("step", [1, -1], ids=["oldest first", "newest first"])
def test_rows_of_tables_with_other_columns_are_read_together(former_run, step):
    """The versions of the pair table differ in ``dimension``; the files that are read first do not decide which columns there are."""
    pair = former_run.tables.read(tables.PAIRS)["pair_id"][0].as_py()
    catalog = open_catalog(former_run.root.parent)
    rows = catalog.rows(list(catalog.versions("pairs"))[::step], "pair_id", [pair])
    assert sorted(str(row["dimension"]) for _, row in rows) == ["None", "all"]


def test_the_hash_of_its_pairs_is_what_it_was(former_run):
    pairs = former_run.tables.read(tables.PAIRS)
    without = pairs.drop_columns(["norm_id", "dimension"])
    assert pairs_hash(former_run.tables) == digest("pairs", without.to_pylist(), size=32)
