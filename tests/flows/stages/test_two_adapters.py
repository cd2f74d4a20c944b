"""Layout two_adapters in a run: AV-DPO continues the adapter of SFT, and everything after it takes the result like any other adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.train import train
from avpref.flows.workers.generator import base_of, load_for_sampling
from avpref.models.flow import Latents
from avpref.registry import aliases, decisions, promotion
from avpref.storage.file_hashes import sha256_of
from avpref.storage.run_folder import RunFolder, create
from avpref.trainer.adapter_files import WEIGHTS_FILE, fold_adapter, read_adapter_config, read_adapter_weights
from avpref.trainer.adapters import factors, reference
from avpref.trainer.data.job_data import open_pairs
from avpref.trainer.parallel import Context
from avpref.trainer.run_job import prepare_preference_training

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
OVERRIDES = (
    *("sft.adapter={rank: 4, alpha: 2.0}", "dpo.adapter={layout: two_adapters, rank: 4, alpha: 2.0}"),
    *("sft.base_dtype=bfloat16", "sft.optimiser.lr=0.05", "sft.loop.previews={every: 1000, count: 1}"),
)
"""A learning rate at which a few steps leave an adapter that matters."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = create(tmp_path_factory.mktemp("two"), load_config(TINY, OVERRIDES, {}).settings)
    run_loop(folder)
    return folder


def velocities(network: Callable[..., Latents], run: Run) -> torch.Tensor:
    """Predictions on noise, all modalities as one vector."""
    pairs = open_pairs(run.training_job)
    texts = pairs.texts([0])
    shapes = pairs.buckets().kinds[0].shapes
    draw = torch.Generator().manual_seed(4)
    noise = Latents(*(None if shape is None else torch.randn(1, *shape, generator=draw) for shape in shapes))
    with torch.no_grad():
        velocity = network(noise, torch.tensor([0.6]), texts.states, texts.mask)
    return torch.cat([part.flatten() for part in velocity if part is not None])


def test_the_policy_continues_the_adapter_of_sft_and_the_reference_keeps_it(finished: RunFolder) -> None:
    run = Run.of(finished)
    job = run.training_job
    assert job.sft_adapter == run.sft_output / "adapter" and job.sft_is_folded
    training = prepare_preference_training(job, Context())
    saved = read_adapter_weights(run.sft_output / "adapter")
    for name, layer in training.policy.named_layers().items():
        for adapter in ("policy", "reference"):
            assert all(
                torch.equal(own, of_sft) for own, of_sft in zip(factors(layer, adapter), saved[name], strict=True)
            )
        assert [factor.requires_grad for factor in factors(layer, "reference")] == [False, False]
    with reference(training.policy) as frozen:
        referred = velocities(frozen, run)
    sft = velocities(load_for_sampling(run.sft, run.settings), run)
    torch.testing.assert_close(referred, sft, rtol=1e-4, atol=1e-5)
    base = base_of(run.settings).create(0)
    base.load_state_dict({name.replace("base_model.model.", ""): value for name, value in _base(training.policy.model)})
    assert float((velocities(base, run) - sft).norm()) > 0.05 * float(sft.norm()), "the adapter of SFT does nothing"


def _base(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The weights under the adapters."""
    named = model.state_dict().items()
    return [(name.replace(".base_layer", ""), value) for name, value in named if ".lora_" not in name]


def test_the_weights_under_the_adapter_are_those_that_sft_froze(finished: RunFolder) -> None:
    """SFT kept them in bfloat16, so that taking the adapter out gives them back to the last bit in bfloat16."""
    run = Run.of(finished)
    model = prepare_preference_training(replace(run.training_job, dtype="bfloat16"), Context()).policy.model
    base, folded = dict(_base(model)), load_file(run.sft.checkpoint)
    for name, (down, up) in read_adapter_weights(run.sft_output / "adapter").items():
        under = base[f"base_model.model.{name}.weight"]
        assert under.dtype == torch.bfloat16
        torch.testing.assert_close(under.float() + 0.5 * up @ down, folded[f"{name}.weight"], rtol=1e-6, atol=1e-6)


def test_sampling_sees_the_policy_that_was_trained(finished: RunFolder) -> None:
    """The adapter of the result has twice the rank; on the SFT network it is the continued adapter on the weights under SFT's."""
    run = Run.of(finished)
    output = run.training_job.output
    assert run.policy.adapter == output / "adapter" and run.policy.checkpoint == run.sft.checkpoint
    assert (
        read_adapter_config(output / "adapter").rank == 2 * read_adapter_config(output / "continued_adapter").rank == 8
    )
    policy = prepare_preference_training(run.training_job, Context()).policy
    base = base_of(run.settings).create(0)
    base.load_state_dict({name.replace("base_model.model.", ""): value for name, value in _base(policy.model)})
    fold_adapter(base, output / "continued_adapter")
    sampled = velocities(load_for_sampling(run.policy, run.settings), run)
    torch.testing.assert_close(sampled, velocities(base, run), rtol=1e-4, atol=1e-5)
    sft = velocities(load_for_sampling(run.sft, run.settings), run)
    assert float((sampled - sft).norm()) > 1e-4 * float(sft.norm())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["margin_video"] == rows[0]["margin_audio"] == 0.0 != rows[-1]["margin_audio"]
    assert finished.tables.num_rows(tables.EVALUATIONS) > 0


def test_the_adapter_can_be_promoted(finished: RunFolder) -> None:
    """The scores of this run mean nothing, so the gate's verdict is overridden."""
    promotion.promote(finished.runs, finished.run_id, reason="a test of the layout", override=True)
    record, weights = decisions.read_decision(finished), Run.of(finished).training_job.output / "adapter" / WEIGHTS_FILE
    assert record.adapter_hash == sha256_of(weights) and aliases.current(finished.runs) is not None


def test_cached_scores_of_the_frozen_copy_give_the_same_adapter(finished: RunFolder, tmp_path: Path) -> None:
    root = tmp_path / finished.run_id
    shutil.copytree(finished.root, root)
    settings = load_config(root / "config.yaml", ["dpo.reference=cached"], {}).settings
    run = Run.of(RunFolder(root, settings))
    train.fn(run)
    mine, live = (each.training_job.output / "adapter" for each in (run, Run.of(finished)))
    assert mine != live
    cached, uncached = (read_adapter_weights(folder) for folder in (mine, live))
    assert all(torch.equal(a, b) for name in cached for a, b in zip(cached[name], uncached[name], strict=True))


def test_sft_shows_its_previews(finished: RunFolder) -> None:
    clips = sorted((Run.of(finished).sft_output / "previews").rglob("*.mp4"))
    assert len(clips) == 2, "before the first step and after the last"
