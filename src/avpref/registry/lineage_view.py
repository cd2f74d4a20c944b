"""What ``avpref lineage show`` answers: from an adapter down to its clips, and from anything else up to the adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avpref.domain import METRICS
from avpref.registry import lineage
from avpref.registry.adapter_records import AdapterRecord
from avpref.registry.catalog import Archive, Row, Sealed
from avpref.registry.lineage import Found, Kind, Touch

Document = dict[str, Any]

NOT_LIMITED = 1 << 62
CLIP_COLUMNS = (
    *("candidate_id", "prompt_id", "index", "origin", "seed", "path", "sha256", "checkpoint_hash", "adapter_hash"),
    *("sampler_hash", "sampler", "num_frames", "height_px", "width_px", "fps_hz", "sample_rate_hz", "duration_s"),
)
PROMPT_CLIP_COLUMNS = ("candidate_id", "index", "origin", "seed")
PROMPT_PAIR_COLUMNS = (
    "pair_id",
    "chosen",
    "rejected",
    *(f"margin_{name}" for name in ("video", "audio", "av", "total")),
)
SCORE_COLUMNS = ("metric", "value", "status", "reason", "scorer", "fingerprint", "licence", "is_meaningful")
STATISTICS = ("metric", "population", "count", "mean", "std", "q05", "q25", "q50", "q75", "q95")
RULE_COLUMNS = ("rule", "dimension", "value", "bound", "passed", "detail")
MADE_BY = ("product_version", "settings_hash", "seed", "checkpoint_sha256", "checkpoint", "adapter")


def document(archive: Archive, given: str, limit: int | None) -> Document:
    """The lineage of ``given``; at most ``limit`` rows of each list (None: all). Raises as the functions of avpref.registry.lineage."""
    found = lineage.find(archive, given)
    answer: Mapping[Kind, Callable[[Archive, Found, int], Document]] = {
        Kind.ADAPTER: adapter,
        Kind.CHECKPOINT: checkpoint,
        Kind.CLIP: clip,
        Kind.CANDIDATE: clip,
        Kind.PAIR: pair,
        Kind.PROMPT: prompt,
        Kind.NORM: norm,
        Kind.DECISION: decision,
    }
    shown = answer[found.kind](archive, found, NOT_LIMITED if limit is None else limit)
    return {"kind": str(found.kind), "id": found.id, **shown, "missing": list(archive.missing)}


def adapter(archive: Archive, found: Found, limit: int) -> Document:
    """Down: what made the adapter, what it was trained on, clip by clip, and what was decided about it."""
    record = lineage.record_of(archive, found)
    pairs = archive.version(record, "pairs")
    counts = dict(archive.rows_of("pair_counts", pairs)[0]) if pairs else {}
    rows = archive.rows_of("first_rows", pairs, limit=limit) if pairs else []
    norm_id = str(record.document.get("norm_id", ""))
    return {
        **_adapter(archive, record),
        **{name: record.document.get(name) for name in MADE_BY},
        "config": f"{record.run_id}/config.yaml",
        "record": str(record.path.relative_to(archive.runs)),
        "pairs_hash": record.document.get("pairs_hash"),
        "tables": _tables(archive, record),
        "counts": counts | _sizes(archive, record),
        "scorers": _scorers(archive, record),
        "norm": {"norm_id": norm_id, "metrics": _norm(archive, archive.version(record, "norms"), norm_id)},
        "pairs": _pairs(archive, record, rows),
        "decisions": _decisions(archive, record),
        "other_runs": sorted({one.run_id for one in archive.records if one.policy_hash == found.id} - {record.run_id}),
    }


def clip(archive: Archive, found: Found, limit: int) -> Document:
    """Up: where a clip stands, what it scored, and which adapters it touched as what."""
    names = list(found.candidates)
    holding = {id(each): each for name in names for each in archive.holding(name)}
    here = list(holding.values())
    rows = archive.rows(here[:1], "candidate_id", names)
    touches = lineage.touched(archive, names)
    evaluated = archive.rows(archive.versions("evaluations"), "candidate_id", names)
    first = next((where.run_id for where in [*here, *(where for where, _ in evaluated)]), "")
    current = archive.current("scores", first) if first else None
    scores = archive.rows([current] if current else [], "candidate_id", names, SCORE_COLUMNS)
    asked = {str(row["prompt_id"]) for _, row in [*rows, *evaluated]}
    return {
        "clips": [{name: row[name] for name in CLIP_COLUMNS} for _, row in rows],
        "prompts": _prompts(archive, asked, first),
        "runs": sorted({each.run_id for each in here}),
        "scores": [{"run_id": where.run_id, **row} for where, row in scores],
        "adapters": [_touch(archive, touch, limit) for touch in touches],
        "counts": {"adapters": len(touches), "pairs": sum(len(touch.pairs) for touch in touches)},
        "evaluations": _evaluations(archive, evaluated),
    }


def pair(archive: Archive, found: Found, limit: int) -> Document:
    """One pair in every run that has it: both sides, the margins, and the adapters that were trained on it."""
    rows = archive.rows(archive.with_value(archive.versions("pairs"), "pair_id", [found.id]), "pair_id", [found.id])
    records = lineage.adapters_of_pairs(archive, [where for where, _ in rows])
    where, row = rows[0]
    record = next((one for one in records if archive.version(one, "pairs") is where), None)
    beside = archive.version(record, "candidates") if record else archive.current("candidates", where.run_id)
    return {
        **_pair(row, _clips(archive, beside, [row])),
        "prompts": _prompts(archive, {str(row["prompt_id"])}, where.run_id),
        "runs": [
            {"run_id": each.run_id, "version": each.version, **_margins(other), "norm_id": other["norm_id"]}
            for each, other in rows
        ],
        "adapters": [_adapter(archive, record) for record in records],
    }


def prompt(archive: Archive, found: Found, limit: int) -> Document:
    """A prompt, its clips in every run, its pairs, and the adapters that were trained on one of them."""
    clips = archive.rows(archive.versions("candidates"), "prompt_id", [found.id], PROMPT_CLIP_COLUMNS)
    pairs = archive.rows(archive.versions("pairs"), "prompt_id", [found.id], PROMPT_PAIR_COLUMNS)
    records = lineage.adapters_of_pairs(archive, [where for where, _ in pairs])
    names = {str(row["candidate_id"]) for _, row in clips}
    return {
        "prompts": _prompts(archive, {found.id}, ""),
        "counts": {"candidates": len(names), "pairs": len(pairs), "adapters": len(records)},
        "clips": _first([{"run_id": where.run_id, **row} for where, row in clips], limit),
        "pairs": _first([_narrow_pair(where, row) for where, row in pairs], limit),
        "adapters": [_adapter(archive, record) for record in records],
    }


def checkpoint(archive: Archive, found: Found, limit: int) -> Document:
    """A network: the candidates that it made, run by run, and the adapters that were trained on top of it."""
    made = archive.select("checkpoint_counts", archive.versions("candidates"), checkpoint=found.id)
    records = [record for record in archive.records if record.checkpoint_sha256 == found.id]
    return {
        "candidates": [{"run_id": where.run_id, "version": where.version, **row} for where, row in made],
        "adapters": [_adapter(archive, record) for record in records],
    }


def norm(archive: Archive, found: Found, limit: int) -> Document:
    """A norm's numbers, the runs that stand on it, and the adapters whose pairs it normalised."""
    rows = archive.rows(archive.versions("norms"), "norm_id", [found.id])
    first = [row for where, row in rows if where is rows[0][0]]
    records = [record for record in archive.records if record.document.get("norm_id") == found.id]
    return {
        "metrics": [_only(row, STATISTICS) for row in first],
        "runs": sorted({where.run_id for where, _ in rows}),
        "adapters": [_adapter(archive, record) for record in records],
    }


