"""Adapters leave in each layout bit by bit, with a card whose code loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from avpref.errors import ConfigError, GateRefused, InputError, TableError
from avpref.exchange.adapter_export import AdapterExport, Part, export_adapter
from avpref.exchange.adapter_source import AdapterSource, adapter_sources, find_adapter
from avpref.exchange.load_snippets import SNIPPETS
from avpref.flows.run import Run
from avpref.models.checkpoints.diffusers_lora import AUDIO_FILE, VIDEO_FILE
from avpref.models.checkpoints.exporting import save_diffusers
from avpref.models.checkpoints.lora_files import read_lora
from avpref.models.checkpoints.network_loading import load_generator, load_network
from avpref.models.checkpoints.weight_layouts import diffusers_name, is_audio
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.registry import promotion
from avpref.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def runs(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the finished run, whose adapter serves by override."""
    root = tmp_path_factory.mktemp("adapters")
    shutil.copytree(tiny_run.root, root / tiny_run.run_id)
    promotion.promote(root, tiny_run.run_id, reason="for the test", by="test", override=True)
    return root


@pytest.fixture
def source(runs: Path) -> AdapterSource:
    return find_adapter(runs)


def config_of(source: AdapterSource) -> NetworkConfig:
    settings = source.run.settings.network
    assert settings is not None
    return NetworkConfig.from_settings(settings)


def network_with(source: AdapterSource, lora: Path | None) -> JavisDiT:
    config = config_of(source)
    return load_generator(source.checkpoint, config, ModelType.T2AV, lora=lora)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


@pytest.mark.parametrize("layout", ["peft", "comfyui", "diffusers"])
@pytest.mark.parametrize("part", ["all", "video"])
def test_every_layout_gives_the_same_factors_back(
    source: AdapterSource, tmp_path: Path, layout: str, part: Part
) -> None:
    export_adapter(source, AdapterExport(tmp_path / "out", layout, part))
    trained = read_lora(source.folder)
    wanted = trained.video_only() if part == "video" else trained
    files = [tmp_path / "out"] if layout == "peft" else sorted((tmp_path / "out").glob("*.safetensors"))
    factors = {name: pair for file in files for name, pair in read_lora(file).factors.items()}
    assert factors.keys() == wanted.factors.keys()
    for name, pair in factors.items():
        assert torch.equal(pair.down, wanted.factors[name].down) and torch.equal(pair.up, wanted.factors[name].up)
        assert pair.alpha == wanted.factors[name].alpha
    assert any(map(is_audio, factors)) == (part == "all")


@pytest.mark.parametrize("layout", ["peft", "comfyui"])
def test_the_code_of_the_card_loads_the_adapter(source: AdapterSource, tmp_path: Path, layout: str) -> None:
    export_adapter(source, AdapterExport(tmp_path / "out", layout))
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert code == SNIPPETS[layout]
    names: dict[str, object] = {}
    exec(code.replace("BASE", str(source.checkpoint)).replace("FOLDER", str(tmp_path / "out")), names)
    loaded, trained = names["network"], network_with(source, source.folder)
    assert isinstance(loaded, JavisDiT)
    base = weights(network_with(source, None))
    assert all(torch.equal(value, weights(loaded)[name]) for name, value in weights(trained).items())
    assert any(not torch.equal(value, base[name]) for name, value in weights(trained).items())


def test_diffusers_loads_the_video_part(source: AdapterSource, tmp_path: Path) -> None:
    """The code of the card, on diffusers' own class; its layers then are those of our network with the adapter."""
    export_adapter(source, AdapterExport(tmp_path / "out", "diffusers"))
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {VIDEO_FILE, AUDIO_FILE}
    config = config_of(source)
    save_diffusers(load_network(source.checkpoint, config, ModelType.T2AV), tmp_path / "base")
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code.replace("BASE", str(tmp_path / "base")).replace("FOLDER", str(tmp_path / "out")), names)
    transformer = names["transformer"]
    assert isinstance(transformer, torch.nn.Module)
    fusable: Any = transformer
    fusable.fuse_lora()
    theirs = transformer.state_dict()
    ours = {name: value for name, value in weights(network_with(source, source.folder)).items() if not is_audio(name)}
    base = weights(network_with(source, None))
    changed = 0
    for name, value in ours.items():
        key = diffusers_name(name)
        key = (
            key if key in theirs else key.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        )
        torch.testing.assert_close(theirs[key], value, atol=1e-6, rtol=1e-5)
        changed += not torch.equal(value, base[name])
    assert changed == len(read_lora(tmp_path / "out" / VIDEO_FILE).factors)


