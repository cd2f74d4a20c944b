"""The whole loop on a tiny JavisDiT v0.1 with random weights: prompts, candidates, scores, pairs, AV-DPO, evaluation, gate, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import torch
import yaml
from invariants import same_results
from safetensors.torch import load_file
from tiny_v01 import save_tiny_v01

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.errors import ConfigError, InputError
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import find_adapter
from avpref.flows.dry_run import estimate
from avpref.flows.flops import estimate_sampling
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.training_plan import training_plans
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.models.dual_stream.dual_loading import read_dual_stream
from avpref.models.javisdit_v01.v01_base import V01Base
from avpref.storage.failpoints import KILL_VARIABLE, FailPoint
from avpref.storage.run_folder import RESULT_FILE, RunFolder, create
from avpref.storage.table_readers import read_candidates

CONFIG = Path(__file__).parents[3] / "configs" / "javisdit-v01.yaml"
WORDS = ("dog", "rain", "train", "bell", "fire", "river", "drum", "glass", "wind", "door", "bird", "engine")
LAYERS = 2 * 50
TINY: dict[str, Any] = {
    "run": {"name": "v01", "seed": 0, "shard_prompts": 8, "unit_candidates": 6},
    "executor": {"kind": "in_process"},
    "clip": {"num_frames": 25, "height_px": 64, "width_px": 72, "fps_hz": 24.0, "sample_rate_hz": 16000},
    "sampling": {"num_candidates": 3, "steps": 2, "guidance": 2.0, "dtype": "float32", "ground_truth": False},
    "scoring": {"scorers": ["audiobox", "imagebind", "synchformer", "videoalign"], "preset": "tiny"},
    "dpo": {
        "loop": {
            "steps": 2,
            "batch_size": 2,
            "checkpoint_every": 1,
            "num_threads": 1,
            "activation_checkpointing": True,
        },
        "optimiser": {"lr": 1.0e-3, "warmup_steps": 1, "eps": 1.0e-8},
        "timesteps": {"scale": 1.0},
        "adapter": {"rank": 2, "alpha": 4.0},
        "caption_dropout": 0.5,
        "desync_share": 0.5,
    },
    "evaluation": {"bootstrap_samples": 100, "gate": {}},
}


def write_config(root: Path, weights: Path) -> Path:
    """A configuration of a tiny run, its weights and its list of prompts."""
    listed = root / "prompts.csv"
    listed.write_text("\n".join(["text", *(f"a {word} far away" for word in WORDS)]) + "\n", encoding="utf-8")
    values = TINY | {
        "prompts": {"kind": "texts", "prompts": str(listed), "held_out_share": 0.3},
        "base": {"model": "javisdit-v01", "settings": save_tiny_v01(weights)},
        "sft": {"kind": "weights", "network": str(weights / "generator"), "dtype": "float32"},
    }
    path = root / "v01.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a run on a tiny JavisDiT v0.1."""
    root = tmp_path_factory.mktemp("v01")
    return write_config(root, root / "weights")


@pytest.fixture(scope="module")
def run(config: Path) -> RunFolder:
    folder = create(config.parent / "runs", load_config(config, [], {}).settings)
    run_loop(folder)
    return folder


@pytest.mark.slow
def test_every_stage_has_its_result(run: RunFolder) -> None:
    document = run.documents.read(RESULT_FILE)
    assert document is not None
    assert document["training"]["steps"] == 2
    assert set(document["evaluation"]) == {"video", "audio", "sync"}
    assert document["gate"]["verdict"] in ("promote", "refuse")
    assert run.tables.num_rows(tables.PAIRS) > 0


@pytest.mark.slow
def test_clips_have_the_shape_that_was_asked_for_and_carry_the_terms(run: RunFolder) -> None:
    candidates = read_candidates(run.tables)
    assert len(candidates) >= 3 * 6
    for candidate in candidates[:2]:
        with av.open(str(run.root / candidate.path)) as container:
            (sound,), (picture,) = container.streams.audio, container.streams.video
            assert sound.rate == 16000
            assert (picture.frames, picture.width, picture.height) == (25, 72, 64)
        assert "licence of the weights not seen" in json.loads(candidate.sampler)["licence"]
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert "licence of the weights not seen" in page


