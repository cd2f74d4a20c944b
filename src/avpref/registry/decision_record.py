"""The document of a gate's decision as a dataclass: verdict, rules, inputs, lineage and files of the adapter.

It is stored twice with the same keys: as ``decisions/<id>.json`` of the run, and, once the adapter is promoted, as
``registry/adapters/<id>.json`` beside the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from avpref.domain import SCHEMA_VERSION
from avpref.errors import TableError

ADAPTER, CHECKPOINT, SUMMARY = "adapter", "checkpoint", "summary"
"""Roles of the files of a decision: the adapter that serves, its base network, and the summary that training wrote."""


@dataclass(frozen=True)
class RecordedFile:
    """A file that the decision is about; ``path`` is relative to the folder of runs, ``role`` one of the roles above."""

    role: str
    path: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class DecisionRecord:
    """A decision as it is stored. The fields are the document's keys, in its order.

    ``rules``, ``evaluation`` and ``inputs`` are as :meth:`avpref.datasets.evidence.decision.Decision.document` wrote them;
    :func:`avpref.datasets.evidence.decision.inputs_of` reads the inputs back. ``lineage`` holds everything that the adapter
    came from. ``metrics`` (comparisons of single metrics) is empty in decisions that were taken before there were judges.
    """

    schema_version: int
    decision_id: str
    verdict: str
    reasons: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...]
    evaluation: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Any]
    lineage: Mapping[str, Any]
    files: tuple[RecordedFile, ...]
    metrics: tuple[Mapping[str, Any], ...] = ()

    @staticmethod
    def from_document(document: Mapping[str, Any], uri: str) -> DecisionRecord:
        """Read a parsed document. Raises TableError that names ``uri`` for a wrong, missing or unknown key."""
        names = [field.name for field in fields(DecisionRecord)]
        wrong = [f"no key '{name}'" for name in names if name not in document and name not in _ADDED]
        wrong += [f"unknown key '{name}'" for name in document if name not in names]
        wrong += [f"no '{name}' in 'inputs'" for name in _HASHES if name not in _mapping(document.get("inputs"))]
        if wrong:
            raise _unreadable(uri, wrong[0])
        if document["schema_version"] != SCHEMA_VERSION:
            found = f"{uri} has schema version {document['schema_version']}"
            raise TableError(found, f"schema version {SCHEMA_VERSION}", "use the version of avpref that made it")
        try:
            files = tuple(RecordedFile(**file) for file in document["files"])
        except TypeError as error:
            raise _unreadable(uri, str(error)) from error
        sequences = {name: tuple(document.get(name, ())) for name in ("reasons", "rules", "metrics")}
        return DecisionRecord(**{**document, **sequences, "files": files})

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :meth:`from_document` reads them back."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {"reasons": list(self.reasons), "rules": list(self.rules), "metrics": list(self.metrics)}
        return {**plain, **lists, "files": [asdict(file) for file in self.files]}

    @property
    def policy_hash(self) -> str:
        """Hash of the policy: base network and adapter."""
        return str(self.inputs["policy_hash"])

    @property
    def adapter_hash(self) -> str:
        """SHA-256 of the adapter's weights."""
        return str(self.inputs["adapter_hash"])

    @property
    def reference_hash(self) -> str:
        """SHA-256 of the SFT network that the adapter was compared with."""
        return str(self.inputs["reference_hash"])

    def files_of(self, role: str) -> list[RecordedFile]:
        """The files of one role."""
        return [file for file in self.files if file.role == role]


_ADDED = ("metrics",)
"""Keys that older decisions lack."""
_HASHES = ("policy_hash", "adapter_hash", "reference_hash")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _unreadable(uri: str, reason: str) -> TableError:
    return TableError(f"{uri}: {reason}", "a decision that this product wrote", "restore it from a copy")
