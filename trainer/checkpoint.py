"""Atomic training checkpoints: safetensors for tensors, JSON for the rest, no pickles.

A checkpoint holds the trained parameters (not the frozen weights), the optimiser state, the moving averages and the step, whole even
where ranks hold parts of them. There is no random state to save, because noise is counter-based. A folder becomes visible by one
rename after all its files were synced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from avpref.domain import SCHEMA_VERSION
from avpref.errors import ConfigError, InputError, SchemaVersionError, StorageError
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.local_files import fsync, replace, storage_errors
from avpref.trainer.scaling.moments import joined_moment, pieces_of
from avpref.trainer.scaling.sharding import copy_whole, like

TENSORS_FILE = "tensors.safetensors"
STATE_FILE = "state.json"
PARTIAL = ".partial-"
COMPLETE = re.compile(r"step_(\d{8})")

Fingerprint = Mapping[str, str]
"""Everything that the results of a training depend on, by key; it resumes only under an equal fingerprint."""


@dataclass(frozen=True)
class TrainingState:
    """The state that a step changes: trained parameters by name, their AdamW, and their moving averages (empty: none).

    ``average`` becomes the result; ``reference`` has the tensors of a moving reference, by the name of the parameter that each follows.
    """

    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    average: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names: ``parameter/NAME``, ``average/NAME``, ``reference/NAME``, ``optimiser/SLOT/NAME``.

        A moment that is stored in pieces, as 8-bit ones are, has the name ``optimiser/SLOT:PIECE/NAME`` for each.
        """
        flat = {f"parameter/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        flat |= {f"average/{name}": value for name, value in self.average.items()}
        flat |= {f"reference/{name}": value.detach() for name, value in self.reference.items()}
        for name, parameter in self.parameters.items():
            for slot, value in self.optimiser.state.get(parameter, {}).items():
                flat |= {f"optimiser/{slot}{piece}/{name}": tensor for piece, tensor in pieces_of(value)}
        return flat

    @torch.no_grad()
    def restore(self, flat: Mapping[str, Tensor]) -> None:
        """Restore the state from ``flat``, a result of :meth:`tensors`. Raises InputError for missing or unknown parameters."""
        expected = {
            f"{kind}/{name}"
            for kind, tensors in (
                ("parameter", self.parameters),
                ("average", self.average),
                ("reference", self.reference),
            )
            for name in tensors
        }
        saved = {name for name in flat if not name.startswith("optimiser/")}
        if expected != saved:
            unmatched = sorted(expected ^ saved)
            raise InputError(
                f"{len(unmatched)} tensors that do not match, first {unmatched[:3]}",
                "the trained set of this run",
                "use a new folder",
            )
        for kind, tensors in (("parameter", self.parameters), ("average", self.average), ("reference", self.reference)):
            for name, target in tensors.items():
                copy_whole(target, flat[f"{kind}/{name}"])
        self._restore_optimiser(flat)

    def _restore_optimiser(self, flat: Mapping[str, Tensor]) -> None:
        self.optimiser.state.clear()
        pieces: dict[tuple[str, str], dict[str, Tensor]] = {}
        for key, value in flat.items():
            if not key.startswith("optimiser/"):
                continue
            _, slot, name = key.split("/", 2)
            slot, _, piece = slot.partition(":")
            parameter = self.parameters[name]
            if piece:
                pieces.setdefault((slot, name), {})[piece] = value.to(parameter.device)
                continue
            is_on_cpu = slot == "step" and not self.optimiser.defaults.get("fused")
            self.optimiser.state[parameter][slot] = value if is_on_cpu else like(value, parameter)
        for (slot, name), parts in pieces.items():
            parameter = self.parameters[name]
            self.optimiser.state[parameter][slot] = joined_moment(parts, parameter, is_signed=slot == "exp_avg")


@dataclass(frozen=True)
class CheckpointFolder:
    """The newest ``keep`` checkpoints of one training, oldest first, and all of steps that ``keep_every`` divides (0: none)."""

    folder: Path
    fingerprint: Fingerprint
    keep: int
    keep_every: int = 0

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.exists():
            return []
        matches = (COMPLETE.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, state: TrainingState) -> Path:
        """Write the checkpoint of ``step`` and delete those that are not to be kept; returns its folder. Raises StorageError."""
        return self.write(step, {name: tensor.cpu().contiguous() for name, tensor in state.tensors().items()})

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write the checkpoint of ``step`` from CPU ``tensors``, the result of :meth:`TrainingState.tensors`; as :meth:`save`.

        What a failed write left behind is deleted, so that a full disk has its room back; earlier checkpoints stay.
        """
        partial = self.folder / f"{PARTIAL}step_{step:08d}"
        try:
            with storage_errors(self.folder):
                self._write(step, tensors, partial)
        except StorageError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        hit(FailPoint.CHECKPOINT_DONE)
        return self._path(step)

    def _write(self, step: int, tensors: Mapping[str, Tensor], partial: Path) -> None:
        for stale in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
        hit(FailPoint.CHECKPOINT_BEGUN)
        replace(partial / TENSORS_FILE, save(dict(tensors)))
        record = {"schema_version": SCHEMA_VERSION, "step": step, "fingerprint": dict(self.fingerprint)}
        replace(partial / STATE_FILE, json.dumps(record, indent=1, sort_keys=True).encode())
        hit(FailPoint.CHECKPOINT_WRITTEN)
        final = self._path(step)
        if final.exists():
            self._remove(step)
        os.rename(partial, final)
        hit(FailPoint.CHECKPOINT_VISIBLE)
        fsync(self.folder)
        for old in self.steps()[: -self.keep]:
            if not self.keep_every or old % self.keep_every:
                self._remove(old)

    def _remove(self, step: int) -> None:
        """Delete a checkpoint. It is renamed first, so that a partly deleted one is never mistaken for a complete one."""
        renamed = self.folder / f"{PARTIAL}old_{step:08d}"
        os.rename(self._path(step), renamed)
        shutil.rmtree(renamed)

    def resume(self, state: TrainingState) -> int:
        """Load the newest checkpoint into ``state`` and return its step; without one, return 0 and change nothing.

        Raises ConfigError for a checkpoint of another fingerprint, naming the differences; InputError for an unreadable one;
        SchemaVersionError for one of another schema version.
        """
        steps = self.steps()
        if not steps:
            return 0
        path = self._path(steps[-1])
        fix = f"delete the folder {path} to resume from the checkpoint before it"
        try:
            record = json.loads((path / STATE_FILE).read_text())
            flat = load((path / TENSORS_FILE).read_bytes())
            step, schema, fingerprint = record["step"], record["schema_version"], record["fingerprint"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{path}: {error}", "a complete checkpoint", fix) from error
        if schema != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{path} has schema version {schema}", f"schema version {SCHEMA_VERSION}", "use a new folder"
            )
        self._require_equal(fingerprint)
        state.restore(flat)
        return step

    def _require_equal(self, saved: Fingerprint) -> None:
        changed = sorted(
            key for key in saved.keys() | self.fingerprint.keys() if saved.get(key) != self.fingerprint.get(key)
        )
        if changed:
            lines = [
                f"{key}: {saved.get(key)} in the checkpoint, {self.fingerprint.get(key)} now" for key in changed[:5]
            ]
            fix = f"restore these values, or train into a new folder, or delete {self.folder.parent}"
            raise ConfigError(
                f"{self.folder}: " + "; ".join(lines), "the settings and files that the training began with", fix
            )

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"