def test_the_card_says_where_the_adapter_comes_from(source: AdapterSource, tmp_path: Path) -> None:
    request = AdapterExport(tmp_path / "out", base_model="owner/base", revision="abc123")
    files = export_adapter(source, request)
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("owner/base", "adapter")
    record, dpo = source.record, source.run.settings.dpo
    for value in (
        record.reference_hash,
        record.adapter_hash,
        record.policy_hash,
        record.lineage["pairs_hash"],
        "abc123",
    ):
        assert f"`{value}`" in card
    assert (
        f"{dpo.loss.beta_video:g}, {dpo.loss.beta_audio:g}" in card
        and f"{dpo.adapter.rank}, {dpo.adapter.alpha:g}" in card
    )
    for name, comparison in record.evaluation.items():
        assert f"| {name} | {comparison['delta_sd']:+.3f} | {comparison['ci_low']:+.3f} to " in card
    for rule in record.rules:
        assert f"| {rule['rule']} | {rule['dimension']} |" in card
    clips = [name for name in files if name.endswith(".mp4")]
    assert clips == [f"clips/{number}-{side}.mp4" for number in (1, 2, 3) for side in ("after", "before")]
    assert all(f"]({name})" in card for name in clips)
    assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in clips)


def test_an_adapter_is_found_by_alias_id_and_run(runs: Path, tiny_run: RunFolder) -> None:
    (source,) = adapter_sources(runs)
    for name in ("", "serving", source.name, source.name[:6], tiny_run.run_id, tiny_run.run_id[:8]):
        if name.startswith("tiny"):
            assert find_adapter(runs, name, allows_refused=True).record == source.record
        else:
            assert find_adapter(runs, name).record == source.record
    assert source.document()["serves_as"] == "serving"
    with pytest.raises(InputError, match="no adapter 'nothing'"):
        find_adapter(runs, "nothing")


def test_a_refused_adapter_leaves_only_when_asked(tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.root, tmp_path / tiny_run.run_id)
    record = next(adapter_sources(tmp_path)).record
    if record.verdict == "promote":
        pytest.skip("the gate promoted the adapter of this seed")
    with pytest.raises(GateRefused, match="the gate refused"):
        find_adapter(tmp_path, tiny_run.run_id)
    assert find_adapter(tmp_path, tiny_run.run_id, allows_refused=True).record == record


def test_a_layout_that_the_base_model_does_not_have_names_the_others(source: AdapterSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout kohya"):
        export_adapter(source, AdapterExport(tmp_path / "out", "kohya"))
    assert list(tmp_path.iterdir()) == []


def test_changed_files_do_not_leave(runs: Path, tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    adapter = Run.of(find_adapter(tmp_path / "runs").run).policy.adapter
    assert adapter is not None
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    with pytest.raises(TableError, match=r"adapter_model\.safetensors"):
        find_adapter(tmp_path / "runs")


def test_an_export_that_would_not_read_back_leaves_nothing(
    source: AdapterSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avpref.exchange import adapter_export

    def lossy(lora, folder):
        config = {"r": 4, "lora_alpha": 4.0, "target_modules": ["self_attn.q"], "peft_type": "LORA"}
        name, pair = next(iter(lora.factors.items()))
        folder.mkdir(exist_ok=True)
        tensors = {
            f"base_model.model.{name}.lora_A.weight": pair.down,
            f"base_model.model.{name}.lora_B.weight": pair.up,
        }
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    monkeypatch.setattr(adapter_export, "save_peft_adapter", lossy)
    with pytest.raises(InputError, match="modules differ when the export is read back"):
        export_adapter(source, AdapterExport(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
