"""Every stage runs on the device that the configuration names, and a device that is absent is refused before the first stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.errors import ConfigError
from avpref.flows import run as run_module
from avpref.flows.placement import Placement, placements, require_devices
from avpref.flows.retrain import create_run, run_loop
from avpref.flows.run import Run
from avpref.flows.stages import sft as sft_stage
from avpref.storage.run_folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"
TINY, JAVISDIT = CONFIGS / "tiny.yaml", CONFIGS / "javisdit.yaml"
RAY = "executor={kind: ray, num_actors: 2, num_gpus_per_actor: 1.0}"


def settings(path: Path, *changes: str) -> Settings:
    return load_config(path, changes, environment={}).settings


def by_stage(*arguments: object) -> dict[str, Placement]:
    return {row.stage: row for row in placements(settings(*arguments))}  # type: ignore[arg-type]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_every_stage_of_the_released_models_configuration_is_on_the_executors_gpus() -> None:
    rows = by_stage(JAVISDIT)
    assert {row.device for row in rows.values()} == {"cuda"}
    assert {"texts", "generate", "encode", "train", "evaluate"} < rows.keys()
    assert sum(stage.startswith("score: ") for stage in rows) == 4
    assert rows["train"] == Placement("train", "cuda", "1 Ray Train worker(s)", "bfloat16, adapter float32")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_one_setting_moves_every_stage(device: str) -> None:
    kind = "{kind: in_process, device: '" + device + "'}"
    rows = placements(settings(JAVISDIT, f"executor={kind}"))
    assert {(row.device, row.processes) for row in rows} == {(device, "this process")}


@pytest.mark.usefixtures("with_cuda")
def test_auto_is_cuda_where_there_is_one() -> None:
    rows = by_stage(TINY)
    assert {rows[stage].device for stage in ("sft", "generate", "encode", "train", "evaluate")} == {"cuda"}


@pytest.mark.usefixtures("without_cuda")
def test_auto_is_the_cpu_elsewhere() -> None:
    assert {row.device for row in placements(settings(TINY))} == {"cpu"}


def test_actors_without_gpus_are_on_the_cpu_and_train_in_this_process() -> None:
    rows = by_stage(TINY, "executor={kind: ray, num_actors: 2}")
    assert {row.device for row in rows.values()} == {"cpu"}
    assert (rows["train"].processes, rows["generate"].processes) == ("this process", "2 Ray actor(s)")


def test_a_loop_may_name_its_own_device_and_launcher() -> None:
    rows = by_stage(TINY, RAY, "sft.loop.device=cpu", "dpo.loop.launcher=in_process", "dpo.loop.device=cuda:1")
    assert (rows["sft"].device, rows["sft"].processes) == ("cpu", "this process")
    assert (rows["train"].device, rows["train"].processes) == ("cuda:1", "this process")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_device_and_dtype_reach_the_training_jobs(tiny_run: RunFolder, device: str, dtype: str) -> None:
    changes = f"executor.device={device}", f"dpo.base_dtype={dtype}"
    run = Run(tiny_run.root, settings(TINY, *changes))
    run.__dict__["sft"] = replace(Run.of(tiny_run).sft)
    job = run.training_job
    assert (job.device, job.dtype, job.settings.loop.launcher) == (device, dtype, "in_process")
    sft = sft_stage._job(run, run.settings.sft, run.root)  # type: ignore[arg-type]
    assert (sft.device, sft.dtype) == (device, "float32")


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("changes", [("executor.device=cuda",), (RAY,), ("dpo.loop.device=cuda:0",)])
def test_an_absent_gpu_is_refused_before_the_first_stage(tmp_path: Path, changes: tuple[str, ...]) -> None:
    folder = create_run(str(TINY), str(tmp_path), None, list(changes))
    with pytest.raises(ConfigError, match="no CUDA device") as caught:
        run_loop(folder)
    assert "train" in str(caught.value)
    assert not Run.of(folder).tables.has(tables.PROMPTS)


@pytest.mark.usefixtures("without_cuda")
def test_the_suggested_settings_are_accepted() -> None:
    with pytest.raises(ConfigError) as caught:
        require_devices(settings(JAVISDIT))
    fix = caught.value.fix
    changes = [word for word in fix.split() if word != "--set"]
    assert fix.startswith("--set ") and len(changes) == 6
    require_devices(settings(JAVISDIT, *changes))


@pytest.mark.usefixtures("with_cuda")
def test_more_training_processes_than_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 GPUs are needed at the same time, and this machine has 1"):
        require_devices(settings(TINY, RAY, "dpo.loop.num_processes=2"))


def test_an_actor_on_cuda_holds_a_gpu() -> None:
    with pytest.raises(ConfigError, match="num_gpus_per_actor 0 in executor"):
        require_devices(settings(TINY, "executor={kind: ray, num_actors: 1, device: cuda}"))


def test_more_training_processes_than_rays_actors_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 training processes on a Ray of 2 actors"):
        require_devices(settings(TINY, "executor={kind: ray, num_actors: 2}", "dpo.loop.num_processes=3"))


def test_the_job_of_a_run_is_resolved_once(tiny_run: RunFolder) -> None:
    loop = Run.of(tiny_run).training_job.settings.loop
    assert loop.device in ("cpu", "cuda") and loop.launcher == "in_process"
    assert run_module.placed_loop(tiny_run.settings.executor, loop) == loop
