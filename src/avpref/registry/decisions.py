"""Decisions on disk: ``decisions/<id>.json`` in the run's folder, written once, with everything that they were taken from."""

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
from avpref.datasets.evidence.decision import Decision, DecisionInputs, inputs_of, scores_of, take
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, TableError
from avpref.registry.decision_record import ADAPTER, CHECKPOINT, SUMMARY, DecisionRecord, RecordedFile
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.file_hashes import sha256_of
from avpref.storage.run_folder import RunFolder

__all__ = ["ADAPTER", "CHECKPOINT", "SUMMARY", "DecisionRecord", "RecordedFile"]
FOLDER = "decisions"
RELATIVE_TOLERANCE = 1e-9
"""Numbers of a replay may differ by this share: another processor may add in another order."""


@dataclass(frozen=True)
class Difference:
    """A value that differs from the one at the time of the decision."""

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Replay:
    """A stored decision taken again. ``wrong``: numbers that differ; ``changed``: inputs that have changed since."""

    stored: DecisionRecord
    again: Decision
    wrong: tuple[Difference, ...]
    changed: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether verdict and numbers are the same."""
        return not self.wrong


def seal_decision(folder: RunFolder, decision: Decision) -> None:
    """Make ``decision`` the run's current one: its rules become rows of the table of gate decisions."""
    inputs_hash = decision.inputs.hash
    rows = tables.to_arrow(tables.GATE_DECISIONS, gate.rows(decision.verdict, inputs_hash), inputs_hash)
    folder.tables.seal(tables.GATE_DECISIONS, decision.decision_id, rows)


def record_decision(
    folder: RunFolder, decision: Decision, lineage: Mapping[str, Any], files: Sequence[RecordedFile]
) -> None:
    """Store ``decision`` with the lineage and the files of its adapter; a document that exists stays as it is."""
    plain = json.loads(json.dumps(decision.document()))
    record = DecisionRecord(schema_version=SCHEMA_VERSION, **plain, lineage=lineage, files=tuple(files))
    text = json.dumps(record.document(), indent=1, ensure_ascii=False)
    folder.files.commit_once(_file(decision.decision_id), text.encode())


def write_verdict(folder: RunFolder, decision: Decision) -> None:
    """Write comparisons, verdict and rules to the document that reports and views read."""
    document = decision.document()
    gated = {key: document[key] for key in ("verdict", "reasons", "rules", "decision_id")}
    compared = {key: document[key] for key in ("evaluation", "metrics")}
    if decision.inputs.bench:
        compared["bench"] = [delta.document() for delta in decision.inputs.bench]
    folder.documents.write(VERDICT_FILE, {**compared, "gate": gated})


def read_decision(folder: RunFolder, decision: str = "") -> DecisionRecord:
    """A stored decision by id or an unambiguous beginning of one; without ``decision``, the run's last one.

    Raises InputError where there is none, TableError that names the file where it cannot be read.
    """
    beginning, known = _checked_id(decision or _last(folder)), decision_ids(folder)
    matching = [known_id for known_id in known if known_id.startswith(beginning)]
    if len(matching) != 1:
        fix = f"avpref eval run --run {folder.run_id} --runs {folder.runs}"
        expected = f"one of: {', '.join(known) or '(none)'}"
        raise InputError(f"{len(matching)} decisions {beginning!r} in run {folder.run_id}", expected, fix)
    name = _file(matching[0])
    uri = folder.files.uri(name)
    return DecisionRecord.from_document(parse_document(uri, folder.files.read(name)), uri)


def decision_ids(folder: RunFolder) -> list[str]:
    """Ids of the decisions that the run has taken, in the order of the ids."""
    return [Path(name).stem for name in folder.files.children(FOLDER)]


def parse_document(uri: str, data: bytes) -> dict[str, Any]:
    """A JSON object of this product, read from ``uri``. Raises TableError where it is torn or of another schema version."""
    try:
        document = json.loads(data)
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{uri}: {error}", "a document that this product wrote", "restore it from a copy") from error
    if version != SCHEMA_VERSION:
        found = f"{uri} has schema version {version}"
        raise TableError(found, f"schema version {SCHEMA_VERSION}", "use the version of avpref that made it")
    return dict(document)


