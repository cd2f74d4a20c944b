"""A run whose files are in a bucket: pages, clips by range, drawings and votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from shown_runs import ShownRun, make_shown_run
from starlette.testclient import TestClient

from avpref.config.storage_settings import ObjectStorage
from avpref.datasets import tables
from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.studies import StudyOptions
from avpref.registry.study_files import StudyFiles
from avpref.registry.study_planning import Model, plan_models
from avpref.storage.run_folder import RunFolder


@pytest.fixture
def folder(bucket: ObjectStorage, tmp_path: Path) -> RunFolder:
    overrides = (f"storage={bucket.model_dump_json()}", "pairs.strategy=average")
    return make_shown_run(tmp_path, ShownRun(train=2, held_out=1, overrides=overrides))


def test_a_run_in_a_bucket_is_shown_and_voted_on(folder: RunFolder, client_of: Callable[[Path], TestClient]) -> None:
    assert not (folder.root / "tables").exists(), "the tables are in the bucket alone"
    client, base = client_of(folder.runs), f"/run/{folder.run_id}"
    assert "margin_total" in client.get(f"{base}/table/pairs").text
    pair = folder.tables.read(tables.PAIRS).to_pylist()[0]
    assert client.get(f"{base}/pair/{pair['pair_id']}").status_code == 200
    clip = f"{base}/clip/{pair['chosen']}"
    path = next(
        row["path"]
        for row in folder.tables.read(tables.CANDIDATES).to_pylist()
        if row["candidate_id"] == pair["chosen"]
    )
    whole = folder.files.read(path)
    part = client.get(f"{clip}/media", headers={"range": "bytes=5-20"})
    assert (part.status_code, part.content) == (206, whole[5:21])
    assert part.headers["content-range"] == f"bytes 5-20/{len(whole)}"
    for name in ("thumbnail", "spectrogram", "picture", "sound", "curves"):
        assert client.get(f"{clip}/{name}").status_code == 200
    sides = [Model(folder, side) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)]
    study = plan_models(sides[0], sides[1], StudyOptions(1, 1, 0), None)
    StudyFiles(folder.files).plan(study)
    address = f"/vote/{folder.run_id}/{study.study_id}"
    client.post(address, content="name=Ada")
    body = {
        "revision": 0,
        "answers": dict.fromkeys(study.options.aspects, "tie"),
        "seconds": 1.0,
        "heard_s": [1.0, 1.0],
    }
    assert client.post(f"{address}/0/0", json=body).status_code == 200
    assert len(StudyFiles(folder.files).votes(study.study_id)) == 1


def test_an_empty_bucket_says_what_is_missing(folder: RunFolder, client_of: Callable[[Path], TestClient]) -> None:
    """The run's folder names a part of the bucket that holds nothing."""
    config = folder.root / "config.yaml"
    config.write_text(config.read_text().replace("team/runs", "other/runs"))
    answer = client_of(folder.runs).get(f"/run/{folder.run_id}")
    assert answer.status_code == 200 and "not made yet" in answer.text and "not finished" in answer.text
