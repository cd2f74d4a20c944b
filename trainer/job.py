"""A training job: one JSON file with all inputs and settings, so that every launcher runs the same training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open

from avpref.config.base_settings import DEFAULT_BASE, BaseSections, BaseSettings
from avpref.config.data_settings import ClipSettings
from avpref.config.network_settings import NetworkSettings
from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.config.training_settings import AdapterSettings, DpoSettings, SftSettings
from avpref.errors import ConfigError, InputError
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import Base, TimestepLaw
from avpref.models.bases.base_opening import open_base, open_same_base
from avpref.storage.latents.latent_reader import ClipSize
from avpref.storage.latents.training_set import is_training_set, training_set_hash
from avpref.storage.local_files import replace
from avpref.trainer.adapter_files import WEIGHTS_FILE

EXECUTION_KEYS = (
    *("steps", "checkpoint_every", "keep_checkpoints", "log_every"),
    *("num_threads", "num_processes", "device", "launcher", "activation_checkpointing", "compile_blocks"),
    *("checkpointing_by_tokens", "sharding", "max_restarts", "keep_every", "alarms", "previews", "trackers"),
)
NOT_IN_FINGERPRINT = frozenset(f"settings.loop.{key}" for key in EXECUTION_KEYS)
"""Settings that may change between interruption and resume: length, placement and speed; they do not affect results.

