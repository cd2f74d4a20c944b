"""A training job: one JSON file that says everything, so that every launcher runs the same."""

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

from avpref.config.data_settings import ClipSettings
from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings, DpoSettings, SftSettings
from avpref.errors import ConfigError, InputError
from avpref.storage.local_files import replace
from avpref.trainer.adapter_files import WEIGHTS_FILE

EXECUTION_KEYS = (
    *("steps", "checkpoint_every", "keep_checkpoints", "log_every"),
    *("num_threads", "num_processes", "launcher", "activation_checkpointing", "compile_blocks"),
)
NOT_MATHEMATICS = frozenset(f"settings.loop.{key}" for key in EXECUTION_KEYS)
"""Keys that may change between interruption and resume: how long, where and how fast, not what."""


@dataclass(frozen=True)
class TrainingJob:
    """What to train on what, and where to write. The class of ``settings`` is the objective.

    SFT reads a clip set from ``data`` (and from ``audio_data`` for stage 1, if that differs), starts from ``weights`` or from
    values drawn from ``seed``, trains everything or, with ``adapter``, a fresh adapter, and writes ``network.safetensors`` or ``adapter/``.
    DPO reads a pair set from ``data``, adapts ``weights`` plus ``sft_adapter``, and writes ``adapter/``; ``reference_scores``
    names a table of :mod:`avpref.trainer.reference_cache`. Both write ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and
    ``summary.json``. With several machines ``output`` and the inputs must be on shared storage. ``dtype`` is that of frozen weights.
    """

    settings: SftSettings | DpoSettings
    network: NetworkSettings
    clip: ClipSettings
    data: Path
    output: Path
    seed: int
    weights: Path | None = None
    sft_adapter: Path | None = None
    adapter: AdapterSettings | None = None
    audio_data: Path | None = None
    reference_scores: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def inputs(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of the files that the job reads."""
        folder = self.sft_adapter
        named = {
            "data": self.data,
            "weights": self.weights,
            "sft_adapter": None if folder is None else folder / WEIGHTS_FILE,
            "audio_data": self.audio_data,
            "reference_scores": self.reference_scores,
        }
        return ((name, path) for name, path in named.items() if path is not None)

    def check(self) -> None:
        """Raises InputError for an input that is absent, ConfigError for fields that do not go together."""
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
            case DpoSettings() if self.adapter is not None:
                raise ConfigError("field adapter of an AV-DPO job", "settings.adapter", "set dpo.adapter instead")
            case SftSettings() if self.dtype != "float32" and self.adapter is None:
                raise ConfigError(
                    f"dtype {self.dtype} for weights that are all trained",
                    "float32",
                    "set dtype: float32, or an adapter",
                )
        if self.settings.loop.launcher == "in_process" and self.settings.loop.num_processes > 1:
            found = f"loop.num_processes {self.settings.loop.num_processes} with loop.launcher in_process"
            raise ConfigError(
                found, "one process", "set loop.launcher: ray, or run: torchrun -m avpref.trainer.worker JOB.json"
            )

    def fingerprint(self) -> dict[str, str]:
        """Everything that the numbers depend on: settings key by key, seed, and hashes of the inputs."""
        dumped = JOB.dump_python(self, mode="json")
        kept = {name: dumped[name] for name in ("settings", "network", "clip", "adapter", "seed", "dtype")}
        flat = {key: value for key, value in _flatten("", kept) if key not in NOT_MATHEMATICS}
        return flat | {
            f"sha256.{name}": content_hash(path) for name, path in self.inputs() if name != "reference_scores"
        }


JOB = TypeAdapter(TrainingJob)


def _flatten(prefix: str, tree: object) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, repr(tree)


def content_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's tensors and metadata in name order: files that differ in layout alone are equal."""
    hashed = hashlib.sha256()
    with safe_open(path, framework="pt") as stream:
        hashed.update(json.dumps(sorted((stream.metadata() or {}).items())).encode())
        for name in sorted(stream.keys()):
            tensor = stream.get_tensor(name)
            hashed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            hashed.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


def save_job(path: Path, job: TrainingJob) -> None:
    """Write a job as JSON, whole or not at all."""
    replace(path, JOB.dump_json(job, indent=1))


def load_job(path: Path) -> TrainingJob:
    """Read a job. Raises InputError for an absent file, ConfigError for one that is not a job."""
    try:
        return JOB.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error}", "a job written by save_job", "avpref train run") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}", "a training job", "write it again with save_job") from error
