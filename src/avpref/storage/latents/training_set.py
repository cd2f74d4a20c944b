"""The training set of a job: its samples and the index of their arrays, sealed by a document that is written last.

``DATA.json`` names the two Parquet files beside it with their hashes, the folder that the shards' names are relative to, and the
fingerprint of the latents. A set that is named by no document does not exist.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from avpref.datasets import tables
from avpref.datasets.latents import LATENTS, TRAINING_SAMPLES
from avpref.errors import AvprefError, InputError
from avpref.identity import bytes_sha256, digest
from avpref.storage.local_files import commit_once, replace

SCHEMA = 1
HASH_IN_NAME = 12
Kind = Literal["clips", "pairs", "priors"]


@dataclass(frozen=True)
class SetHeader:
    """Facts about a whole training set.

    Attributes:
        kind: ``pairs`` for AV-DPO, ``clips`` for flow matching, ``priors`` for clips with negatives.
        fingerprint: hash of everything that the latents depend on: codec and its weights, shapes, rates.
        text_len: number of hidden states that the network attends to; stored states are padded to it with zeros.
        text_dim: width of a hidden state.
        negative_id: the text of caption dropout in the index.
        num_delays: delayed versions of every chosen clip's sound.
    """

    kind: Kind
    fingerprint: str
    text_len: int
    text_dim: int
    negative_id: str
    num_delays: int = 0


@dataclass(frozen=True)
class TrainingSet:
    """A sealed training set: header, samples (:data:`TRAINING_SAMPLES`), index (:data:`LATENTS`) and the folder of the shards."""

    header: SetHeader
    samples: pa.Table
    index: pa.Table
    root: Path


def seal_training_set(path: Path, header: SetHeader, samples: pa.Table, index: pa.Table, root: Path) -> None:
    """Write the set whose shards lie under ``root`` as ``path`` and two tables beside it. Raises StorageError."""
    files = {}
    for table, rows in ((TRAINING_SAMPLES, samples), (LATENTS, index)):
        data = tables.to_bytes(tables.conform(table, rows))
        sha256 = bytes_sha256(data)
        name = f"{path.stem}-{table.name}-{sha256[:HASH_IN_NAME]}.parquet"
        commit_once(path.parent / name, data)
        files[table.name] = {"name": name, "sha256": sha256}
    relative = Path(os.path.relpath(root, path.parent)).as_posix()
    document = {"schema": SCHEMA, **asdict(header), "root": relative, "files": files}
    replace(path, json.dumps(document, indent=1).encode())


def is_training_set(path: Path) -> bool:
    """Whether ``path`` is named as the document of a training set."""
    return path.suffix == ".json"


def read_training_set(path: Path, kind: Kind) -> TrainingSet:
    """The sealed set at ``path``; its tables are compared with their hashes. Raises InputError for anything else."""
    fix = _fix(path)
    try:
        document = json.loads(path.read_bytes())
        files = {name: (path.parent / file["name"], file["sha256"]) for name, file in document["files"].items()}
        read = {table.name: _verified(*files[table.name], table, fix) for table in (TRAINING_SAMPLES, LATENTS)}
        fields = {name: document[name] for name in SetHeader.__dataclass_fields__}
        root, schema = (path.parent / document["root"]).resolve(), document["schema"]
    except AvprefError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {error}", "the document of a training set", fix) from error
    header = SetHeader(**fields)
    if (header.kind, schema) != (kind, SCHEMA):
        found = f"{path} is a set of {header.kind}, schema {schema}"
        raise InputError(found, f"a set of {kind}, schema {SCHEMA}", fix)
    if not len(read[TRAINING_SAMPLES.name]):
        raise InputError(f"{path} has no {kind}", "at least one", "avpref pairs show RUN, then change section pairs")
    return TrainingSet(header, read[TRAINING_SAMPLES.name], read[LATENTS.name], root)


def training_set_hash(path: Path) -> str:
    """Hash of a sealed set's content, 64 hex characters: its index has the hashes of the shards. Where they lie does not matter.

    Raises InputError where there is no such document.
    """
    try:
        document = json.loads(path.read_bytes())
        hashes = {name: file["sha256"] for name, file in document.pop("files").items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {error}", "the document of a training set", _fix(path)) from error
    document.pop("root", None)
    return digest("training set", document, hashes, size=64)


def _fix(path: Path) -> str:
    return f"delete {path} and run: avpref runs resume RUN"


def _verified(file: Path, sha256: str, table: tables.Table, fix: str) -> pa.Table:
    data = file.read_bytes()
    if bytes_sha256(data) != sha256:
        raise InputError(f"{file}: sha-256 {bytes_sha256(data)}", f"sha-256 {sha256}", fix)
    return tables.read_stream(io.BytesIO(data), str(file), table)
