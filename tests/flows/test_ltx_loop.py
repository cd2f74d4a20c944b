"""The whole loop on a tiny LTX-2 with random weights: prompts, candidates, scores, pairs, AV-DPO, evaluation, gate, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_ltx import save_tiny_ltx
from tiny_ltx_runs import write_config

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.table_terms import base_terms_of
from avpref.errors import ConfigError, InputError
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import find_adapter
from avpref.exchange.pair_export import PairExport, export_pairs
from avpref.flows.dry_run import estimate
from avpref.flows.flops import estimate_sampling
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.run_stages import CURATION, run_stages
from avpref.flows.stages.train import train
from avpref.flows.training_plan import training_plans
from avpref.flows.workers.generator import base_of, load_for_sampling
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.models.bases.base_model import GivenWeights
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.storage.run_folder import RESULT_FILE, RunFolder, create
from avpref.storage.table_readers import read_candidates

CONFIG = Path(__file__).parents[2] / "configs" / "ltx2.yaml"


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
def test_pairs_rewards_and_evaluation_state_the_terms(run: RunFolder) -> None:
    for table in (tables.PAIRS, tables.REWARDS, tables.EVALUATIONS):
        terms = base_terms_of(run.tables.read(table))
        assert terms is not None and terms.base_model == "ltx2" and not terms.commercial_use, table.name
        assert "LTX-2 Community License" in terms.licence


@pytest.mark.slow
def test_exported_pairs_state_the_terms(run: RunFolder, tmp_path: Path) -> None:
    manifest = export_pairs(run, PairExport(tmp_path / "out"))
    assert "LTX-2 Community License" in manifest["base_terms"]["licence"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "base model `ltx2`: LTX-2 Community License" in card and "no commercial use" in card


@pytest.mark.slow
def test_the_network_with_the_adapter_folded_in_is_the_policy(run: RunFolder, tmp_path: Path) -> None:
    source = find_adapter(run.runs, run.run_id, allows_refused=True)
    export_adapter(source, AdapterExport(tmp_path / "out", num_clips=0, merged=True))
    assert "LTX-2 Community License" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    opened = Run.of(run)
    again = base_of(run.settings).convert(GivenWeights(str(tmp_path / "out"), None, torch.float32))
    policy = load_for_sampling(opened.policy, run.settings)
    start = load_file(opened.sft.checkpoint)
    changed = 0
    for (name, ours), theirs in zip(policy.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
        changed += not torch.equal(ours, start[name])
    assert changed == 2 * 28


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_stage_trains_over_a_base_of_eight_bits(run: RunFolder, config: Path) -> None:
    """Another run of the same folder, which differs from stage ``train`` on."""
    pytest.importorskip("torchao")
    opened = Run.of(create(run.runs, load_config(config, ["dpo.base_dtype=int8"], {}).settings))
    with opened.locked():
        run_stages(opened, (*CURATION, train))
    adapters = [Run.of(folder).policy.adapter for folder in (opened, run)]
    eight, plain = (load_file((adapter or Path()) / "adapter_model.safetensors") for adapter in adapters)
    assert eight.keys() == plain.keys() and all(tensor.abs().max() > 0 for tensor in eight.values())
    assert any(not torch.equal(eight[name], plain[name]) for name in plain)


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
        ("clip.fps_hz=16", ConfigError, "24"),
        ("sft.network=nowhere", InputError, "nowhere"),
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


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_made(config: Path, tmp_path: Path) -> None:
    listed = tmp_path / "prompts.csv"
    listed.write_text("text\na dog barks\n" + "b" * 1500 + "\na bell rings\n", encoding="utf-8")
    folder = create(tmp_path, load_config(config, [f"prompts.prompts={listed}"], {}).settings)
    with pytest.raises(InputError, match=r"a text of 15\d\d tokens") as caught:
        run_loop(folder)
    assert caught.value.expected == "at most 1024 tokens"
    assert not folder.tables.has(tables.PROMPTS) and not (tmp_path / "networks").exists()


def test_a_clip_off_the_grid_is_refused_before_the_first_stage(config: Path, tmp_path: Path) -> None:
    settings = load_config(config, ["clip.num_frames=24"], {}).settings
    with pytest.raises(ConfigError, match="is not 8k"):
        estimate(settings)
    folder = create(tmp_path, settings)
    with pytest.raises(ConfigError, match="is not 8k"):
        run_loop(folder)
    assert not folder.tables.has(tables.PROMPTS)


def test_a_distilled_base_is_refused(config: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(config.parent / "weights", tmp_path / "distilled")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"use_dynamic_shifting": False}))
    settings = load_config(config, [f"base.settings.folder={folder}"], {}).settings
    with pytest.raises(InputError, match="distilled") as caught:
        run_loop(create(tmp_path / "runs", settings))
    assert "the full transformer" in caught.value.expected


def adapter_file(path: Path, module: str) -> Path:
    """A LoRA file in ComfyUI's names that adapts one layer."""
    factors = {"A": torch.zeros(2, 32), "B": torch.zeros(32, 2)}
    save_file({f"diffusion_model.{module}.lora_{side}.weight": value for side, value in factors.items()}, path)
    return path


def test_an_adapter_of_the_other_base_is_refused(config: Path, tmp_path: Path, tiny_run: RunFolder) -> None:
    of_javis = adapter_file(tmp_path / "javis.safetensors", "blocks.0.self_attn.q")
    settings = load_config(config, [f"sft.lora={of_javis}"], {}).settings
    with pytest.raises(InputError, match=r"layers that LTX-2 does not adapt, first blocks\.0\.self_attn\.q") as caught:
        run_loop(create(tmp_path / "runs", settings))
    assert "an adapter of LTX-2" in caught.value.expected
    of_ltx = adapter_file(tmp_path / "ltx.safetensors", "transformer_blocks.0.attn1.to_q")
    sft = {"kind": "weights", "network": str(Run.of(tiny_run).sft.checkpoint), "lora": str(of_ltx), "dtype": "float32"}
    javis = load_config(CONFIG.with_name("tiny.yaml"), [f"sft={json.dumps(sft)}"], {}).settings
    with pytest.raises(InputError, match="ltx") as caught:
        run_loop(create(tmp_path / "runs", javis))
    assert caught.value.expected and caught.value.fix


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
