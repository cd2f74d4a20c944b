"""Inputs of AV-DPO that a run makes besides pairs: scores of the reference, previews, and weights of pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import Split
from avpref.errors import InputError
from avpref.flows.run import Run
from avpref.flows.stages.pair import pair
from avpref.flows.stages.train import delays_s, pair_weights, train
from avpref.storage.documents import quarantine_file
from avpref.storage.run_folder import RunFolder
from avpref.trainer.data.buckets import SampleIndex
from avpref.trainer.data.job_data import open_pairs

TinyCopy = Callable[..., RunFolder]


def run_with(folder: RunFolder, *overrides: str) -> Run:
    settings = load_config(folder.root / "config.yaml", overrides, environment={}).settings
    return Run.of(replace(folder, settings=settings))


def adapter(run: Run) -> bytes:
    return (run.training_job.output / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_with_cached_scores_trains_the_adapter_of_a_live_one(tiny_copy: TinyCopy) -> None:
    live = run_with(tiny_copy("train", "live"))
    train.fn(live)
    cached = run_with(tiny_copy("train", "cached"), "dpo.reference=cached")
    counts = train.fn(cached)
    loop = cached.settings.dpo.loop
    (batches,) = [item for item in counts.items if item.stage == "reference"]
    assert batches.made == loop.steps * loop.num_processes
    assert adapter(cached) == adapter(live)
    (table,) = cached.training_job.output.glob("reference-*.safetensors")
    table.unlink()
    (cached.training_job.output / "summary.json").unlink()
    again = [item for item in train.fn(cached).items if item.stage == "reference"]
    assert [item.made for item in again] == [0] and table.exists(), "the units are done"


def test_a_run_with_previews_shows_its_first_held_out_prompts(tiny_copy: TinyCopy) -> None:
    run = run_with(tiny_copy("train", "previews"), "dpo.loop.previews={every: 1000, count: 2}")
    train.fn(run)
    prompts = [prompt.prompt_id for prompt in run.prompts_of(Split.HELD_OUT)[:2]]
    steps = (0, run.settings.dpo.loop.steps)
    folders = [run.training_job.output / "previews" / f"step_{step:08d}" for step in steps]
    assert sorted((run.training_job.output / "previews").iterdir()) == folders
    for folder in folders:
        assert sorted(path.stem for path in folder.iterdir()) == sorted(prompts)


def test_pairs_weigh_by_the_distance_of_their_rewards(tiny_copy: TinyCopy) -> None:
    pairs = pa.table({"margin_total": [1.0, 3.0, -0.5, 0.0]})
    weights = pair_weights(pairs, 2.0)
    assert weights is not None
    np.testing.assert_allclose(weights.numpy(), np.array([1.0, 9.0, 0.0, 0.0]) * 4 / 10, rtol=1e-6)
    assert pair_weights(pairs, 0.0) is None
    assert pair_weights(pa.table({"margin_total": [0.0, -1.0]}), 1.0) is None
    run = run_with(tiny_copy("train", "weighted"), "dpo.loss.margin_power=1.0")
    train.fn(run)
    data = open_pairs(run.training_job)
    stored = data.pair_weights(range(len(data.ids)))
    assert stored is not None and float(stored.mean()) == pytest.approx(1.0)


def test_a_curriculum_lists_large_delays_first(tiny_run: RunFolder) -> None:
    dpo = tiny_run.settings.dpo.model_copy(update={"desync_share": 0.5})
    flat, large_first = delays_s(dpo), delays_s(dpo.model_copy(update={"desync_order": "large_first"}))
    assert sorted(flat) == sorted(large_first)
    sizes = [abs(delay) for delay in large_first]
    assert sizes == sorted(sizes, reverse=True) and [abs(delay) for delay in flat] != sizes


def test_other_kinds_of_desynchronised_sound_are_encoded_after_the_delays(tiny_copy: TinyCopy) -> None:
    kinds = "dpo.desync_kinds=[delay, repeat, swap]"
    run = run_with(tiny_copy("train", "kinds"), "dpo.desync_share=1.0", kinds, "dpo.desync_order=large_first")
    plain = run_with(tiny_copy("train", "delays"), "dpo.desync_share=1.0", "dpo.desync_order=large_first")
    for each_run in (run, plain):
        train.fn(each_run)
    mine, theirs = (open_pairs(each_run.training_job) for each_run in (run, plain))
    assert mine.num_delays == theirs.num_delays + 4 == len(delays_s(run.settings.dpo)) + 4
    sounds = [mine.delayed(SampleIndex(0, 0), version) for version in range(mine.num_delays)]
    for version in range(theirs.num_delays):
        torch.testing.assert_close(sounds[version], theirs.delayed(SampleIndex(0, 0), version), rtol=1e-2, atol=1e-2)
    chosen = mine.sides([SampleIndex(0, 0)])[0].audio
    assert chosen is not None and not any(sound.equal(chosen[0]) for sound in sounds)
    assert len({sound.numpy().tobytes() for sound in sounds[-4:]}) == 4


def test_new_keys_with_their_default_change_no_identity(tiny_run: RunFolder) -> None:
    dumped = json.dumps(tiny_run.settings.dpo.model_dump(mode="json"))
    for key in ("two_pass", "reference", "checkpointing_by_tokens", "alarms", "noise_weights", "state_bits"):
        assert f'"{key}"' not in dumped
    changed = run_with(tiny_run, "dpo.two_pass=true")
    assert '"two_pass": true' in json.dumps(changed.settings.dpo.model_dump(mode="json"))


def test_a_run_without_pairs_names_the_reasons_and_a_way_out(tiny_copy: TinyCopy) -> None:
    run = run_with(tiny_copy("pair"), "pairs.min_margin=1000000")
    with pytest.raises(InputError, match=r"no prompt gave a pair \(.*margin: \d+") as caught:
        pair.fn(run)
    assert "pairs.min_margin" in caught.value.fix
    assert run.tables.num_rows(tables.PAIRS) == 0 < run.tables.num_rows(tables.SKIPPED)


def test_pairs_that_all_exceed_the_budget_are_rows_and_the_training_does_not_start(tiny_copy: TinyCopy) -> None:
    run = run_with(tiny_copy("train"), "dpo.loop.max_tokens=1")
    with pytest.raises(InputError, match="no pairs to train on"):
        train.fn(run)
    rows = run.documents.read_quarantine(quarantine_file("train"))
    assert len(rows) == run.tables.num_rows(tables.PAIRS)
    assert {row.error for row in rows} == {"NoBucket"} and "loop.max_tokens is 1" in rows[0].message
    assert not (run.training_job.output / "metrics.jsonl").exists()
