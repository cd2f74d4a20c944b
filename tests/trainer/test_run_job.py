"""Training jobs from file to result: SFT, AV-DPO, launch in process, cached reference scores, resume and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.errors import ConfigError, InputError
from avpref.models.audio_branch import audio_only_network, is_audio_tensor
from avpref.models.checkpoints.network_loading import load_network
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.trainer.adapter_files import fold_adapter, load_adapter, read_adapter_weights
from avpref.trainer.job import TrainingJob, load_job, save_job
from avpref.trainer.launch import launch, read_summary
from avpref.trainer.parallel import Context
from avpref.trainer.reference_cache import load_reference_scores
from avpref.trainer.run_job import cache_reference
from avpref.trainer.worker import main

MakeJob = Callable[..., TrainingJob]
ADAPTER = AdapterSettings(rank=2, alpha=4)


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def test_sft_from_scratch_trains_everything(sft_job: MakeJob, network_settings: NetworkSettings) -> None:
    job = sft_job()
    summary = launch(job)
    assert summary == read_summary(job)
    assert summary.steps == 6
    config = NetworkConfig.from_settings(network_settings)
    first = load_network(job.output / "network.safetensors", config, ModelType.T2AV)
    repeated = sft_job("again")
    launch(repeated)
    second = load_network(repeated.output / "network.safetensors", config, ModelType.T2AV)
    for (name, value), again in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(value, again), name
        assert value.abs().max() > 0, name


def test_sft_writes_the_moving_average_as_its_result(sft_job: MakeJob) -> None:
    job = sft_job(sft={"ema_decay": 0.9})
    launch(job)
    averaged, raw = (load_file(job.output / name) for name in ("network.safetensors", "network_raw.safetensors"))
    checkpoint = load_file(job.output / "checkpoints" / "step_00000006" / "tensors.safetensors")
    for name in raw:
        assert torch.equal(averaged[name], checkpoint[f"average/{name}"])
        assert torch.equal(raw[name], checkpoint[f"parameter/{name}"])


def test_audio_stage_trains_exactly_the_audio_tensors(
    sft_job: MakeJob, make_network: Callable[..., JavisDiT], tmp_path: Path
) -> None:
    job = sft_job(sft={"audio_steps": 4})
    launch(job)
    folder = job.output / "audio_stage"
    trained = load_file(folder / "checkpoints" / "step_00000004" / "tensors.safetensors")
    names = {name.removeprefix("parameter/") for name in trained if name.startswith("parameter/")}
    assert names == {name for name in make_network().state_dict() if is_audio_tensor(name)}
    assert job.network is not None and len(names) == 7 + 5 * job.network.num_layers
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    assert len(rows(job)) == 6
    alone = sft_job("alone")
    launch(alone)
    assert rows(alone)[0]["loss"] != rows(job)[0]["loss"]


def test_the_audio_only_network_copies_values_and_leaves_the_network_unchanged(
    make_network: Callable[..., JavisDiT],
) -> None:
    network = make_network()
    audio_network = audio_only_network(network)
    for name, value in audio_network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
        assert value.data_ptr() != network.state_dict()[name].data_ptr()
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_sft_with_an_adapter_then_both_layouts_of_dpo(
    sft_job: MakeJob, dpo_job: MakeJob, make_network: Callable[..., JavisDiT]
) -> None:
    weights = dpo_job().weights
    sft = sft_job("lora", job={"adapter": ADAPTER, "weights": weights})
    launch(sft)
    merged, base = load_file(sft.output / "network.safetensors"), make_network()
    fold_adapter(base, sft.output / "adapter")
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in base.state_dict().items())
    assert len(read_adapter_weights(sft.output / "adapter")) == 24
    for layout in ("merged", "two_adapters"):
        adapter = ADAPTER.model_copy(update={"layout": layout})
        job = dpo_job(layout, dpo={"adapter": adapter}, job={"sft_adapter": sft.output / "adapter"})
        summary = launch(job)
        assert rows(job)[0]["margin_audio"] == 0.0 and rows(job)[-1]["margin_audio"] != 0.0
        assert summary.drift.video is not None and summary.drift.video > 0
        load_adapter(make_network(), job.output / "adapter")


def test_cached_reference_scores_equal_live_ones_bitwise(dpo_job: MakeJob) -> None:
    live = dpo_job("live")
    launch(live)
    path = live.output / "scores.safetensors"
    table = cache_reference(dpo_job("cached"), path, Context())
    assert table.errors.shape == (10, 3, 2, 2)
    assert int((~table.errors.isnan()).all((2, 3)).sum()) == 24
    cached = replace(dpo_job("cached"), reference_scores=path)
    summary = launch(cached)
    assert summary.drift.video is None
    without_drift = [{k: v for k, v in row.items() if not k.startswith("drift")} for row in rows(live)]
    assert rows(cached) == without_drift
    uncached, from_table = (read_adapter_weights(job.output / "adapter") for job in (live, cached))
    assert all(torch.equal(a, b) for name in uncached for a, b in zip(uncached[name], from_table[name], strict=True))


def test_stale_or_short_reference_scores_are_refused(dpo_job: MakeJob) -> None:
    job = dpo_job()
    path = job.output / "scores.safetensors"
    table = cache_reference(job, path, Context())
    assert torch.equal(load_reference_scores(path, table.key).errors.nan_to_num(), table.errors.nan_to_num())
    with pytest.raises(InputError, match="was computed for"):
        launch(replace(job, seed=4, reference_scores=path))
    with pytest.raises(InputError, match="no reference scores"):
        launch(replace(dpo_job(steps=20), reference_scores=path))


def test_jobs_round_trip_through_a_file(sft_job: MakeJob, dpo_job: MakeJob, tmp_path: Path) -> None:
    for job in (sft_job(job={"adapter": ADAPTER}), dpo_job()):
        save_job(tmp_path / "job.json", job)
        assert load_job(tmp_path / "job.json") == job
        assert load_job(tmp_path / "job.json").fingerprint() == job.fingerprint()


def test_the_fingerprint_leaves_out_execution_settings(sft_job: MakeJob, tmp_path: Path) -> None:
    job = sft_job()
    base = job.fingerprint()
    same = sft_job("elsewhere", steps=50, log_every=7, num_threads=2, checkpoint_every=9).fingerprint()
    assert same == base
    changed = sft_job(batch_size=5).fingerprint()
    assert {key for key in base if base[key] != changed[key]} == {"settings.loop.batch_size"}
    assert replace(job, seed=9).fingerprint() != base
    job.data.write_bytes(job.data.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    assert {key for key, value in job.fingerprint().items() if value != base[key]} == {"sha256.data"}


def test_resuming_a_job_under_other_settings_is_refused(sft_job: MakeJob) -> None:
    launch(sft_job(steps=3))
    assert launch(sft_job(steps=6)).steps == 6
    with pytest.raises(ConfigError, match=r"settings\.caption_dropout"):
        launch(sft_job(sft={"caption_dropout": 0.3}))


def test_jobs_that_cannot_run(sft_job: MakeJob, dpo_job: MakeJob, tmp_path: Path) -> None:
    cases = [
        (replace(dpo_job(), weights=None), "without weights"),
        (replace(dpo_job(), adapter=ADAPTER), "field adapter"),
        (replace(sft_job(), dtype="bfloat16"), "dtype"),
        (sft_job(num_processes=2), "num_processes 2"),
    ]
    for job, message in cases:
        with pytest.raises(ConfigError, match=message):
            launch(job)
    with pytest.raises(InputError, match="does not exist"):
        launch(replace(sft_job(), data=tmp_path / "absent"))
    (tmp_path / "bad.json").write_text('{"settings": {}}')
    with pytest.raises(ConfigError):
        load_job(tmp_path / "bad.json")


def test_worker_module(sft_job: MakeJob, tmp_path: Path) -> None:
    job = sft_job(steps=2)
    save_job(tmp_path / "job.json", job)
    assert main([str(tmp_path / "job.json")]) == 0
    assert read_summary(job).steps == 2
    save_job(tmp_path / "job.json", replace(job, data=tmp_path / "absent"))
    assert main([str(tmp_path / "job.json")]) == 4


def test_progress_is_reported(sft_job: MakeJob) -> None:
    steps: list[int] = []
    launch(sft_job(), on_progress=lambda step, row: steps.append(step))
    assert steps == [2, 3, 4, 6]


@pytest.mark.slow
def test_compiled_blocks_train_alike(dpo_job: MakeJob) -> None:
    """One graph per block with adapters on and one with adapters off; small betas, as rounding differs."""
    loss = PreferenceLossSettings(beta_video=5, beta_audio=2)
    plain, compiled = dpo_job("plain", dpo={"loss": loss}), dpo_job("compiled", dpo={"loss": loss}, compile_blocks=True)
    launch(plain)
    launch(compiled)
    for mine, theirs in zip(rows(plain), rows(compiled), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert theirs["step"] > 1 or theirs["margin_video"] == pytest.approx(0.0, abs=1e-6)
