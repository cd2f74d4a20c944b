"""Do two checkouts make the same run? Run ids, unit names, media, weights, sealed tables and the gate's decision are compared.

    python benchmarks/compare_checkouts.py runs BEFORE_RUN AFTER_RUN          two finished run folders
    python benchmarks/compare_checkouts.py make CHECKOUT CONFIG RUNS [SEED]   one run by the code of a checkout

Columns that hold measured times are left out, and with them what is derived from a table's bytes: the fingerprints that
later tables carry in their metadata, and the versions that a decision names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CLOCK = {"candidates": ["elapsed_s"], "scores": ["elapsed_ms"]}
"""Columns of measured times."""
TABLE_VERSIONS = ("inputs", "lineage", "decision_id", "files")
ENTRY_POINTS = ("src/avpref/cli/main.py", "src/avpref/cli.py")


def unit_names(run: Path) -> list[str]:
    """Stage, fingerprint and name of every committed unit."""
    return sorted(path.relative_to(run).as_posix() for path in (run / "units").rglob("*.parquet"))


def media_hashes(run: Path) -> dict[str, str]:
    """SHA-256 of every clip, by path."""
    return {path.relative_to(run).as_posix(): _sha256(path) for path in sorted((run / "clips").rglob("*.mp4"))}


def weight_hashes(run: Path) -> dict[str, str]:
    """SHA-256 of the trained network and of the adapter, and of networks that were made of given weights, by path."""
    patterns = ("models/*/network.safetensors", "models/*/adapter/adapter_model.safetensors")
    paths = sorted(path for pattern in patterns for path in run.glob(pattern))
    imported = sorted(run.parent.glob("networks/*/network.safetensors"))
    return {
        path.relative_to(run.parent if path in imported else run).as_posix(): _sha256(path)
        for path in (*paths, *imported)
    }


def table_hashes(run: Path) -> dict[str, str]:
    """SHA-256 of the Parquet bytes of every sealed table, without clock columns and metadata."""
    return {folder.name: _table_hash(folder) for folder in sorted((run / "tables").iterdir()) if folder.is_dir()}


def decision(run: Path) -> dict[str, Any]:
    """The gate's verdict, reasons, rules and measured numbers."""
    document = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    gate = {name: value for name, value in document["gate"].items() if name not in TABLE_VERSIONS}
    return {"evaluation": document["evaluation"], "gate": gate}


COMPARED: dict[str, Callable[[Path], Any]] = {
    "unit names": unit_names,
    "media": media_hashes,
    "weights": weight_hashes,
    "sealed tables": table_hashes,
    "gate decision": decision,
}


def differences(before: Path, after: Path) -> Iterator[str]:
    """One line per difference; none where the two runs are the same."""
    if before.name != after.name:
        yield f"run id: {before.name} before, {after.name} after"
    for name, read in COMPARED.items():
        old, new = read(before), read(after)
        if old == new:
            continue
        if isinstance(old, dict):
            changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            yield from (f"{name}: {key}: {old.get(key)} before, {new.get(key)} after" for key in changed)
        else:
            yield f"{name}: {len(set(old) ^ set(new))} of {len(set(old) | set(new))} are in one run alone"


def make(checkout: Path, config: str, runs: Path, seed: int = 0) -> None:
    """Execute the whole loop with the code of ``checkout``. A refused gate is a result."""
    entry = next(path for path in ENTRY_POINTS if (checkout / path).exists())
    module = entry.removeprefix("src/").removesuffix(".py").replace("/", ".")
    command = [sys.executable, "-m", module, "retrain", "--config", config, "--runs", str(runs), "--seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "PYTHONSAFEPATH": "1"}
    ended = subprocess.run(command, cwd=checkout, env=environment, check=False)
    if ended.returncode not in (0, 3):
        raise SystemExit(f"{checkout}: retrain ended with {ended.returncode}")


def _table_hash(folder: Path) -> str:
    version = (folder / "CURRENT").read_text(encoding="utf-8").strip()
    manifest = json.loads((folder / f"{version}.json").read_text(encoding="utf-8"))
    parts = [pq.read_table(folder / file["name"]) for file in manifest["files"]]
    rows = pa.concat_tables(parts).drop_columns(CLOCK.get(folder.name, []))
    if folder.name == "gate_decisions":
        rows = rows.drop_columns([name for name in rows.column_names if name.endswith("_id")])
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None), buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["runs", before, after]:
            lines = list(differences(Path(before), Path(after)))
            print("\n".join(lines) if lines else "same run id, unit names, media, weights, sealed tables and decision")
            return 1 if lines else 0
        case ["make", checkout, config, runs, *seed]:
            make(Path(checkout).resolve(), config, Path(runs).resolve(), int(seed[0]) if seed else 0)
            return 0
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
