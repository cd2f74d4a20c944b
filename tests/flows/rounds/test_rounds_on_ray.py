"""Two rounds on Ray actors end with the tables, clips and adapters of two rounds in one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from invariants import same_results

from avpref.flows.retrain import retrain
from avpref.storage.run_folder import RunFolder, open_root

TINY = str(Path(__file__).parents[3] / "configs" / "tiny.yaml")
CHANGES = [
    "evaluation.gate.rules=[{kind: displacement, maximum: 1000}]",
    "rounds.count=2",
    "rounds.sft_share=0.4",
    "rounds.earlier_share=0.6",
    "rounds.allocation=informative",
]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("reference", ["sft", "previous"])
def test_two_rounds_on_actors_end_like_two_rounds_in_one_process(
    tiny_run: RunFolder, tmp_path: Path, reference: str
) -> None:
    changes = [*CHANGES, f"rounds.reference={reference}"]
    alone, actors = tmp_path / "alone", tmp_path / "actors"
    shutil.copytree(tiny_run.root, alone / tiny_run.run_id)
    expected = retrain.fn(TINY, str(alone), None, changes)
    document = retrain.fn(TINY, str(actors), None, [*changes, "executor.kind=ray", "executor.num_actors=2"])
    assert len(document["rounds"]) == 2 and document["rounds"] == expected["rounds"]
    for row in document["rounds"]:
        on_actors, in_process = (open_root(runs / row["run_id"]) for runs in (actors, alone))
        assert on_actors.settings.executor.kind == "ray" and in_process.settings.executor.kind == "in_process"
        same_results(on_actors, in_process, has_same_times=False)