@pytest.mark.slow
def test_the_adapter_learned_and_is_exported_under_the_released_names(run: RunFolder, tmp_path: Path) -> None:
    adapter = Run.of(run).policy.adapter
    assert adapter is not None
    trained = load_file(adapter / "adapter_model.safetensors")
    assert len(trained) == 2 * LAYERS
    assert all(tensor.abs().max() > 0 for tensor in trained.values())
    source = find_adapter(run.runs, run.run_id, allows_refused=True)
    export_adapter(source, AdapterExport(tmp_path / "out", num_clips=1))
    exported = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert exported.keys() == trained.keys()
    assert "base_model.model.va_cross_blocks.1.cross_attn.out_m2_proj.lora_B.weight" in exported
    assert "licence of the weights not seen" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_adapter_is_folded_in_and_the_network_goes_back_to_the_released_layout(
    run: RunFolder, config: Path, tmp_path: Path
) -> None:
    opened = Run.of(run)
    assert opened.policy.adapter is not None
    settings = load_config(config, [f"sft.lora={opened.policy.adapter}"], {}).settings
    base = base_of(settings)
    assert isinstance(base, V01Base)
    start = base.load(opened.sft.checkpoint)
    base.export_network(start, tmp_path / "start", "released")
    original = load_file(config.parent / "weights" / "generator" / "model.safetensors")
    exported = read_dual_stream(tmp_path / "start", base.config).state_dict()
    assert list(exported) == list(read_dual_stream(config.parent / "weights" / "generator", base.config).state_dict())
    assert all(torch.equal(exported[name], original[name]) for name in original)
    with pytest.raises(ConfigError, match="layout onnx"):
        base.export_network(start, tmp_path / "other", "onnx")
    with pytest.raises(InputError, match="holds no whole adapter"):
        run_loop(create(tmp_path / "runs", load_config(config, [f"sft.lora={tmp_path / 'start'}"], {}).settings))


LOOP = """
import sys
from pathlib import Path
from avpref.flows.retrain import run_loop
from avpref.storage.run_folder import open_root
run_loop(open_root(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_tables_and_the_adapter_of_one_that_was_not(
    run: RunFolder, config: Path, tmp_path: Path
) -> None:
    """Killed while a unit is committed, and after the first step of the training; every execution takes up what is there."""
    folder = create(tmp_path / "runs", load_config(config, [], {}).settings)
    assert folder.run_id == run.run_id
    for kill in (f"{FailPoint.UNIT_COMMITTED}:3", f"{FailPoint.CHECKPOINT_VISIBLE}:1"):
        ended = subprocess.run(
            [sys.executable, "-c", LOOP, str(folder.root)], env={**os.environ, KILL_VARIABLE: kill}, check=False
        )
        assert ended.returncode == -signal.SIGKILL, kill
    run_loop(folder)
    same_results(folder, run, has_same_times=False)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("clip.width_px=70", ConfigError, "not a multiple of 8"),
        ("clip.fps_hz=16.0", ConfigError, "24.0, as base.settings.network.fps_hz"),
        ("clip.sample_rate_hz=48000", ConfigError, "the rate of the audio codec"),
        ("clip.num_frames=16", ConfigError, "a clip of 16 frames"),
        ("dpo.timesteps.independent=true", ConfigError, "one time for both modalities"),
        ("base.settings.network.hidden_size=32", InputError, "does not fit"),
        ("base.settings.prior_network.hidden_size=32", InputError, "a prior estimator.* does not fit"),
        ("base.settings.prior_network.out_dim=4", ConfigError, "they must be equal"),
        ('base.settings.imagebind=""', InputError, "imagebind is empty"),
        ("base.settings.video_vae=nowhere", InputError, "nowhere is absent"),
        ("base.settings.steps=24", ConfigError, "unknown setting steps"),
        ("base.settings.network.steps=24", ConfigError, "network.steps"),
    ],
)
def test_bad_input_is_one_error_that_says_what_was_expected(
    config: Path, tmp_path: Path, override: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run_loop(create(tmp_path, load_config(config, [override], {}).settings))


@pytest.mark.slow
def test_the_published_configuration_is_estimated_without_weights(tmp_path: Path) -> None:
    listed = tmp_path / "prompts.csv"
    listed.write_text("text\na dog barks\na bell rings\n", encoding="utf-8")
    settings = load_config(CONFIG, [f"prompts.prompts={listed}", "executor={kind: in_process}"], {}).settings
    rows = {row.name: row for row in estimate(settings).stages}
    assert rows["sft"].num_bytes is not None and rows["sft"].num_bytes > 2 * 3.7e9
    work = base_of(settings).work(clip_shape(settings))
    assert work.num_tokens == 30 * 15 * 27 + 28 * 16
    (plan,) = training_plans(settings, tflops=400.0)
    assert plan.tokens == 2 * work.num_tokens
    assert plan.memory.weights == rows["sft"].num_bytes
    sampling = estimate_sampling(settings, tflops=400.0)
    assert sampling.flop_per_candidate == 30 * 2 * work.forward_flop
