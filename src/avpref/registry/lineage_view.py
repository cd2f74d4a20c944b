"""The answers of ``avpref lineage show``: from an adapter down to its clips, and from anything else up to the adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avpref.registry import lineage
from avpref.registry.adapter_records import AdapterRecord
from avpref.registry.catalog import Row, RunCatalog, TableVersion
from avpref.registry.lineage import Kind, Match, Touch

Document = dict[str, Any]

NOT_LIMITED = 1 << 62
CLIP_COLUMNS = (
    *("candidate_id", "prompt_id", "index", "origin", "seed", "path", "sha256", "checkpoint_hash", "adapter_hash"),
    *("sampler_hash", "sampler", "num_frames", "height_px", "width_px", "fps_hz", "sample_rate_hz", "duration_s"),
)
PROMPT_CLIP_COLUMNS = ("candidate_id", "index", "origin", "seed")
MARGIN, NORMALISED = "margin_", "_normalised"
"""Beginning of the names of margins, and end of the names of normalised scores, in the pair table."""
SCORE_COLUMNS = ("metric", "value", "status", "reason", "scorer", "fingerprint", "licence", "is_meaningful")
STATISTICS = ("metric", "population", "count", "mean", "std", "q05", "q25", "q50", "q75", "q95")
RULE_COLUMNS = ("rule", "dimension", "value", "bound", "passed", "detail")
MADE_BY = (
    *("product_version", "settings_hash", "seed", "checkpoint_sha256", "checkpoint", "adapter"),
    *("base_model", "base_licence"),
)
OF_A_ROUND = ("round", "previous_run", "start_policy_hash", "start_adapter_sha256")
"""Keys of the record of an adapter from a later round."""


def document(catalog: RunCatalog, text: str, limit: int | None) -> Document:
    """The lineage of the id ``text``; at most ``limit`` rows of each list (None: all). Raises as :func:`lineage.resolve`."""
    match = lineage.resolve(catalog, text)
    answers: Mapping[Kind, Callable[[RunCatalog, Match, int], Document]] = {
        Kind.ADAPTER: adapter,
        Kind.CHECKPOINT: checkpoint,
        Kind.CLIP: clip,
        Kind.CANDIDATE: clip,
        Kind.PAIR: pair,
        Kind.PROMPT: prompt,
        Kind.NORM: norm,
        Kind.DECISION: decision,
    }
    answer = answers[match.kind](catalog, match, NOT_LIMITED if limit is None else limit)
    return {"kind": str(match.kind), "id": match.id, **answer, "missing": list(catalog.missing)}


def adapter(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """From an adapter down: its settings and networks, the pairs that it was trained on, clip by clip, and the decisions on it."""
    record = lineage.record_of(catalog, match)
    pairs = catalog.version(record, "pairs")
    counts = dict(catalog.rows_of("pair_counts", pairs)[0]) if pairs else {}
    rows = catalog.rows_of("first_rows", pairs, limit=limit) if pairs else []
    norm_id = str(record.document.get("norm_id", ""))
    return {
        **_adapter(catalog, record),
        **{name: record.document.get(name) for name in MADE_BY},
        **{name: record.document[name] for name in OF_A_ROUND if name in record.document},
        "config": f"{record.run_id}/config.yaml",
        "record": str(record.path.relative_to(catalog.runs)),
        "pairs_hash": record.document.get("pairs_hash"),
        "tables": _tables(catalog, record),
        "counts": counts | _sizes(catalog, record),
        "scorers": _scorers(catalog, record),
        "norm": {"norm_id": norm_id, "metrics": _norm(catalog, catalog.version(record, "norms"), norm_id)},
        "pairs": _pairs(catalog, record, rows),
        "decisions": _decisions(catalog, record),
        "other_runs": sorted(
            {other.run_id for other in catalog.records if other.policy_hash == match.id} - {record.run_id}
        ),
    }


def clip(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """From a clip up: the runs that hold it, its scores, and the adapters that it touched, with its role."""
    names = list(match.candidates)
    by_id = {id(version): version for name in names for version in catalog.holding(name)}
    holding = list(by_id.values())
    rows = catalog.rows(holding[:1], "candidate_id", names)
    touches = lineage.touched(catalog, names)
    evaluated = catalog.rows(catalog.versions("evaluations"), "candidate_id", names)
    first = next((version.run_id for version in [*holding, *(version for version, _ in evaluated)]), "")
    current = catalog.current("scores", first) if first else None
    scores = catalog.rows([current] if current else [], "candidate_id", names, SCORE_COLUMNS)
    prompt_ids = {str(row["prompt_id"]) for _, row in [*rows, *evaluated]}
    return {
        "clips": [{name: row[name] for name in CLIP_COLUMNS} for _, row in rows],
        "prompts": _prompts(catalog, prompt_ids, first),
        "runs": sorted({version.run_id for version in holding}),
        "scores": [{"run_id": version.run_id, **row} for version, row in scores],
        "adapters": [_touch(catalog, touch, limit) for touch in touches],
        "counts": {"adapters": len(touches), "pairs": sum(len(touch.pairs) for touch in touches)},
        "evaluations": _evaluations(catalog, evaluated),
    }


def pair(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """A pair in every run that has it: both sides, the margins, and the adapters that were trained on it."""
    rows = catalog.rows(catalog.with_value(catalog.versions("pairs"), "pair_id", [match.id]), "pair_id", [match.id])
    records = lineage.adapters_of_pairs(catalog, [version for version, _ in rows])
    version, row = rows[0]
    record = next((record for record in records if catalog.version(record, "pairs") is version), None)
    candidates = catalog.version(record, "candidates") if record else catalog.current("candidates", version.run_id)
    return {
        **_pair(row, _clips(catalog, candidates, [row])),
        "prompts": _prompts(catalog, {str(row["prompt_id"])}, version.run_id),
        "runs": [
            {"run_id": source.run_id, "version": source.version, **_margins(other), "norm_id": other["norm_id"]}
            for source, other in rows
        ],
        "adapters": [_adapter(catalog, record) for record in records],
    }


def prompt(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """A prompt, its clips in every run, its pairs, and the adapters that were trained on one of them."""
    clips = catalog.rows(catalog.versions("candidates"), "prompt_id", [match.id], PROMPT_CLIP_COLUMNS)
    pairs = catalog.rows(catalog.versions("pairs"), "prompt_id", [match.id])
    records = lineage.adapters_of_pairs(catalog, [version for version, _ in pairs])
    names = {str(row["candidate_id"]) for _, row in clips}
    return {
        "prompts": _prompts(catalog, {match.id}, ""),
        "counts": {"candidates": len(names), "pairs": len(pairs), "adapters": len(records)},
        "clips": _first([{"run_id": version.run_id, **row} for version, row in clips], limit),
        "pairs": _first([_narrow_pair(version, row) for version, row in pairs], limit),
        "adapters": [_adapter(catalog, record) for record in records],
    }


def checkpoint(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """A base network: the number of candidates that it made, run by run, and the adapters that were trained on it."""
    made = catalog.select("checkpoint_counts", catalog.versions("candidates"), checkpoint=match.id)
    records = [record for record in catalog.records if record.checkpoint_sha256 == match.id]
    return {
        "candidates": [{"run_id": version.run_id, "version": version.version, **row} for version, row in made],
        "adapters": [_adapter(catalog, record) for record in records],
    }


def norm(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """The statistics of a norm, the runs that use it, and the adapters whose pairs it normalised."""
    rows = catalog.rows(catalog.versions("norms"), "norm_id", [match.id])
    first = [row for version, row in rows if version is rows[0][0]]
    records = [record for record in catalog.records if record.document.get("norm_id") == match.id]
    return {
        "metrics": [_only(row, STATISTICS) for row in first],
        "runs": sorted({version.run_id for version, _ in rows}),
        "adapters": [_adapter(catalog, record) for record in records],
    }


def decision(catalog: RunCatalog, match: Match, limit: int) -> Document:
    """A gate's decision: its rules, and the adapters that it was about."""
    rows = catalog.rows(catalog.versions("gate_decisions"), "gate_id", [match.id])
    versions = {id(version): version for version, _ in rows}
    about = [
        record
        for record in catalog.records
        for version in versions.values()
        if version.run_id == record.run_id and record.tables.get("gate_decisions", version.version) == version.version
    ]
    first = [row for version, row in rows if version is rows[0][0]]
    return {
        "verdict": first[0]["verdict"],
        "inputs_hash": first[0]["inputs_hash"],
        "rules": [_only(row, RULE_COLUMNS) for row in first],
        "runs": sorted({version.run_id for version, _ in rows}),
        "adapters": [_adapter(catalog, record) for record in about],
    }


