"""Stage ``sft``: the SFT set rendered and encoded, then flow matching; gives the network that candidates come from."""

from __future__ import annotations

from pathlib import Path

import torch

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import SftSettings, SftWeights
from avpref.datasets.latents import LATENTS
from avpref.errors import ConfigError
from avpref.execution.item_counts import Tally, record
from avpref.execution.plan import shards
from avpref.execution.pool import Unit
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.trained_models import take_over
from avpref.flows.stages.training_data import Texts, clip_set, content_hash, progress_of, read_latents
from avpref.flows.workers.encode_worker import RenderSpec
from avpref.flows.workers.generator import codec_identity, text_identity
from avpref.flows.workers.networks import NetworkFiles
from avpref.flows.workers.prompt_sources import SftItem, open_world
from avpref.identity import digest
from avpref.models.checkpoints.checkpoint_files import checkpoint_hash
from avpref.models.checkpoints.network_loading import load_generator, save_network
from avpref.models.dit import ModelType, NetworkConfig
from avpref.storage.local_files import storage_errors
from avpref.storage.run_folder import RunFolder, open_root
from avpref.trainer.batches import save_clip_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import NETWORK_FILE, SUMMARY_FILE

RENDER = "sft_clips"
DATA_FILE = "clips.safetensors"
NETWORKS = "networks"
"""Folder beside the runs of networks that were taken in."""
GIVEN = "given weights"


@reporting.stage("sft")
def sft(run_dir: str) -> int:
    """Train the SFT network of the run in ``run_dir``, or take a trained one in, if it is not there yet.

    Returns the number of training steps.
    """
    folder = open_root(Path(run_dir))
    match folder.settings.sft:
        case SftWeights() as given:
            _take_in(folder, given)
            return 0
        case SftSettings() as given:
            record(folder.events, _train(folder, given))
            return given.loop.steps


def sft_network(folder: RunFolder) -> NetworkFiles:
    """The network's file and content hash. Raises InputError before the stage has run."""
    path = _output(folder) / NETWORK_FILE
    return NetworkFiles(path, content_hash(folder, path))


def _output(folder: RunFolder) -> Path:
    """Where the network is: in the run, or beside the runs where it is made of given weights, which runs share."""
    match folder.settings.sft:
        case SftWeights() as given:
            return folder.root.parent / NETWORKS / _weights_hash(given, folder.settings.network)
        case SftSettings():
            return _training_output(folder)


def _weights_hash(given: SftWeights, network: NetworkSettings) -> str:
    if not given.network:
        raise ConfigError(
            "sft.network is empty",
            "a file or folder of a trained network",
            "--set sft.network=checkpoints/JavisDiT-v1.0",
        )
    lora = checkpoint_hash(Path(given.lora)) if given.lora else ""
    return digest("network", checkpoint_hash(Path(given.network)), lora, given.dtype, network.model_dump(mode="json"))


def _take_in(folder: RunFolder, given: SftWeights) -> None:
    """Fold base and LoRA into one file of ours, once for all runs beside this one."""
    output = _output(folder)
    if (output / NETWORK_FILE).exists():
        record(folder.events, Tally("sft", NETWORKS, present=1, because=GIVEN))
        return
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    network = load_generator(
        Path(given.network),
        NetworkConfig.from_settings(folder.settings.network),
        ModelType.T2AV,
        lora=Path(given.lora) if given.lora else None,
        dtype=getattr(torch, given.dtype),
    )
    with storage_errors(output):
        save_network(output / NETWORK_FILE, network, {"source": Path(given.network).name})
    record(folder.events, Tally("sft", NETWORKS, made=1, because=GIVEN))


def _train(folder: RunFolder, given: SftSettings) -> Tally:
    """See :func:`_finish`; what came of it is published."""
    output = _training_output(folder)
    tally = _finish(folder, given, output)
    folder.models.publish(output, (NETWORK_FILE, METRICS_FILE, SUMMARY_FILE))
    return tally


def _finish(folder: RunFolder, given: SftSettings, output: Path) -> Tally:
    """Take the network over from another run, or train it, unless it is there."""
    if folder.models.bring(output / NETWORK_FILE):
        return Tally("sft", NETWORKS, present=1)
    found = take_over(folder, output, [SUMMARY_FILE], NETWORK_FILE)
    if found:
        return Tally("sft", NETWORKS, reused={found: 1})
    _write_data(folder, output / DATA_FILE)
    job = _job(folder, given, output)
    with progress_of("sft", job) as report:
        launch(job, report)
    return Tally("sft", NETWORKS, made=1)


def _training_output(folder: RunFolder) -> Path:
    """Where the network is trained, named by everything that training depends on: of the prompts the SFT set alone."""
    settings = folder.settings
    parts = {name: getattr(settings, name).model_dump(mode="json") for name in ("clip", "network", "sft")}
    parts["set"] = digest("sft set", settings.prompts.kind, [item.item_id for item in _items(folder)])
    parts["codec"], parts["text"] = codec_identity(settings), text_identity(settings)
    parts["negative"] = settings.sampling.negative_prompt
    return folder.model_folder("sft", folder.fingerprint("sft", parts, settings.run.seed))


def _items(folder: RunFolder) -> list[SftItem]:
    return open_world(folder.settings).sft_items(read_prompts(folder))


def _render(folder: RunFolder) -> list[Unit]:
    settings = folder.settings
    depends_on = settings.prompts.kind, settings.clip.model_dump(mode="json"), codec_identity(settings)
    fingerprint = folder.fingerprint(RENDER, *depends_on, settings.run.seed)
    plan = shards(RENDER, fingerprint, [[item] for item in _items(folder)], settings.run)
    files = folder.units(LATENTS)
    reuse = Reuse(files, folder.files, folder.neighbours, "sample_id")
    return run_stage(folder, RENDER, files, plan, lambda: RenderSpec(settings, files), "clips", reuse=reuse)


def _write_data(folder: RunFolder, path: Path) -> None:
    rows, quarantined = folder.units(LATENTS).read(_render(folder))
    folder.write_json("quarantine-sft.json", [vars(row) for row in quarantined])
    if not path.exists():
        save_clip_set(path, clip_set(read_latents(rows, folder.settings), Texts(folder.settings, folder.root.parent)))


def _job(folder: RunFolder, given: SftSettings, output: Path) -> TrainingJob:
    settings = folder.settings
    return TrainingJob(
        settings=given,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
    )
