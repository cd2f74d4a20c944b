"""``avpref scorers list``: every built-in scorer, and those of installed packages, also where one cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from outside_modules import guide_scorer, write_module


def offer(folder: Path, name: str, reference: str) -> None:
    """Install a distribution that offers a scorer, by hand: its metadata alone."""
    metadata = folder / f"{name}_dist-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.2\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[avpref.scorers]\n{name} = {reference}\n", encoding="utf-8")


@pytest.fixture
def offered(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_module(workplace, "wd_sharpness", guide_scorer())
    offer(workplace, "edges", "wd_sharpness:Sharpness")
    offer(workplace, "broken", "wd_absent:Scorer")
    monkeypatch.syspath_prepend(str(workplace))
    return workplace


def test_every_scorer_is_listed_with_its_metrics_and_what_is_missing(call, offered, monkeypatch):
    monkeypatch.setenv("AVPREF_WEIGHTS", str(offered / "no weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(offered / "no cache"))
    rows = {row["name"]: row for row in call("scorers", "list", "--json").document["scorers"]}
    assert {"toy", "signal", "fake", "imagebind", "edges", "broken"} <= rows.keys()
    assert rows["signal"]["reason"] == "" and "avpref weights fetch imagebind" in rows["imagebind"]["reason"]
    assert rows["edges"]["origin"] == "edges-dist 1.2" and rows["edges"]["terms"].startswith("Apache-2.0")
    assert [metric["name"] for metric in rows["edges"]["metrics"]] == ["sharpness"]
    assert "there is no module wd_absent" in rows["broken"]["reason"] and rows["broken"]["metrics"] == []
    assert rows["imagebind"]["metrics"]
    table = call("scorers", "list").out.splitlines()
    assert [line for line in table if line.startswith("edges ") and "sharpness" in line and line.endswith("yes")]


def test_an_entry_point_is_a_name_in_a_configuration(call, offered):
    answer = call(
        "config", "validate", "--config", tiny(), "--set", "scoring.scorers=[fake, {use: edges, settings: {step: 1}}]"
    )
    assert answer.code == 2 and "unknown setting step" in answer.err
    answer = call("config", "validate", "--config", tiny(), "--set", "scoring.scorers=[fake, edgy]")
    assert (
        answer.code == 2
        and "no scorer edgy (did you mean edges?)" in answer.err
        and "avpref scorers list" in answer.err
    )
    assert call("config", "validate", "--config", tiny(), "--set", "scoring.scorers=[fake, edges]").code == 0


def tiny() -> Path:
    return Path(__file__).parents[2] / "configs" / "tiny.yaml"


def test_check_prints_every_rule_and_whether_a_setting_reaches_the_scores(call, workplace):
    write_module(workplace, "wd_checked", guide_scorer())
    answer = call("scorers", "check", "wd_checked:Sharpness", "--change", "step_px=3", "--json")
    assert answer.code == 0
    (document,) = answer.document["scorers"]
    checks = {row["check"]: row["is_passed"] for row in document["checks"]}
    assert all(checks.values()) and len(checks) == 10 and checks["step_px=3 changes the scores"]
    answer = call(
        "scorers", "check", "{use: 'wd_checked:Sharpness', settings: {num_frames: 3}}", "--change", "num_frames=3"
    )
    assert answer.code == 1 and "every score is the same" in answer.out and "FAILED" in answer.out


def test_check_reads_clips_of_a_folder(call, workplace):
    from outside_modules import FAULTY

    from avpref.media.writing import encode_clip
    from avpref.rewards.outside.sample_clips import sample_clips

    write_module(workplace, "wd_faulty", FAULTY)
    for index, sample in enumerate(sample_clips()):
        frames, audio = sample.clip.frames, sample.clip.audio
        assert frames is not None and audio is not None
        (workplace / f"a_dog_{index}.mp4").write_bytes(encode_clip(frames, 12.0, audio, 16000))
    answer = call("scorers", "check", "wd_faulty:Faulty", "--clips", workplace)
    assert answer.code == 0 and "of 3 clips" in answer.out
    answer = call("scorers", "check", "{use: 'wd_faulty:Faulty', settings: {fault: nan}}", "--clips", workplace)
    assert answer.code == 1 and "volume = nan, expected a finite number" in answer.out
    (workplace / "empty").mkdir()
    assert call("scorers", "check", "wd_faulty:Faulty", "--clips", workplace / "empty").code == 4


def test_config_show_prints_all_settings_of_a_scorer_class(call, workplace):
    write_module(workplace, "wd_sharpness", guide_scorer())
    entry = "scoring.scorers=[toy, {use: 'wd_sharpness:Sharpness', settings: {step_px: 3}}]"
    configured = call("config", "show", "--config", tiny(), "--set", entry, "--json").document["values"]
    named = call("config", "show", "--config", tiny(), "--set", entry.replace(", settings: {step_px: 3}", ""), "--json")
    own = "scoring.scorers.sharpness.settings.step_px"
    rows = [{row["key"]: row for row in values}[own] for values in (configured, named.document["values"])]
    assert (rows[0]["value"], rows[0]["origin"]) == (3, "file")
    assert rows[1]["value"] != 3 and rows[1]["origin"] == "default of the class"
