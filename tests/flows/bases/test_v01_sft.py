"""The training stages of JavisDiT v0.1 on a tiny network: the prior, sound alone from a video network, the joint stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_v01 import WIDTH, save_tiny_v01, tiny_network

from avpref.config.loading import load_config
from avpref.flows.run import Run
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import sft
from avpref.flows.stages.train_prior import prior_output, train_prior
from avpref.flows.workers.generator import base_of, open_text_encoder
from avpref.models.dual_stream.dual_stages import TRAINED, DualStage
from avpref.models.javisdit_v01.v01_training import VIDEO_MODULES
from avpref.storage.run_folder import create
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.prior.run_prior import PRIOR_FILE
from avpref.trainer.run_job import AUDIO_FOLDER, NETWORK_FILE

LOOP = {"steps": 3, "batch_size": 2, "checkpoint_every": 2, "num_threads": 1}
OPTIMISER = {"lr": 1.0e-2, "warmup_steps": 0, "eps": 1.0e-8}
VALUES: dict[str, Any] = {
    "run": {"name": "v01sft", "shard_prompts": 8, "unit_candidates": 6},
    "executor": {"kind": "in_process"},
    "clip": {"num_frames": 25, "height_px": 64, "width_px": 72, "fps_hz": 24.0, "sample_rate_hz": 16000},
    "prompts": {"kind": "toyworld", "num_prompts": 4, "num_evaluation_clips": 2, "num_sft_clips": 4},
    "prior": {
        "loop": LOOP,
        "optimiser": OPTIMISER,
        "text": {"kind": "imagebind", "preset": "tiny"},
        "network": {
            "spatial_tokens": 3,
            "temporal_tokens": 4,
            "token_dim": 8,
            "hidden_dim": WIDTH,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
        },
    },
    "dpo": {"loop": LOOP},
    "scoring": {"scorers": "fake"},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return save_tiny_v01(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def video_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video stream alone, as Open-Sora's network has it."""
    folder = tmp_path_factory.mktemp("video")
    state = tiny_network(7).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items() if name.split(".")[0] in VIDEO_MODULES}
    save_file(tensors, folder / "model.safetensors")
    return folder


def run_of(folder: Path, weights: dict[str, Any], network: Path, **changes: object) -> Run:
    train = {
        "kind": "train",
        "network": str(network),
        "audio_steps": 3,
        "loop": LOOP,
        "optimiser": OPTIMISER,
        "timesteps": {"scale": 1.0},
        "caption_dropout": 0.3,
        "masks": "released",
        **changes,
    }
    values = VALUES | {"base": {"model": "javisdit-v01", "settings": weights}, "sft": train}
    path = folder / "v01.yaml"
    folder.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run = Run.of(create(folder / "runs", load_config(path, [], environment={}).settings))
    prompts.fn(run)
    return run


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Modules with a tensor that differs."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Any], video_network: Path) -> Run:
    run = run_of(tmp_path_factory.mktemp("trained"), weights, video_network)
    sft.fn(run)
    return run


def test_each_stage_trains_its_modules(trained: Run, video_network: Path) -> None:
    after, video = load_file(trained.sft.checkpoint), load_file(video_network / "model.safetensors")
    (start,) = (trained.runs / "networks").glob(f"*/{NETWORK_FILE}")
    before = load_file(start)
    trained_modules = {*TRAINED[DualStage.AUDIO], *TRAINED[DualStage.JOINT]}
    assert changed(before, after) == trained_modules
    assert not changed(video, after)
    audio = load_file(trained.sft_output / AUDIO_FOLDER / "checkpoints" / "step_00000003" / "tensors.safetensors")
    names = {name.removeprefix("parameter/") for name in audio if name.startswith("parameter/")}
    assert {name.split(".")[0] for name in names} == set(TRAINED[DualStage.AUDIO])
    assert all(torch.equal(audio[f"parameter/{name}"], after[name]) for name in names)
    rows = [json.loads(line) for line in (trained.sft_output / METRICS_FILE).read_text().splitlines()]
    assert len(rows) == 3 and all({"flow_video", "flow_audio"} <= set(row) for row in rows)
    base_of(trained.settings).load(trained.sft.checkpoint)


def test_a_training_that_goes_on_from_a_checkpoint_gives_the_same_network(
    trained: Run, weights: dict[str, Any], video_network: Path, tmp_path: Path
) -> None:
    """The joint stage again from its second step, as after a kill."""
    run = run_of(tmp_path, weights, video_network)
    sft.fn(run)
    output = run.sft_output
    (output / NETWORK_FILE).unlink()
    shutil.rmtree(output / "checkpoints" / "step_00000003")
    sft.fn(Run.of(run))
    assert (output / NETWORK_FILE).read_bytes() == trained.sft.checkpoint.read_bytes()


def test_all_parameters_are_trained_where_the_configuration_says_so(
    weights: dict[str, Any], video_network: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path, weights, video_network, trained="all", audio_steps=0, loop=LOOP | {"steps": 1})
    sft.fn(run)
    (start,) = (run.runs / "networks").glob(f"*/{NETWORK_FILE}")
    modules = changed(load_file(start), load_file(run.sft.checkpoint))
    assert modules > {*VIDEO_MODULES} - {"rope"} and modules > set(TRAINED[DualStage.AUDIO])


def test_the_base_model_loads_the_prior_that_the_stage_trained(
    weights: dict[str, Any], video_network: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path, weights, video_network)
    train_prior.fn(run)
    path = prior_output(run) / PRIOR_FILE
    before = open_text_encoder(run.settings, tmp_path / "a").encode(["a red ball"]).states
    settings = run.settings.base.model_copy(update={"settings": {**weights, "prior": str(path)}})
    own = run.settings.model_copy(update={"base": settings})
    after = open_text_encoder(own, tmp_path / "b").encode(["a red ball"]).states
    assert before.shape == after.shape and not torch.equal(before, after)
