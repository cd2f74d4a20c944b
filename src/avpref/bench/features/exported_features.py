"""Features of a set as one file, so that a reference can be published without its clips.

A safetensors file: for every network and array ``NETWORK.ARRAY`` [R, D] in float32 and ``NETWORK.ARRAY.owner`` [R], the position of the
clip of each row. The header holds the names of the clips, and for every network its settings and the identity of its weights, which must
be those of the benchmark that reads the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from avpref.bench.features.set_results import PartRecord, SetResults
from avpref.bench.measures.feature_rows import FeatureRows
from avpref.errors import InputError, TableError
from avpref.storage.local_files import replace

FORMAT = "avpref bench features 1"
SUFFIX = ".safetensors"
UNSTATED_WEIGHTS = "as published"
"""Identity of the weights behind features that another tool computed: a file of it does not tell."""


@dataclass(frozen=True, eq=False)
class ExportedFeatures:
    """The content of a file: rows by network and array, and the record of every network."""

    path: Path
    rows: Mapping[tuple[str, str], FeatureRows]
    records: Mapping[str, PartRecord]

    def of(self, record: PartRecord, array: str) -> FeatureRows:
        """Rows for a benchmark whose network has ``record``.

        Raises InputError where the file has none, or those of another network, other weights or other settings.
        """
        own = self.records.get(record.name)
        if own is None or (record.name, array) not in self.rows:
            networks = ", ".join(sorted(self.records)) or "no network"
            raise self._error(f"features of {networks}", f"{array} of {record.name}")
        if own.settings != record.settings:
            raise self._error(
                f"{record.name} with {_listed(own.settings)}", f"{record.name} with {_listed(record.settings)}"
            )
        if own.weights_id not in (record.weights_id, UNSTATED_WEIGHTS):
            raise self._error(
                f"{record.name} with weights {own.weights_id[:12]}",
                f"weights {record.weights_id[:12]}, those of this command",
            )
        if own.weights_id == UNSTATED_WEIGHTS and not record.is_meaningful:
            raise self._error(f"{record.name} with published weights", "the random weights of this dry run")
        return self.rows[record.name, array]

    def _error(self, found: str, expected: str) -> InputError:
        return InputError(
            f"{self.path}: {found}",
            expected,
            f"avpref bench features --clips FOLDER --out {self.path}, with the same settings",
        )


def write_features(path: Path, results: SetResults, arrays: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Write the arrays (network, array) of a set; returns the number of clips of each. Raises InputError where none has a value."""
    tensors: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    names = [sample.key for sample in results.samples]
    position = {key: index for index, key in enumerate(names)}
    for network, array in arrays:
        rows = results.rows(network, array)
        counts[f"{network}.{array}"] = rows.num_clips
        if rows.num_clips:
            owner = np.array([position[key] for key in rows.keys], np.int64)[rows.owner]
            tensors[f"{network}.{array}"] = np.ascontiguousarray(rows.values, np.float32)
            tensors[f"{network}.{array}.owner"] = owner
    if not tensors:
        raise InputError(
            "no clip has features", "clips with the tracks that the networks need", "see the reasons above"
        )
    _write(path, tensors, names, [results.records[name] for name in dict.fromkeys(network for network, _ in arrays)])
    return counts


def write_published_cache(path: Path, target: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Convert JavisBench's cache of reference features (``video`` [N, 400], ``audio`` [N, 1024]) to a file of this format.

    Its rows are those of the published list, ``sample_0000`` on; ``settings`` are those of each network that the user states.
    Raises InputError for another file.
    """
    import torch

    from avpref.storage.weight_files import read_weights

    content = read_weights(path)
    networks = {"video": ("i3d", "logits", 400), "audio": ("audioclip", "features", 1024)}
    tensors: dict[str, np.ndarray] = {}
    num_rows = {len(value) for value in content.values() if isinstance(value, torch.Tensor)}
    records = []
    for name, (network, array, width) in networks.items():
        value = content.get(name)
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.shape[1] != width or len(num_rows) != 1:
            shape = list(value.shape) if isinstance(value, torch.Tensor) else "nothing"
            raise InputError(
                f"{path}: {name} is {shape}", "video [N, 400] and audio [N, 1024] of one N", "check the path"
            )
        tensors[f"{network}.{array}"] = value.float().numpy()
        tensors[f"{network}.{array}.owner"] = np.arange(len(value))
        records.append(PartRecord(network, "", "content", dict(settings[network]), UNSTATED_WEIGHTS))
    _write(target, tensors, [f"sample_{row:04d}" for row in range(num_rows.pop())], records)
    return {name: len(value) for name, value in tensors.items() if not name.endswith(".owner")}


def read_features(path: Path) -> ExportedFeatures:
    """The content of a file. Raises InputError for a file of another kind, and for values that are not finite."""
    try:
        with safe_open(path, framework="np") as stream:
            header = json.loads((stream.metadata() or {}).get("avpref", "{}"))
            names_of_tensors: list[str] = list(stream.keys())
            tensors = {name: stream.get_tensor(name) for name in names_of_tensors}
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: {error}", "a file of avpref bench features", "check the path") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: format {header.get('format')!r}", FORMAT, "avpref bench features writes such a file")
    names = header["clips"]
    records = {record["name"]: PartRecord(**record) for record in header["networks"]}
    rows = {}
    for name in tensors:
        if not name.endswith(".owner"):
            network, _, array = name.partition(".")
            rows[network, array] = _rows(path, name, names, tensors[name], tensors.get(f"{name}.owner"))
    return ExportedFeatures(path, rows, records)


def _rows(path: Path, name: str, names: Sequence[str], values: np.ndarray, owner: np.ndarray | None) -> FeatureRows:
    if (
        owner is None
        or len(owner) != len(values)
        or values.ndim != 2
        or (len(owner) and not 0 <= owner.min() <= owner.max() < len(names))
    ):
        raise TableError(
            f"{path}: {name} {list(values.shape)} has no clip for every row", "a whole file", "export it again"
        )
    broken = sorted({names[index] for index in owner[~np.isfinite(values).all(1)]})
    if broken:
        found = f"{path}: {name} of {len(broken)} clips is NaN or infinite, first {broken[0]}"
        raise InputError(found, "finite features", "compute the features of those clips again, or leave them out")
    order = np.argsort(owner, kind="stable")
    present, positions = np.unique(owner[order], return_inverse=True)
    keys = tuple(names[index] for index in present)
    lost = tuple((key, "no features in the file") for key in names if key not in set(keys))
    return FeatureRows(keys, values[order], positions.astype(np.int64), lost)


def _write(path: Path, tensors: Mapping[str, np.ndarray], names: Sequence[str], records: Sequence[PartRecord]) -> None:
    header = {"format": FORMAT, "clips": list(names), "networks": [record.document() for record in records]}
    replace(path, save(dict(tensors), metadata={"avpref": json.dumps(header)}))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"
