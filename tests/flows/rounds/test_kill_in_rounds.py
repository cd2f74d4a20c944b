"""kill -9 in a later round: the round continues and ends as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fork_server import ForkServer
from invariants import same_results
from kill_campaign import KillCampaign

from avpref.config.loading import load_config
from avpref.flows.retrain import run_loop
from avpref.flows.rounds.round_sequence import next_round
from avpref.storage.failpoints import FailPoint
from avpref.storage.run_folder import RunFolder, create

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
CHANGES = [
    "evaluation.gate.rules=[{kind: displacement, maximum: 1000}]",
    "rounds.count=2",
    "rounds.sft_share=0.4",
    "rounds.earlier_share=0.6",
    "rounds.allocation=informative",
]


def second_round(runs: Path, tiny_run: RunFolder) -> RunFolder:
    """The folder of a second round that has not begun; the first is finished, with the work of the tiny run."""
    shutil.copytree(tiny_run.root, runs / tiny_run.run_id)
    settings = load_config(TINY, CHANGES, environment={}).settings
    first = create(runs, settings)
    run_loop(first)
    return create(runs, next_round(settings, first.run_id))


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["sft", "previous"])
def test_a_round_that_is_killed_at_every_fail_point_ends_like_one_that_was_not(
    tiny_run: RunFolder, tmp_path: Path, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.setitem(globals(), "CHANGES", [*CHANGES, f"rounds.reference={reference}"])
    unharmed, killed = (second_round(tmp_path / name, tiny_run) for name in ("unharmed", "killed"))
    run_loop(unharmed)
    campaign = KillCampaign(fork_server, killed)
    campaign.at_failpoints({point: [1] for point in FailPoint})
    assert campaign.kills.total() >= 15
    same_results(campaign.folder, unharmed, has_same_times=False)
