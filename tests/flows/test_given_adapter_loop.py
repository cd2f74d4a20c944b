"""The whole loop from a network and an SFT adapter that are files, as the released recipe starts AV-DPO: from configuration to export."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from given_adapters import ALPHA, RANK, TINY, overrides_of, save_base, save_random_adapter
from safetensors.torch import load_file

from avpref.config.loading import load_config
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import find_adapter
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generator import base_of, load_for_sampling
from avpref.models.checkpoints.lora_files import read_lora
from avpref.registry import aliases, promotion
from avpref.storage.run_folder import RunFolder, create
from avpref.trainer.adapter_files import fold_adapter, read_adapter_config
from avpref.trainer.parallel import Context
from avpref.trainer.run_job import run_job

pytestmark = pytest.mark.slow
STARTED = (
    *("sft.audio_steps=0", f"sft.adapter={{rank: {RANK}, alpha: {ALPHA}}}", "sft.optimiser.lr=0.05"),
    f"dpo.adapter={{layout: two_adapters, rank: {RANK}, alpha: {ALPHA}}}",
)
"""SFT trains the adapter, at a rate at which a few steps leave one that matters."""


@dataclass(frozen=True)
class Finished:
    """SFT that trained an adapter of the network ``base``, and a finished run that was given both as files."""

    trained: Run
    folder: RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("files")
    base = save_base(root / "base.safetensors")
    trained = Run.of(create(root / "sft", load_config(TINY, (f"sft.network={base}", *STARTED), {}).settings))
    prompts.fn(trained)
    sft.fn(trained)
    overrides = overrides_of(base, trained.sft_output / "adapter")
    folder = create(root / "runs", load_config(TINY, overrides, {}).settings)
    run_loop(folder)
    return Finished(trained, folder)


def curves(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-6), ("float32", 1e-3)])
def test_the_losses_are_those_of_a_run_whose_sft_trained_the_adapter(
    finished: Finished, tmp_path: Path, dtype: Literal["bfloat16", "float32"], tolerance: float
) -> None:
    """Of files the trainer reads the weights under the adapter; a trained adapter it takes out of the network.

    In bfloat16 both are equal. In float32 they may differ in the last bit, which the steps enlarge.
    """
    given = replace(Run.of(finished.folder).training_job, dtype=dtype, output=tmp_path / "given")
    network, adapter = (finished.trained.sft_output / name for name in ("network.safetensors", "adapter"))
    trained = replace(given, weights=network, sft_adapter=adapter, weights_under=None, output=tmp_path / "trained")
    for job in (given, trained):
        run_job(job, Context())
    own, other = curves(given.output), curves(trained.output)
    assert len(own) == len(other) > 1
    assert own[0]["margin_video"] == own[0]["margin_audio"] == 0.0
    assert own[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-6)
    for row, same in zip(own, other, strict=True):
        assert row["loss"] == pytest.approx(same["loss"], rel=tolerance)
        for name in ("margin_video", "margin_audio"):
            assert row[name] == pytest.approx(same[name], rel=tolerance, abs=tolerance)
    assert own[0]["grad_norm"] > 0 and own[-1]["margin_video"] != 0 != own[-1]["margin_audio"]
    folded, converted = load_file(network), load_file(Run.of(finished.folder).sft.checkpoint)
    for name, value in folded.items():
        torch.testing.assert_close(converted[name], value, rtol=1e-6, atol=1e-7)


def test_sampling_sees_the_continued_adapter_on_the_given_weights(finished: Finished) -> None:
    run = Run.of(finished.folder)
    output = run.training_job.output
    assert read_adapter_config(output / "adapter").rank == 2 * RANK
    assert read_adapter_config(output / "continued_adapter").rank == RANK
    assert run.weights_under is not None
    released = base_of(run.settings).load(run.weights_under)
    fold_adapter(released, output / "continued_adapter")
    sampled, start = load_for_sampling(run.policy, run.settings), load_for_sampling(run.sft, run.settings)
    moved = 0.0
    for own, expected, before in zip(sampled.parameters(), released.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
        moved += float((own - before).detach().norm())
    assert moved > 0


def test_the_result_is_promoted_and_exported(finished: Finished, tmp_path: Path) -> None:
    """The scores of this run mean nothing, so the gate's verdict is overridden."""
    folder = finished.folder
    promotion.promote(folder.runs, folder.run_id, reason="a test of given weights", override=True)
    assert aliases.current(folder.runs) is not None
    export_adapter(find_adapter(folder.runs), AdapterExport(tmp_path / "peft", layout="peft", num_clips=0))
    exported = read_lora(tmp_path / "peft")
    assert {pair.rank for pair in exported.factors.values()} == {2 * RANK}


def test_another_adapter_file_trains_another_policy(finished: Finished, tmp_path: Path) -> None:
    run = Run.of(finished.folder)
    assert run.weights_under is not None
    other = save_random_adapter(tmp_path / "other")
    base = finished.trained.settings.sft
    overrides = overrides_of(Path(base.network), other)
    second = Run.of(create(finished.folder.runs, load_config(TINY, overrides, {}).settings))
    prompts.fn(second)
    sft.fn(second)
    assert second.sft.hash != run.sft.hash and second.run_id != run.run_id


def test_a_second_execution_has_nothing_to_do(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.runs.rglob("*.safetensors")}
    run_loop(finished.folder)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.runs.rglob("*.safetensors")} == before