def decision(archive: Archive, found: Found, limit: int) -> Document:
    """A gate's decision: its rules, and the adapter that it was about."""
    rows = archive.rows(archive.versions("gate_decisions"), "gate_id", [found.id])
    versions = {id(where): where for where, _ in rows}
    about = [
        record
        for record in archive.records
        for where in versions.values()
        if where.run_id == record.run_id and record.tables.get("gate_decisions", where.version) == where.version
    ]
    first = [row for where, row in rows if where is rows[0][0]]
    return {
        "verdict": first[0]["verdict"],
        "inputs_hash": first[0]["inputs_hash"],
        "rules": [_only(row, RULE_COLUMNS) for row in first],
        "runs": sorted({where.run_id for where, _ in rows}),
        "adapters": [_adapter(archive, record) for record in about],
    }


def _adapter(archive: Archive, record: AdapterRecord) -> Document:
    return {
        "policy_hash": record.policy_hash,
        "run_id": record.run_id,
        "is_promoted": record.is_promoted,
        "serves_as": lineage.aliases_of(archive, record),
    }


def _touch(archive: Archive, touch: Touch, limit: int) -> Document:
    decisions = _decisions(archive, touch.record)
    return {
        **_adapter(archive, touch.record),
        "role": str(touch.role),
        "pairs": _first(list(touch.pairs), limit),
        "decisions": [{name: each[name] for name in ("gate_id", "verdict")} for each in decisions],
    }


def _tables(archive: Archive, record: AdapterRecord) -> dict[str, Document]:
    """Version, rows and hashes of every table that the adapter came from."""
    found = {}
    for name, version in record.tables.items():
        sealed = archive.version(record, name)
        files = [{"name": file.name, "sha256": file.sha256} for file in sealed.manifest.files] if sealed else []
        found[name] = {"version": version, "rows": sealed.manifest.rows if sealed else None, "files": files}
    return found