def _adapter(catalog: RunCatalog, record: AdapterRecord) -> Document:
    return {
        "policy_hash": record.policy_hash,
        "run_id": record.run_id,
        "is_promoted": record.is_promoted,
        "serves_as": lineage.aliases_of(catalog, record),
    }


def _touch(catalog: RunCatalog, touch: Touch, limit: int) -> Document:
    decisions = _decisions(catalog, touch.record)
    return {
        **_adapter(catalog, touch.record),
        "role": str(touch.role),
        "pairs": _first(list(touch.pairs), limit),
        "decisions": [{name: decision[name] for name in ("gate_id", "verdict")} for decision in decisions],
    }


def _tables(catalog: RunCatalog, record: AdapterRecord) -> dict[str, Document]:
    """Version, number of rows and file hashes of every table that the adapter came from."""
    tables = {}
    for name, version in record.tables.items():
        sealed = catalog.version(record, name)
        files = [{"name": file.name, "sha256": file.sha256} for file in sealed.manifest.files] if sealed else []
        tables[name] = {"version": version, "rows": sealed.manifest.rows if sealed else None, "files": files}
    return tables


def _scorers(catalog: RunCatalog, record: AdapterRecord) -> list[Row]:
    version = catalog.version(record, "scores")
    return catalog.rows_of("scorers", version) if version else []


