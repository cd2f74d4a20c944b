"""Flow ``sft``: the SFT set rendered and encoded, then flow matching; gives the network that candidates come from."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from avpref.cluster import Unit
from avpref.datasets.latents import LATENTS
from avpref.flows.networks import NetworkFiles
from avpref.flows.plan import shards
from avpref.flows.prompts import read_prompts
from avpref.flows.rendering import RenderSpec
from avpref.flows.run_folder import RunFolder, open_root
from avpref.flows.stage import run_stage
from avpref.flows.training import Texts, clip_set, content_hash, progress_of, read_latents
from avpref.flows.worlds import open_world
from avpref.trainer.batches import save_clip_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.stages import NETWORK_FILE

RENDER = "sft_clips"
DATA_FILE = "clips.safetensors"


@flow(name="sft", persist_result=False, validate_parameters=False)
def sft(run_dir: str) -> int:
    """Train the SFT network of the run in ``run_dir`` if it is not there yet; returns the number of steps."""
    folder = open_root(Path(run_dir))
    output = _output(folder)
    steps = folder.settings.sft.loop.steps
    if not (output / NETWORK_FILE).exists():
        _write_data(folder, output / DATA_FILE)
        with progress_of("sft", steps) as report:
            launch(_job(folder, output), report)
    return steps


def sft_network(folder: RunFolder) -> NetworkFiles:
    """The trained network's file and content hash. Raises InputError before the stage has run."""
    path = _output(folder) / NETWORK_FILE
    return NetworkFiles(path, content_hash(folder, path))


def _output(folder: RunFolder) -> Path:
    settings = folder.settings
    sections = ("run", "clip", "prompts", "codec", "network", "sft")
    parts = {name: getattr(settings, name).model_dump(mode="json") for name in sections}
    parts["run"] = settings.run.seed
    parts["negative"] = settings.sampling.negative_prompt
    return folder.model_folder("sft", folder.fingerprint("sft", parts))


def _render(folder: RunFolder) -> list[Unit]:
    items = open_world(folder.settings).sft_items(read_prompts(folder))
    fingerprint = folder.fingerprint(RENDER, folder.settings.clip.model_dump(mode="json"), folder.settings.run.seed)
    plan = shards(RENDER, fingerprint, [[item] for item in items], folder.settings.run)
    files = folder.units(LATENTS)
    return run_stage(folder, RENDER, files, plan, lambda: RenderSpec(folder.settings, files), "clips")


def _write_data(folder: RunFolder, path: Path) -> None:
    rows, quarantined = folder.units(LATENTS).read(_render(folder))
    folder.write_json("quarantine-sft.json", [vars(row) for row in quarantined])
    if not path.exists():
        save_clip_set(path, clip_set(read_latents(rows, folder.settings), Texts(folder.settings)))


def _job(folder: RunFolder, output: Path) -> TrainingJob:
    settings = folder.settings
    return TrainingJob(
        settings=settings.sft,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
    )
