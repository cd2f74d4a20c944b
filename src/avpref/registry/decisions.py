"""Decisions on disk: ``decisions/<id>.json`` in the run's folder, whole or absent, with all that they were taken from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avpref import __version__
from avpref.datasets import tables
from avpref.datasets.evidence import gate
from avpref.datasets.evidence.decision import Decision, Inputs, inputs_of, scores_of, take
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, TableError
from avpref.storage.file_hashes import sha256_of
from avpref.storage.run_folder import RunFolder

FOLDER = "decisions"
ADAPTER, CHECKPOINT, SUMMARY = "adapter", "checkpoint", "summary"
"""Roles of the files that a document lists: what serves, what it is put on, and what training said of itself."""
RELATIVE_TOLERANCE = 1e-9
"""Numbers of a replay may differ by so much: another processor may add in another order."""


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was when the decision was taken."""

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Replay:
    """A stored decision taken again. ``wrong``: numbers that came out otherwise; ``changed``: inputs that are others today."""

    stored: Mapping[str, Any]
    again: Decision
    wrong: tuple[Difference, ...]
    changed: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether verdict and numbers are the same."""
        return not self.wrong


def seal(folder: RunFolder, decision: Decision) -> None:
    """Make ``decision`` the run's current one: its rules as rows of the table of gate decisions."""
    inputs_hash = decision.inputs.hash
    rows = tables.to_arrow(tables.GATE_DECISIONS, gate.rows(decision.verdict, inputs_hash), inputs_hash)
    folder.tables.seal(tables.GATE_DECISIONS, decision.decision_id, rows)


def record(
    folder: RunFolder, decision: Decision, lineage: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
) -> None:
    """Keep ``decision`` with what its adapter came from and its files; a document that is there stays as it is."""
    document = decision.document() | {"lineage": lineage, "files": files}
    whole = json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, ensure_ascii=False)
    folder.files.commit_once(f"{FOLDER}/{decision.decision_id}.json", whole.encode())


def read(folder: RunFolder, decision: str = "") -> dict[str, Any]:
    """A decision's document by id or an unambiguous beginning of it; without one, what the run decided last.

    Raises InputError where there is none, TableError where it cannot be read.
    """
    wanted, known = _plain(decision or _last(folder)), decision_ids(folder)
    found = [each for each in known if each.startswith(wanted)]
    if len(found) != 1:
        fix = f"avpref eval run --run {folder.run_id} --runs {folder.runs}"
        expected = f"one of: {', '.join(known) or '(none)'}"
        raise InputError(f"{len(found)} decisions {wanted!r} in run {folder.run_id}", expected, fix)
    name = f"{FOLDER}/{found[0]}.json"
    return parsed(folder.files.uri(name), folder.files.read(name))


def decision_ids(folder: RunFolder) -> list[str]:
    """Decisions that the run has taken, in no order of time."""
    return [Path(name).stem for name in folder.files.children(FOLDER)]


def parsed(place: str, data: bytes) -> dict[str, Any]:
    """A document of this product, read at ``place``. Raises TableError where it is torn or of another schema."""
    try:
        document = json.loads(data)
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{place}: {error}", "a document that this product wrote", "restore it from a copy") from error
    if version != SCHEMA_VERSION:
        raise TableError(f"{place} has schema version {version}", str(SCHEMA_VERSION), "use the version that made it")
    return dict(document)


def scores(folder: RunFolder, inputs: Inputs) -> pd.DataFrame:
    """Rows of the evaluations version that the inputs name. Raises TableError where it is gone or was changed."""
    manifest = folder.tables.store.version(tables.EVALUATIONS.name, inputs.evaluations)
    folder.tables.store.verify(manifest)
    return folder.tables.read_version(tables.EVALUATIONS, manifest).to_pandas()


def again(folder: RunFolder, inputs: Inputs) -> Decision:
    """Decide from what is stored. Raises TableError where the scores were changed."""
    metrics = [metric.name for metric in inputs.metrics]
    return take(inputs, scores_of(scores(folder, inputs), inputs.prompts, metrics))


def replay(folder: RunFolder, decision: str = "") -> Replay:
    """Take a stored decision again and compare. Raises InputError and TableError as :func:`read` and :func:`again`."""
    document = read(folder, decision)
    inputs = inputs_of(document)
    taken = again(folder, inputs)
    return Replay(document, taken, tuple(_wrong(document, taken)), tuple(_changed(folder, document, inputs)))


def changed_files(runs: Path, document: Mapping[str, Any]) -> list[Difference]:
    """Files of the adapter and its base that are gone or have another hash. Paths are relative to ``runs``."""
    return list(_files(runs, document))


def _plain(decision: str) -> str:
    if not decision.isalnum():
        raise InputError(f"decision {decision!r}", "the id of a decision", "avpref gate check --json")
    return decision


def _last(folder: RunFolder) -> str:
    return str(folder.tables.read(tables.GATE_DECISIONS)["gate_id"][0].as_py())


def _wrong(document: Mapping[str, Any], taken: Decision) -> Iterator[Difference]:
    fresh = json.loads(json.dumps(taken.document()))
    for name in ("decision_id", "verdict"):
        if document[name] != fresh[name]:
            yield Difference(name, str(document[name]), str(fresh[name]))
    for what, then, recorded in _weights(document):
        if then not in recorded:
            yield Difference(what, then, ", ".join(recorded) or "no file")
    for dimension, found in fresh["evaluation"].items():
        then = document["evaluation"].get(dimension, {})
        yield from _numbers(f"{dimension} ", then, found)
    for number, rule in enumerate(fresh["rules"]):
        then = document["rules"][number] if number < len(document["rules"]) else {}
        yield from _numbers(f"rule {rule['rule']} {rule['dimension']} ", then, rule)


def _weights(document: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """The networks that the decision is about, and the hashes of the files that its document lists for them."""
    listed = {
        role: [str(file["sha256"]) for file in document["files"] if file["role"] == role]
        for role in (ADAPTER, CHECKPOINT)
    }
    yield "hash of the adapter", document["inputs"]["adapter_hash"], listed[ADAPTER]
    yield "hash of the checkpoint", document["inputs"]["reference_hash"], listed[CHECKPOINT]


def _numbers(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name, value in now.items():
        if name == "detail" or _same(then.get(name), value):
            continue
        yield Difference(what + name, str(then.get(name)), str(value))


def _same(then: object, now: object) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
    return then == now


def _changed(folder: RunFolder, document: Mapping[str, Any], inputs: Inputs) -> Iterator[Difference]:
    manifest = folder.tables.current(tables.EVALUATIONS.name)
    now = {
        "product version": (inputs.product_version, __version__),
        "evaluations": (inputs.evaluations, manifest.version if manifest else "none"),
        "norm": (inputs.norm_id, ", ".join(sorted(set(folder.tables.read(tables.NORMS)["norm_id"].to_pylist())))),
    }
    yield from (Difference(what, then, found) for what, (then, found) in now.items() if then != found)
    then, settings = inputs.settings.model_dump(mode="json"), folder.settings.evaluation.model_dump(mode="json")
    for key in then:
        if then[key] != settings[key]:
            yield Difference(f"evaluation.{key}", str(then[key]), str(settings[key]))
    yield from _files(folder.runs, document)


def _files(runs: Path, document: Mapping[str, Any]) -> Iterator[Difference]:
    for file in document["files"]:
        path = runs / file["path"]
        found = sha256_of(path) if path.exists() else "no file"
        if found != file["sha256"]:
            yield Difference(file["path"], file["sha256"], found)