def evaluation_scores(folder: RunFolder, inputs: DecisionInputs) -> pd.DataFrame:
    """Rows of the version of table ``evaluations`` that the inputs name. Raises TableError where it is gone or was changed."""
    manifest = folder.tables.store.version(tables.EVALUATIONS.name, inputs.evaluations)
    folder.tables.store.verify(manifest)
    return folder.tables.read_version(tables.EVALUATIONS, manifest).to_pandas()


def decide_again(folder: RunFolder, inputs: DecisionInputs) -> Decision:
    """Decide from the stored scores. Raises TableError where they were changed."""
    return take(inputs, scores_of(evaluation_scores(folder, inputs), inputs.prompts, inputs.score_names))


def replay_decision(folder: RunFolder, decision: str = "") -> Replay:
    """Take a stored decision again and compare. Raises InputError and TableError as :func:`read_decision` and :func:`decide_again`."""
    stored = read_decision(folder, decision)
    inputs = inputs_of(stored.document())
    again = decide_again(folder, inputs)
    return Replay(stored, again, tuple(_wrong(stored, again)), tuple(_changed(folder, stored, inputs)))


def changed_files(runs: Path, record: DecisionRecord) -> list[Difference]:
    """Files of the adapter and its base network that are gone or have another hash; their paths are relative to ``runs``."""
    return list(_changed_files(runs, record))


def _file(decision_id: str) -> str:
    return f"{FOLDER}/{decision_id}.json"


def _checked_id(decision: str) -> str:
    if not decision.isalnum():
        raise InputError(f"decision {decision!r}", "the id of a decision", "avpref gate check --json")
    return decision


def _last(folder: RunFolder) -> str:
    return str(folder.tables.read(tables.GATE_DECISIONS)["gate_id"][0].as_py())


def _wrong(stored: DecisionRecord, again: Decision) -> Iterator[Difference]:
    fresh = json.loads(json.dumps(again.document()))
    for name, then in (("decision_id", stored.decision_id), ("verdict", stored.verdict)):
        if then != fresh[name]:
            yield Difference(name, then, str(fresh[name]))
    for what, named_hash, file_hashes in _weights(stored):
        if named_hash not in file_hashes:
            yield Difference(what, named_hash, ", ".join(file_hashes) or "no file")
    for dimension, comparison in fresh["evaluation"].items():
        yield from _numbers(f"{dimension} ", stored.evaluation.get(dimension, {}), comparison)
    for number, rule in enumerate(fresh["rules"]):
        before = stored.rules[number] if number < len(stored.rules) else {}
        yield from _numbers(f"rule {rule['rule']} {rule['dimension']} ", before, rule)
    for before, metric in zip(stored.metrics, fresh["metrics"], strict=False):
        yield from _numbers(f"{metric['name']} ", before, metric)


def _weights(record: DecisionRecord) -> Iterator[tuple[str, str, list[str]]]:
    """The networks that the decision is about: a label, the hash in its inputs, and the hashes of the recorded files."""
    yield "hash of the adapter", record.adapter_hash, [file.sha256 for file in record.files_of(ADAPTER)]
    yield "hash of the checkpoint", record.reference_hash, [file.sha256 for file in record.files_of(CHECKPOINT)]


def _numbers(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name, value in now.items():
        if name == "detail" or _same(then.get(name), value):
            continue
        yield Difference(what + name, str(then.get(name)), str(value))


def _same(then: object, now: object) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
    return then == now


def _changed(folder: RunFolder, stored: DecisionRecord, inputs: DecisionInputs) -> Iterator[Difference]:
    manifest = folder.tables.current(tables.EVALUATIONS.name)
    now = {
        "product version": (inputs.product_version, __version__),
        "evaluations": (inputs.evaluations, manifest.version if manifest else "none"),
        "norm": (inputs.norm_id, ", ".join(sorted(set(folder.tables.read(tables.NORMS)["norm_id"].to_pylist())))),
    }
    yield from (Difference(what, then, today) for what, (then, today) in now.items() if then != today)
    then, settings = inputs.settings.model_dump(mode="json"), folder.settings.evaluation.model_dump(mode="json")
    for key in then:
        if then[key] != settings[key]:
            yield Difference(f"evaluation.{key}", str(then[key]), str(settings[key]))
    yield from _changed_files(folder.runs, stored)


def _changed_files(runs: Path, record: DecisionRecord) -> Iterator[Difference]:
    for file in record.files:
        path = runs / file.path
        now = sha256_of(path) if path.exists() else "no file"
        if now != file.sha256:
            yield Difference(file.path, file.sha256, now)
