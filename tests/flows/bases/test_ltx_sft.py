"""SFT of a LoRA on a tiny LTX-2 through the product's stage: trained, folded in, exported and loaded by diffusers' pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTX2Pipeline
from safetensors.torch import load_file
from tiny_ltx import save_tiny_ltx
from tiny_ltx_runs import write_sft_config
from torch import Tensor

from avpref.config.loading import load_config
from avpref.flows.run import Run
from avpref.flows.run_stages import run_stages
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generator import base_of
from avpref.models.bases.base_model import GivenWeights
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_network import LtxNetwork
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.storage.run_folder import create
from avpref.trainer.run_job import ADAPTER_FOLDER

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stage ``sft`` has trained an adapter."""
    root = tmp_path_factory.mktemp("ltx_sft")
    config = write_sft_config(root, save_tiny_ltx(root / "weights", LtxVersion.V2_3))
    opened = Run.of(create(root / "runs", load_config(config, [], {}).settings))
    with opened.locked():
        run_stages(opened, (prompts, sft))
    return opened


def published(run: Run) -> LtxNetwork:
    network = base_of(run.settings).convert(GivenWeights("published", None, torch.float32))
    assert isinstance(network, LtxNetwork)
    return network


@torch.no_grad()
def outputs(network: VelocityNetwork) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    latents = Latents(torch.randn(1, 128, 2, 2, 2, generator=generator), torch.randn(1, 8, 7, 16, generator=generator))
    text = torch.randn(1, 16, 48, generator=generator)
    velocity = network(latents, torch.tensor([0.6]), text, torch.ones(1, 16))
    assert velocity.video is not None and velocity.audio is not None
    return velocity.video, velocity.audio


def test_the_stage_trains_the_adapter_and_folds_it_in(run: Run) -> None:
    trained = load_file(run.sft_output / ADAPTER_FOLDER / "adapter_model.safetensors")
    assert len(trained) == 2 * 2 * 28 and all(tensor.abs().max() > 0 for tensor in trained.values())
    before, after = published(run).state_dict(), load_file(run.sft.checkpoint)
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert before.keys() == after.keys() and len(changed) == 2 * 28


@pytest.mark.parametrize("layout", ["comfyui", "diffusers"])
def test_the_exported_adapter_gives_the_trained_network_in_the_pipeline(run: Run, tmp_path: Path, layout: str) -> None:
    base = base_of(run.settings)
    file = tmp_path / "adapter.safetensors"
    base.export_adapter(run.sft_output / ADAPTER_FOLDER, file, layout)
    network = published(run)
    plain = outputs(network)
    parts = ("scheduler", "vae", "audio_vae", "vocoder", "connectors", "text_encoder", "tokenizer")
    pipeline: Any = LTX2Pipeline(transformer=network.transformer, **dict.fromkeys(parts))
    pipeline.load_lora_weights(file)
    for theirs, ours, untrained in zip(
        outputs(network), outputs(base.load(run.sft.checkpoint).eval()), plain, strict=True
    ):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
        assert (ours - untrained).abs().max() > 1e-4


def test_a_given_adapter_is_folded_into_given_weights(run: Run) -> None:
    """``sft.lora`` with the exported folder gives the network that the stage trained."""
    lora = run.sft_output / ADAPTER_FOLDER
    again = base_of(run.settings).convert(GivenWeights("published", lora, torch.float32)).state_dict()
    for name, tensor in load_file(run.sft.checkpoint).items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=1e-7)
