"""The whole loop on the tiny toy world with an added synchroniser: its texts, training, sampling, plan and exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avpref.config.loading import load_config
from avpref.errors import InputError
from avpref.exchange.adapter_export import AdapterExport, export_adapter
from avpref.exchange.adapter_source import find_adapter
from avpref.flows.dry_run import estimate
from avpref.flows.retrain import run_loop
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.run_folder import create

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
ESTIMATOR = PriorConfig(
    text_emb_dim=16,
    spatial_token_num=3,
    temporal_token_num=2,
    hidden_size=16,
    out_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def estimator_file(folder: Path) -> Path:
    path = folder / "prior.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(SynchronyPrior(ESTIMATOR).state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "ta_rope_st_prior", "frame_attention"])
def test_the_loop_runs_with_a_synchroniser(tmp_path: Path, kind: str) -> None:
    changes = [f"network.synchroniser={kind}"]
    if kind.endswith("st_prior"):
        sizes = {"spatial_tokens": 3, "temporal_tokens": 2, "channels": 8}
        changes.append(f"network.prior={json.dumps({'weights': str(estimator_file(tmp_path)), **sizes})}")
    settings = load_config(CONFIG, changes, {}).settings
    assert estimate(settings).stages
    folder = create(tmp_path / "runs", settings)
    result = run_loop(folder)
    assert result.pairs.kept and result.gate.verdict
    again = run_loop(folder)
    assert not again.is_changed
    source = find_adapter(tmp_path / "runs", folder.run_id, allows_refused=True)
    whole, video = tmp_path / "whole", tmp_path / "video"
    export_adapter(source, AdapterExport(whole, layout="peft"))
    adapted = {name for name in load_file(whole / "adapter_model.safetensors") if is_added(name)}
    assert len(adapted) == (0 if kind == "none" else 16)
    assert json.loads((whole / "network.json").read_text())["synchroniser"] == kind
    export_adapter(source, AdapterExport(video, layout="diffusers", part="video"))
    if kind != "none":
        with pytest.raises(InputError, match="layers of a synchroniser"):
            export_adapter(source, AdapterExport(tmp_path / "refused", layout="diffusers"))
