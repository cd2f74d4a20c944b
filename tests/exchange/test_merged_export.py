"""A whole network with the adapter folded in: the weights of the policy, in every layout of the base model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from avpref.cli.main import main
from avpref.config.base_settings import BaseSections
from avpref.errors import ConfigError
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import AdapterSource, find_adapter
from avpref.flows.run import Run
from avpref.flows.workers.generator import base_of, load_for_sampling
from avpref.models.bases.base_model import Base, GivenWeights
from avpref.models.bases.javis_base import JavisBase
from avpref.models.checkpoints.weight_layouts import diffusers_name, is_audio
from avpref.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def source(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> AdapterSource:
    runs = tmp_path_factory.mktemp("merged")
    shutil.copytree(tiny_run.root, runs / tiny_run.run_id)
    return find_adapter(runs, tiny_run.run_id, allows_refused=True)


def policy(source: AdapterSource) -> dict[str, torch.Tensor]:
    run = Run.of(source.run)
    return dict(load_for_sampling(run.policy, run.settings).state_dict())


def test_the_first_layout_is_read_back_as_the_policy(source: AdapterSource, tmp_path: Path) -> None:
    files = export_adapter(source, AdapterExport(tmp_path / "out", merged=True))
    assert {"README.md", "model.safetensors"} <= set(files) and "adapter_config.json" not in files
    base = base_of(source.run.settings)
    again = base.convert(GivenWeights(str(tmp_path / "out"), None, torch.float32)).state_dict()
    start = base.load(source.checkpoint).state_dict()
    ours = policy(source)
    assert again.keys() == ours.keys() and all(torch.equal(again[name], ours[name]) for name in ours)
    assert any(not torch.equal(start[name], ours[name]) for name in ours)


def test_diffusers_reads_the_video_part(source: AdapterSource, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    export_adapter(source, AdapterExport(tmp_path / "out", "diffusers", num_clips=0, merged=True))
    network = WanTransformer3DModel.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    theirs = network.state_dict()
    ours = {diffusers_name(name): value for name, value in policy(source).items() if not is_audio(name)}
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_the_card_says_that_the_adapter_is_folded_in(source: AdapterSource, tmp_path: Path) -> None:
    request = AdapterExport(tmp_path / "out", base_model="owner/base", num_clips=1, merged=True)
    assert {"clips/1-before.mp4", "clips/1-after.mp4"} <= set(export_adapter(source, request))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "base_model_relation: finetune" in card and "- lora" not in card
    assert "the whole network of base model `javisdit` in the layout `original`, the adapter folded in" in card


def test_the_command_names_the_layout(
    source: AdapterSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapters", "export", source.run_id, "--runs", str(source.runs), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--merged", "--refused", "--clips", "0"])
    assert not ended.value.code and "original" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda out: AdapterExport(out, "comfyui", merged=True), "layout comfyui"),
        (lambda out: AdapterExport(out, part="video", merged=True), "--part video with --merged"),
        (lambda out: AdapterExport(out, "original"), "layout original"),
    ],
)
def test_a_layout_or_part_that_is_not_of_networks_is_refused(
    source: AdapterSource, tmp_path: Path, request_of, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        export_adapter(source, request_of(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_base_model_without_layouts_exports_no_network(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_run.settings
    base: Base = JavisBase(BaseSections(network=settings.network, codec=settings.codec, text=settings.text))
    monkeypatch.setattr(JavisBase, "network_layouts", ())
    with pytest.raises(ConfigError, match="--merged with base model JavisBase") as caught:
        AdapterExport(tmp_path / "out", merged=True).layout_for(base)
    assert "network_layouts" in caught.value.expected
