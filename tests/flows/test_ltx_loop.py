"""The whole loop on a tiny LTX-2 with random weights: prompts, candidates, scores, pairs, AV-DPO, evaluation, gate, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_ltx import save_tiny_ltx

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
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.storage.run_folder import RESULT_FILE, RunFolder, create
from avpref.storage.table_readers import read_candidates

CONFIG = Path(__file__).parents[2] / "configs" / "ltx2.yaml"
WORDS = ("dog", "rain", "train", "bell", "fire", "river", "drum", "glass", "wind", "door", "bird", "engine")
TINY: dict[str, Any] = {
    "run": {"name": "ltx", "seed": 0, "shard_prompts": 8, "unit_candidates": 6},
    "executor": {"kind": "in_process"},
    "clip": {"num_frames": 25, "height_px": 64, "width_px": 64, "fps_hz": 24.0, "sample_rate_hz": 48000},
    "sft": {"kind": "weights", "network": "published", "dtype": "float32"},
    "sampling": {"num_candidates": 3, "steps": 2, "guidance": 2.0, "dtype": "float32", "ground_truth": False},
    "scoring": {"scorers": ["audiobox", "imagebind", "synchformer", "videoalign"], "preset": "tiny"},
    "dpo": {
        "loop": {
            "steps": 2,
            "batch_size": 2,
            "checkpoint_every": 2,
            "num_threads": 1,
            "activation_checkpointing": True,
        },
        "optimiser": {"lr": 1.0e-3, "warmup_steps": 1, "eps": 1.0e-8},
        "timesteps": {"scale": 1.0},
        "adapter": {"rank": 2, "alpha": 4.0},
        "desync_share": 0.5,
    },
    "evaluation": {"bootstrap_samples": 100, "gate": {}},
}


def write_config(root: Path, folder: Path, version: LtxVersion = LtxVersion.V2_3) -> Path:
    """A configuration of a tiny run, and its list of prompts."""
    listed = root / "prompts.csv"
    listed.write_text("\n".join(["text", *(f"a {word} far away" for word in WORDS)]) + "\n", encoding="utf-8")
    own = {"version": str(version), "folder": str(folder), "text_dtype": "float32", "perturbed_blocks": [1]}
    values = TINY | {
        "prompts": {"kind": "texts", "prompts": str(listed), "held_out_share": 0.3},
        "base": {"model": "ltx2", "settings": own},
    }
    path = root / "ltx.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a run on a tiny LTX-2.3."""
    root = tmp_path_factory.mktemp("ltx")
    return write_config(root, save_tiny_ltx(root / "weights", LtxVersion.V2_3))


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
def test_clips_are_stereo_at_the_rate_of_the_vocoder_and_carry_the_terms(run: RunFolder) -> None:
    candidates = read_candidates(run.tables)
    assert len(candidates) >= 3 * 6
    for candidate in candidates[:2]:
        with av.open(str(run.root / candidate.path)) as container:
            (sound,), (picture,) = container.streams.audio, container.streams.video
            assert (sound.channels, sound.rate) == (2, 48000)
            assert (picture.frames, picture.width, picture.height) == (25, 64, 64)
        assert "LTX-2 Community License" in json.loads(candidate.sampler)["licence"]


@pytest.mark.slow
def test_the_adapter_learned_and_exports_in_every_layout(run: RunFolder, tmp_path: Path) -> None:
    opened = Run.of(run)
    adapter = opened.policy.adapter
    assert adapter is not None
    trained = load_file(adapter / "adapter_model.safetensors")
    assert len(trained) == 2 * 2 * 28
    assert all(tensor.abs().max() > 0 for tensor in trained.values())
    base = base_of(opened.settings)
    assert base.adapter_layouts == ("peft", "comfyui", "diffusers")
    for layout in base.adapter_layouts:
        base.export_adapter(adapter, tmp_path / layout, layout)
    assert all(name.startswith("diffusion_model.") for name in load_file(tmp_path / "comfyui"))
    assert load_file(tmp_path / "peft" / "adapter_model.safetensors").keys() == trained.keys()
    with pytest.raises(ConfigError, match="layout onnx"):
        base.export_adapter(adapter, tmp_path / "other", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["comfyui", "diffusers"])
def test_an_export_has_a_card_with_the_terms(run: RunFolder, tmp_path: Path, layout: str) -> None:
    source = find_adapter(run.runs, run.run_id, allows_refused=True)
    files = export_adapter(source, AdapterExport(tmp_path / layout, layout, num_clips=1))
    (weights,) = (name for name in files if name.endswith(".safetensors"))
    assert len(load_file(tmp_path / layout / weights)) == 2 * 2 * 28
    assert "LTX-2 Community License" in (tmp_path / layout / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_terms_are_in_the_report(run: RunFolder) -> None:
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert "LTX-2 Community License" in page


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("base.settings.version=2.0", InputError, "holds LTX-2.3"),
        ("clip.num_frames=24", ConfigError, "is not 8k"),
        ("clip.width_px=72", ConfigError, "multiple of 32"),
        ("sampling.negative_prompt=" + "a" * 2000, InputError, "at most 1024 tokens"),
        ("base.settings.perturbed_blocks=[]", ConfigError, "perturbed_blocks"),
        ("base.settings.frame_rate=24", ConfigError, "unknown setting frame_rate"),
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
    assert rows["sft"].num_bytes is not None and 36e9 < rows["sft"].num_bytes < 50e9
    work = base_of(settings).work(clip_shape(settings))
    assert work.num_tokens == 6144 + 126
    assert 1e14 < work.forward_flop < 1e15
    (plan,) = training_plans(settings, tflops=400.0)
    assert plan.tokens == 2 * (6144 + 126)
    assert plan.memory.trained == 4 * 9_633_792 * 32
    assert plan.memory.optimiser == 2 * plan.memory.trained
    assert plan.memory.weights == rows["sft"].num_bytes
    assert 40e9 < plan.memory.total < 72e9 and plan.smallest_card_gb == 80
    sampling = estimate_sampling(settings, tflops=400.0)
    assert sampling.flop_per_candidate == 30 * 4 * work.forward_flop
    assert sampling.gpu_hours == pytest.approx(
        sampling.candidates * sampling.flop_per_candidate / 400e12 / 3600, rel=1e-9
    )


@pytest.mark.slow
def test_sft_starts_on_the_same_base(run: RunFolder) -> None:
    """The converted network is that of the folder, under the names of the product's wrapper."""
    tensors = load_file(Run.of(run).sft.checkpoint)
    assert all(name.startswith("transformer.") for name in tensors)
    assert tensors["transformer.proj_in.weight"].dtype is torch.float32