def _sizes(catalog: RunCatalog, record: AdapterRecord) -> dict[str, int]:
    sealed = {name: catalog.version(record, name) for name in ("prompts", "candidates", "scores")}
    return {f"all_{name}": version.manifest.rows for name, version in sealed.items() if version is not None}


def _norm(catalog: RunCatalog, version: TableVersion | None, norm_id: str) -> list[Document]:
    return [_only(row, STATISTICS) for row in lineage.norms_of(catalog, version, norm_id)]


def _pairs(catalog: RunCatalog, record: AdapterRecord, rows: Sequence[Row]) -> list[Document]:
    clips = _clips(catalog, catalog.version(record, "candidates"), rows)
    texts = {prompt["prompt_id"]: prompt["text"] for prompt in _prompts_in(catalog, record, rows)}
    return [{**_pair(row, clips), "prompt": texts.get(row["prompt_id"])} for row in rows]


def _clips(catalog: RunCatalog, version: TableVersion | None, rows: Sequence[Row]) -> dict[str, Row]:
    names = [str(row[side]) for row in rows for side in ("chosen", "rejected")]
    rows_of_clips = catalog.rows([version] if version else [], "candidate_id", names)
    return {str(row["candidate_id"]): row for _, row in rows_of_clips}


def _prompts_in(catalog: RunCatalog, record: AdapterRecord, rows: Sequence[Row]) -> list[Row]:
    version = catalog.version(record, "prompts")
    return [row for _, row in catalog.rows([version] if version else [], "prompt_id", [r["prompt_id"] for r in rows])]


def _pair(row: Row, clips: Mapping[str, Row]) -> Document:
    return {
        **{name: row[name] for name in ("pair_id", "prompt_id", "strategy", "norm_id")},
        **_margins(row),
        "chosen": _side(row, "chosen", clips),
        "rejected": _side(row, "rejected", clips),
    }


def _side(row: Row, side: str, clips: Mapping[str, Row]) -> Document:
    """A side of a pair: its clip with seed and hashes, and its scores in the pair table, raw and normalised."""
    clip = clips.get(str(row[side]))
    columns = [name for name in row if name.startswith(f"{side}_") and name.endswith(NORMALISED)]
    metrics = [name.removeprefix(f"{side}_").removesuffix(NORMALISED) for name in columns]
    return {
        "candidate_id": row[side],
        **(_only(clip, CLIP_COLUMNS[2:]) if clip is not None else {"origin": row[f"{side}_origin"]}),
        "scores": {name: row[f"{side}_{name}"] for name in metrics},
        "normalised": {name: row[f"{side}_{name}{NORMALISED}"] for name in metrics},
    }


def _margins(row: Row) -> Document:
    """Margins by dimension; a margin that is null belongs to a dimension of another run's pairs that were read with these."""
    names = [name for name in row if name.startswith(MARGIN) and row[name] is not None]
    return {"margins": {name.removeprefix(MARGIN): row[name] for name in names}}


def _narrow_pair(version: TableVersion, row: Row) -> Document:
    return {"run_id": version.run_id, **_only(row, ("pair_id", "chosen", "rejected")), **_margins(row)}


def _prompts(catalog: RunCatalog, names: set[str], run: str) -> list[Document]:
    """Prompts by id from ``run``, or from any run that has them version it is empty: an id names the same text everywhere."""
    versions = catalog.versions("prompts", run)
    rows = catalog.rows(
        versions if run else catalog.with_value(versions, "prompt_id", sorted(names))[:1], "prompt_id", sorted(names)
    )
    prompts: dict[str, Document] = {}
    for _, row in rows:
        prompts.setdefault(str(row["prompt_id"]), dict(row))
    return list(prompts.values())


def _decisions(catalog: RunCatalog, record: AdapterRecord) -> list[Document]:
    """The decisions on an adapter: those that its record names, or else those of its run."""
    named = catalog.version(record, "gate_decisions")
    versions = [named] if named else catalog.versions("gate_decisions", record.run_id)
    decisions: dict[str, Document] = {}
    for version in versions:
        for row in catalog.rows_of("first_rows", version, limit=NOT_LIMITED):
            decision = decisions.setdefault(
                row["gate_id"], {"gate_id": row["gate_id"], "verdict": row["verdict"], "rules": []}
            )
            decision["rules"].append(_only(row, RULE_COLUMNS))
    return list(decisions.values())


def _evaluations(catalog: RunCatalog, rows: Sequence[tuple[TableVersion, Row]]) -> list[Document]:
    """The evaluations that compared the clip: its side, its scores and rewards there, and those of judges if there are any."""
    evaluations: dict[tuple[str, str, str], Document] = {}
    for version, row in rows:
        key = version.run_id, str(row["evaluation_id"]), str(row["side"])
        names = ("run_id", "evaluation_id", "side")
        evaluation = evaluations.setdefault(key, {**dict(zip(names, key, strict=True)), "score": {}, "reward": {}})
        evaluation.setdefault(row["kind"], {})[row["name"]] = row["value"]
    return list(evaluations.values())


def _only(row: Row, names: Sequence[str]) -> Document:
    return {name: row[name] for name in names}


def _first(rows: list[Any], limit: int) -> list[Any]:
    return rows[:limit]