The length affects those of a learning rate that falls to the last step and of a curriculum; it is in their fingerprint.
"""


@dataclass(frozen=True)
class TrainingJob:
    """Settings, inputs and output folder of one training. The class of ``settings`` selects the objective.

    SFT reads a clip set from ``data`` (stage 1: from ``audio_data`` if set), starts from ``weights`` or from random values
    seeded by ``seed``, trains all weights or, with ``adapter``, a new adapter, and writes ``network.safetensors`` or ``adapter/``.
    DPO reads a pair set from ``data``, adapts ``weights`` plus ``sft_adapter``, and writes ``adapter/``, which belongs to ``weights``.
    With ``sft_is_folded`` the weights hold the SFT adapter already: layout ``two_adapters`` takes it out, or reads the weights under
    it from ``weights_under`` where they are a file, writes the adapter that it trained as ``continued_adapter/`` and its
    difference from the SFT adapter as ``adapter/``. ``reference_scores`` names a table
    of :mod:`avpref.trainer.reference_cache`. Settings of the prior read clips with negatives from ``data`` and write
    ``prior.safetensors``. All write ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and
    ``summary.json``. With several machines ``output`` and the inputs must be on shared storage. ``dtype`` is the dtype of frozen
    weights; ``start_adapter`` is the policy's adapter before the first step, and ``reference`` is ``base`` (the network without it) or
    ``start`` (with it; the new adapter is then written joined with it). ``device`` is ``cpu``, ``cuda`` (the device of each
    process's rank) or ``cuda:N``. ``previews`` names a file of :mod:`avpref.trainer.monitoring.previews`. ``latents`` (of
    ``audio_data``: ``audio_latents``) is the fingerprint that a latent store must have; empty: any. ``base_version`` is the version of
    the base model's class that all processes must have; empty: any.
    """

    settings: SftSettings | DpoSettings | PriorTrainingSettings
    network: NetworkSettings | None
    clip: ClipSettings
    data: Path
    output: Path
    seed: int
    weights: Path | None = None
    sft_adapter: Path | None = None
    sft_is_folded: bool = False
    weights_under: Path | None = None
    adapter: AdapterSettings | None = None
    audio_data: Path | None = None
    reference_scores: Path | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "int8", "float8"] = "float32"
    previews: Path | None = None
    latents: str = ""
    audio_latents: str = ""
    base: BaseSettings = DEFAULT_BASE
    base_version: str = ""
    start_adapter: Path | None = None
    reference: Literal["base", "start"] = "base"

    @property
    def base_model(self) -> Base:
        """The base model whose network is trained. Raises ConfigError where it cannot be used, ClusterError for another version."""
        sections = BaseSections(base=self.base, network=self.network)
        return open_same_base(sections, self.base_version) if self.base_version else open_base(sections)

    def timestep_law(self, size: ClipSize | None = None) -> TimestepLaw:
        """The distribution of timesteps for clips of ``size`` (the job's without).

        Raises ConfigError where no shift can be derived from the clip's length.
        """
        clip = self.clip if size is None else size
        assert not isinstance(self.settings, PriorTrainingSettings), "the prior has no timesteps"
        rates = self.clip.fps_hz, self.clip.sample_rate_hz
        shape = ClipShape(clip.num_frames, clip.height_px, clip.width_px, *rates)
        return self.base_model.timestep_law(self.settings.timesteps, shape)

    @property
    def sft(self) -> SftSettings:
        """Settings of an SFT job."""
        assert isinstance(self.settings, SftSettings), "an AV-DPO job has no SFT settings"
        return self.settings

    @property
    def dpo(self) -> DpoSettings:
        """Settings of an AV-DPO job."""
        assert isinstance(self.settings, DpoSettings), "an SFT job has no AV-DPO settings"
        return self.settings

    @property
    def prior(self) -> PriorTrainingSettings:
        """Settings of a training of the prior."""
        assert isinstance(self.settings, PriorTrainingSettings), "a job of another training"
        return self.settings

    @property
    def start_weights(self) -> Path | None:
        """The network that the training starts from: the weights under an SFT adapter where they are a file, else ``weights``."""
        return self.weights_under or self.weights

    def inputs(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of the files that the job reads."""
        folder = self.sft_adapter
        named = {
            "data": self.data,
            "weights": None
            if self.weights_under is not None
            else self.weights,  # those under the adapter are read instead
            "weights_under": self.weights_under,
            "sft_adapter": None if folder is None else folder / WEIGHTS_FILE,
            "audio_data": self.audio_data,
            "reference_scores": self.reference_scores,
            "start_adapter": None if self.start_adapter is None else self.start_adapter / WEIGHTS_FILE,
        }
        return ((name, path) for name, path in named.items() if path is not None)

    def check(self) -> None:
        """Raises InputError for an absent input, ConfigError for fields that contradict each other."""
        for name, path in self.inputs():
            if not path.exists():
                raise InputError(
                    f"{name} {path} does not exist",
                    "a file written by an earlier stage",
                    "run that stage, or correct the path",
                )
        match self.settings:
            case DpoSettings() if self.weights is None:
                raise ConfigError(
                    "AV-DPO without weights", "the SFT network that the policy starts from", "set weights"
                )
            case DpoSettings(reference="ema") if self.settings.adapter.layout != "merged":
                found = "dpo.reference ema with dpo.adapter.layout two_adapters"
                raise ConfigError(
                    found, "layout merged: the second adapter is the average", "set adapter.layout: merged"
                )
            case DpoSettings() if self.reference_scores is not None and self.settings.reference in ("ema", "none"):
                found = f"reference scores for dpo.reference {self.settings.reference}"
                raise ConfigError(found, "dpo.reference live or cached", "--set dpo.reference=cached")
            case DpoSettings() if self.sft_is_folded and (
                self.sft_adapter is None or self.dpo.adapter.layout != "two_adapters"
            ):
                raise ConfigError(
                    "sft_is_folded without an SFT adapter of layout two_adapters",
                    "sft_adapter and dpo.adapter.layout two_adapters",
                    "set sft_is_folded: false",
                )
            case DpoSettings() if self.weights_under is not None and not self.sft_is_folded:
                found = "weights_under without sft_is_folded"
                raise ConfigError(
                    found, "the weights under an SFT adapter that weights hold", "set sft_is_folded: true"
                )
            case DpoSettings() if self.start_adapter is not None and self.dpo.adapter.layout != "merged":
                raise ConfigError(
                    "start_adapter with layout two_adapters", "layout merged", "set adapter.layout: merged"
                )
            case DpoSettings() if self.adapter is not None:
                raise ConfigError("field adapter of an AV-DPO job", "settings.adapter", "set dpo.adapter instead")
            case SftSettings() if self.dtype != "float32" and self.adapter is None:
                raise ConfigError(
                    f"dtype {self.dtype} for weights that are all trained",
                    "float32",
                    "set dtype: float32, or an adapter",
                )
        loop = self.settings.loop
        if loop.launcher not in ("ray", "processes") and loop.num_processes > 1:
            found = f"loop.num_processes {loop.num_processes} with loop.launcher {loop.launcher}"
            raise ConfigError(
                found, "one process", "set loop.launcher: ray, or run: torchrun -m avpref.trainer.worker JOB.json"
            )

    def fingerprint(self) -> dict[str, str]:
        """Everything that the results depend on: settings by dotted key, seed, and hashes of the inputs."""
        dumped = JOB.dump_python(self, mode="json")
        kept = {name: dumped[name] for name in ("settings", "network", "clip", "adapter", "seed", "dtype")}
        if version := self.base_model.version:
            kept["base"] = {"version": version}
        if self.start_adapter is not None:
            kept["reference"] = self.reference
        if self.sft_is_folded:
            kept["sft_is_folded"] = True
        flat = {key: value for key, value in _flatten("", kept) if not is_execution_key(key)}
        if self.settings.optimiser.schedule != "constant" or self._has_curriculum:
            flat["steps"] = repr(self.settings.loop.steps)
        if flat.get("settings.reference") == repr("cached"):
            del flat["settings.reference"]  # as live: the scores are equal
        return flat | {f"sha256.{name}": data_hash(path) for name, path in self.inputs() if name != "reference_scores"}

    @property
    def _has_curriculum(self) -> bool:
        return isinstance(self.settings, DpoSettings) and self.settings.desync_order != "flat"


def is_execution_key(key: str) -> bool:
    """Whether a dotted key is one of :data:`NOT_IN_FINGERPRINT` or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in NOT_IN_FINGERPRINT)


JOB = TypeAdapter(TrainingJob)


def _flatten(prefix: str, tree: object) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, repr(tree)


def tensors_hash(path: Path) -> str:
    """SHA-256 of the tensors and metadata of a safetensors file in name order, 64 hex characters; the byte layout does not matter."""
    sha256 = hashlib.sha256()
    with safe_open(path, framework="pt") as stream:
        sha256.update(json.dumps(sorted((stream.metadata() or {}).items())).encode())
        for name in sorted(stream.keys()):
            tensor = stream.get_tensor(name)
            sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            sha256.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def data_hash(path: Path) -> str:
    """Hash of a training set's content (:mod:`avpref.storage.latents.training_set`), or of a safetensors file's tensors."""
    return training_set_hash(path) if is_training_set(path) else tensors_hash(path)


def save_job(path: Path, job: TrainingJob) -> None:
    """Write a job as JSON, atomically. Raises StorageError."""
    replace(path, JOB.dump_json(job, indent=1))


def load_job(path: Path) -> TrainingJob:
    """Read a job. Raises InputError for an absent file, ConfigError for a file that is not a job."""
    try:
        return JOB.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error}", "a job written by save_job", "avpref train run") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}", "a training job", "write it again with save_job") from error