def _scorers(archive: Archive, record: AdapterRecord) -> list[Row]:
    version = archive.version(record, "scores")
    return archive.rows_of("scorers", version) if version else []


def _sizes(archive: Archive, record: AdapterRecord) -> dict[str, int]:
    sealed = {name: archive.version(record, name) for name in ("prompts", "candidates", "scores")}
    return {f"all_{name}": version.manifest.rows for name, version in sealed.items() if version is not None}


def _norm(archive: Archive, version: Sealed | None, norm_id: str) -> list[Document]:
    return [_only(row, STATISTICS) for row in lineage.norms_of(archive, version, norm_id)]


def _pairs(archive: Archive, record: AdapterRecord, rows: Sequence[Row]) -> list[Document]:
    clips = _clips(archive, archive.version(record, "candidates"), rows)
    texts = {each["prompt_id"]: each["text"] for each in _prompts_in(archive, record, rows)}
    return [{**_pair(row, clips), "prompt": texts.get(row["prompt_id"])} for row in rows]


def _clips(archive: Archive, version: Sealed | None, rows: Sequence[Row]) -> dict[str, Row]:
    names = [str(row[side]) for row in rows for side in ("chosen", "rejected")]
    found = archive.rows([version] if version else [], "candidate_id", names)
    return {str(row["candidate_id"]): row for _, row in found}


def _prompts_in(archive: Archive, record: AdapterRecord, rows: Sequence[Row]) -> list[Row]:
    version = archive.version(record, "prompts")
    return [row for _, row in archive.rows([version] if version else [], "prompt_id", [r["prompt_id"] for r in rows])]


def _pair(row: Row, clips: Mapping[str, Row]) -> Document:
    return {
        **{name: row[name] for name in ("pair_id", "prompt_id", "strategy", "norm_id")},
        **_margins(row),
        "chosen": _side(row, "chosen", clips),
        "rejected": _side(row, "rejected", clips),
    }


def _side(row: Row, side: str, clips: Mapping[str, Row]) -> Document:
    """One side of a pair: its clip with seed and hashes, and its scores as the pair table holds them, raw and normalised."""
    found = clips.get(str(row[side]))
    scores = {metric.name: row[f"{side}_{metric.name}"] for metric in METRICS}
    return {
        "candidate_id": row[side],
        **(_only(found, CLIP_COLUMNS[2:]) if found is not None else {"origin": row[f"{side}_origin"]}),
        "scores": scores,
        "normalised": {metric.name: row[f"{side}_{metric.name}_normalised"] for metric in METRICS},
    }


def _margins(row: Row) -> Document:
    return {"margins": {name: row[f"margin_{name}"] for name in ("video", "audio", "av", "total")}}


def _narrow_pair(where: Sealed, row: Row) -> Document:
    return {"run_id": where.run_id, **_only(row, ("pair_id", "chosen", "rejected")), **_margins(row)}


def _prompts(archive: Archive, names: set[str], run: str) -> list[Document]:
    """Prompts by id, as one run has them (any that does, without ``run``): the same id is the same text everywhere."""
    versions = archive.versions("prompts", run)
    rows = archive.rows(
        versions if run else archive.with_value(versions, "prompt_id", sorted(names))[:1], "prompt_id", sorted(names)
    )
    found: dict[str, Document] = {}
    for _, row in rows:
        found.setdefault(str(row["prompt_id"]), dict(row))
    return list(found.values())


def _decisions(archive: Archive, record: AdapterRecord) -> list[Document]:
    """Decisions about an adapter: those that its record names, else those of its run."""
    named = archive.version(record, "gate_decisions")
    versions = [named] if named else archive.versions("gate_decisions", record.run_id)
    found: dict[str, Document] = {}
    for version in versions:
        for row in archive.rows_of("first_rows", version, limit=NOT_LIMITED):
            rules = found.setdefault(
                row["gate_id"], {"gate_id": row["gate_id"], "verdict": row["verdict"], "rules": []}
            )
            rules["rules"].append(_only(row, RULE_COLUMNS))
    return list(found.values())


def _evaluations(archive: Archive, rows: Sequence[tuple[Sealed, Row]]) -> list[Document]:
    """In which evaluations the clip was compared, on which side, and its numbers there."""
    found: dict[tuple[str, str, str], Document] = {}
    for where, row in rows:
        key = where.run_id, str(row["evaluation_id"]), str(row["side"])
        names = ("run_id", "evaluation_id", "side")
        one = found.setdefault(key, {**dict(zip(names, key, strict=True)), "score": {}, "reward": {}})
        one[row["kind"]][row["name"]] = row["value"]
    return list(found.values())


def _only(row: Row, names: Sequence[str]) -> Document:
    return {name: row[name] for name in names}


def _first(rows: list[Any], limit: int) -> list[Any]:
    return rows[:limit]
