"""The pairs are equal, byte for byte, with one process, one Ray actor and three actors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avpref.config.loading import load_config
from avpref.datasets.latents import LATENTS
from avpref.datasets.tables import CANDIDATES
from avpref.execution.contract import WorkerSpec
from avpref.flows.run import Run
from avpref.flows.run_stages import CURATION
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.score import score
from avpref.flows.workers.encode_worker import CandidateEncodeSpec, SftEncodeSpec
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.storage.run_folder import RunFolder, create
from avpref.trainer.parallel import torch_threads

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
CURATED = ("prompts", "norms", "rewards", "pairs", "skipped", "excluded")
"""Tables of the curation that hold no times."""
Sealed = Callable[[RunFolder, str], list[bytes]]
Timeless = Callable[[RunFolder], list[dict[str, object]]]


def with_actors(num_actors: int, runs: Path) -> RunFolder:
    overrides = ["executor.kind=ray", f"executor.num_actors={num_actors}"]
    return create(runs, load_config(TINY, overrides, {}).settings)


def contents(folder: RunFolder, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in folder.root.glob(pattern)}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_actor_makes_the_same_pairs_from_the_beginning(
    tiny_run: RunFolder, tmp_path: Path, sealed: Sealed, timeless: Timeless
) -> None:
    """The SFT clips, the network trained on them, the candidates, the pairs. (Encoding and evaluation: see test_kill.)"""
    folder = with_actors(1, tmp_path)
    with folder.locked():
        for stage in CURATION:
            stage.fn(Run.of(folder))
    assert folder.run_id == tiny_run.run_id
    assert folder.settings.executor != tiny_run.settings.executor
    for table in CURATED:
        assert sealed(folder, table) == sealed(tiny_run, table), table
    assert timeless(folder) == timeless(tiny_run)
    for pattern in ("units/sft_clips/**/*.parquet", "models/sft-*/*.safetensors"):
        assert contents(folder, pattern) == contents(tiny_run, pattern) != {}, pattern


@pytest.mark.usefixtures("ray_cluster")
def test_three_actors_make_the_same_clips_and_the_same_pairs(
    tiny_run: RunFolder, tiny_copy: Callable[..., RunFolder], sealed: Sealed, timeless: Timeless
) -> None:
    folder = with_actors(3, tiny_copy("generate").root.parent)
    with folder.locked():
        for stage in (generate, score, pair):
            stage.fn(Run.of(folder))
    for table in CURATED:
        assert sealed(folder, table) == sealed(tiny_run, table), table
    assert timeless(folder) == timeless(tiny_run)
    clips = contents(folder, "clips/**/*.mp4")
    assert clips.items() <= contents(tiny_run, "clips/**/*.mp4").items()
    assert len(clips) == folder.tables.num_rows(CANDIDATES)


def test_workers_use_one_thread_and_the_trainer_the_configured_number(tiny_run: RunFolder) -> None:
    """The number of threads determines the order of sums, so no worker may use the number of another."""
    settings, root = tiny_run.settings, tiny_run.root
    specs: list[WorkerSpec] = [
        SftEncodeSpec(tiny_run.files, settings, tiny_run.units(LATENTS)),
        CandidateEncodeSpec(tiny_run.media, tiny_run.files, settings, tiny_run.units(LATENTS)),
        GenerateSpec(
            tiny_run.files, tiny_run.models, root.parent, settings, tiny_run.units(CANDIDATES), Run.of(tiny_run).sft
        ),
    ]
    for spec in specs:
        torch.set_num_threads(2)
        spec.build()
        assert torch.get_num_threads() == 1
        with torch_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
