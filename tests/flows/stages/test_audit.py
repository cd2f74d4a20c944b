"""The shortcut audit in a run: facts are measured once and sealed, flagged facts are printed, and a refused audit prevents training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avpref.config.loading import identity_hash, load_config
from avpref.config.pairs_settings import AuditSettings
from avpref.datasets import tables
from avpref.datasets.evidence.clip_facts import ClipFacts
from avpref.domain import Split
from avpref.errors import AuditRefused, ConfigError
from avpref.flows import retrain
from avpref.flows.run import Run
from avpref.flows.stages import audit as audit_module
from avpref.flows.stages.audit import audit
from avpref.flows.stages.audit_tables import read_audit
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import read_prompts

Copy = Callable[..., RunFolder]


def with_audit(folder: RunFolder, **audit_settings: object) -> RunFolder:
    """The folder with other audit settings, as a command with ``--set audit.…`` would leave it."""
    changed = RunFolder(
        folder.root, folder.settings.model_copy(update={"audit": AuditSettings.model_validate(audit_settings)})
    )
    with changed.locked():
        return changed


def louder_where_chosen(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch the measurement so that chosen clips are 30 dB louder than they are."""
    chosen, real = set(folder.tables.read(tables.PAIRS)["chosen"].to_pylist()), audit_module.measure

    def measure(candidate_id: str, *arguments: Any) -> ClipFacts:
        facts = real(candidate_id, *arguments)
        louder = 30.0 * (candidate_id in chosen)
        assert facts.loudness_db is not None
        return replace(facts, loudness_db=facts.loudness_db + louder)

    monkeypatch.setattr(audit_module, "measure", measure)


def test_every_training_candidate_has_facts_and_every_fact_a_row(tiny_run: RunFolder) -> None:
    train = {prompt.prompt_id for prompt in read_prompts(tiny_run.tables) if prompt.split == Split.TRAIN}
    candidates = [row for row in tiny_run.tables.read(tables.CANDIDATES).to_pylist() if row["prompt_id"] in train]
    facts = tiny_run.tables.read(tables.CLIP_FACTS).to_pylist()
    assert [row["candidate_id"] for row in facts] == [row["candidate_id"] for row in candidates]
    for row, candidate in zip(facts, candidates, strict=True):
        size = (tiny_run.root / candidate["path"]).stat().st_size
        assert row["bit_rate_bps"] == pytest.approx(8 * size / row["duration_s"])
        assert row["loudness_db"] <= row["peak_db"] and row["reason"] == ""
    rows = read_audit(tiny_run)
    assert {row.strategy for row in rows} == set(tiny_run.tables.read(tables.PAIRS)["strategy"].to_pylist())
    document = json.loads((tiny_run.root / "result.json").read_text())
    assert document["audit"]["action"] == "flag"
    assert [row["fact"] for row in document["audit"]["flagged"]] == [row.fact for row in rows if row.is_flagged]
    assert "Shortcuts: share of pairs in which the chosen clip" in (tiny_run.root / "report.html").read_text()


def test_a_second_audit_measures_nothing_and_seals_nothing(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_copy()
    before = [folder.tables.current(table) for table in ("clip_facts", "audits")]
    monkeypatch.setattr(audit_module, "measure", None)
    assert audit.fn(Run.of(folder)).rows == len(read_audit(folder))
    assert [folder.tables.current(table) for table in ("clip_facts", "audits")] == before


def test_a_shortcut_is_flagged_and_the_run_goes_on(
    tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_copy("audit")
    louder_where_chosen(folder, monkeypatch)
    document = retrain.run_loop(folder).document()
    assert "loudness_db" in [row["fact"] for row in document["audit"]["flagged"]]
    assert document["audit"]["flagged"][0]["value"] > 0.8
    assert "audit: loudness_db tells pairs apart: AUROC" in capsys.readouterr().err
    assert "✕ loudness db" in (folder.root / "report.html").read_text()


def test_a_refused_audit_stops_the_run_before_training_until_the_action_is_changed(
    tiny_copy: Copy, tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch, sealed: Callable[..., list[bytes]]
) -> None:
    folder = with_audit(tiny_copy("audit"), action="refuse")
    louder_where_chosen(folder, monkeypatch)
    for _ in range(2):  # a second execution finds it in the sealed table
        with pytest.raises(AuditRefused) as caught:
            retrain.run_loop(folder)
        assert "loudness_db tells pairs apart: AUROC" in caught.value.found and "interval" in caught.value.found
        assert "audit.max_auroc" in caught.value.expected and "--set audit.action=flag" in caught.value.fix
        assert caught.value.exit_code == 3
        assert not list(folder.root.glob("models/dpo-*"))
    allowed = with_audit(folder, action="flag")
    assert allowed.run_id == folder.run_id
    retrain.run_loop(allowed)
    assert sealed(allowed, "evaluations") == sealed(tiny_run, "evaluations")


def test_a_bound_that_allows_everything_refuses_nothing(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_audit(tiny_copy("audit"), action="refuse", max_auroc=1.0)
    louder_where_chosen(folder, monkeypatch)
    assert audit.fn(Run.of(folder)).rows > 0


def test_off_measures_nothing(tiny_copy: Copy) -> None:
    folder = with_audit(tiny_copy("audit"), action="off")
    assert audit.fn(Run.of(folder)).rows == 0
    assert not folder.tables.has(tables.CLIP_FACTS) and not folder.tables.has(tables.AUDITS)


def test_yaml_false_means_off_and_unknown_actions_are_refused() -> None:
    path = "configs/tiny.yaml"
    settings = load_config(path, ["audit.action=off"], {}).settings
    assert settings.audit.action == "off"
    assert identity_hash(settings) == identity_hash(load_config(path, [], {}).settings)
    for wrong in ("audit.action=no_idea", "audit.max_auroc=0.3", "audit.action=on"):
        with pytest.raises(ConfigError):
            load_config(path, [wrong], {})


def test_a_changed_or_missing_clip_has_a_reason_instead_of_facts(tiny_copy: Copy) -> None:
    folder = tiny_copy("audit")
    victims = folder.tables.read(tables.CANDIDATES).slice(0, 2).to_pylist()
    (folder.root / victims[0]["path"]).write_bytes(b"torn")
    (folder.root / victims[1]["path"]).unlink()
    audit.fn(Run.of(folder))
    facts = {row["candidate_id"]: row for row in folder.tables.read(tables.CLIP_FACTS).to_pylist()}
    for victim in victims:
        row = facts[victim["candidate_id"]]
        assert victim["path"] in row["reason"] and row["loudness_db"] is None and row["bit_rate_bps"] is None
    assert sum(row["reason"] != "" for row in facts.values()) == 2
    loudness = np.array([row["loudness_db"] for row in facts.values() if row["loudness_db"] is not None])
    assert len(loudness) == len(facts) - 2
