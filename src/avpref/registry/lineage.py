"""Resolves ids, and finds the adapters that a clip touched. docs/lineage.md explains the terms.

The first letter of an id names its table (c candidate, x pair, p prompt, n norm, g decision). Hexadecimal digits are an adapter, a
checkpoint or a clip's SHA-256; anything else is a run, a record or an alias.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from avpref.errors import InputError
from avpref.registry.adapter_records import AdapterRecord
from avpref.registry.aliases import newest
from avpref.registry.catalog import Row, RunCatalog, TableVersion

SHOWN = 5
SHORTEST = 4
"""Shorter beginnings are not resolved: they would match too many ids."""


class Kind(StrEnum):
    """The kind of thing that an id names."""

    ADAPTER = "adapter"
    CHECKPOINT = "checkpoint"
    CLIP = "clip"
    CANDIDATE = "candidate"
    PAIR = "pair"
    PROMPT = "prompt"
    NORM = "norm"
    DECISION = "decision"


LETTERS = {
    "x": (Kind.PAIR, "pairs", "pair_id"),
    "p": (Kind.PROMPT, "prompts", "prompt_id"),
    "n": (Kind.NORM, "norms", "norm_id"),
    "g": (Kind.DECISION, "gate_decisions", "gate_id"),
}


@dataclass(frozen=True)
class Match:
    """A resolved id: its kind and the whole id. ``candidates`` are a clip's; ``run_id`` is set where the text names a run."""

    kind: Kind
    id: str
    candidates: tuple[str, ...] = ()
    run_id: str = ""


class Role(StrEnum):
    """The role of a clip for an adapter, the strongest first: trained on, or only compared with the clips that were."""

    CHOSEN = "chosen"
    REJECTED = "rejected"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Touch:
    """An adapter that a clip touched: in which role, and through which pairs (none for a mere candidate)."""

    record: AdapterRecord
    role: Role
    pairs: tuple[str, ...]


def resolve(catalog: RunCatalog, text: str) -> Match:
    """The thing that ``text`` names: a whole id, or an unambiguous beginning of one.

    Raises InputError where no id begins like that, or where several do, naming them.
    """
    named = _named(catalog, text)
    is_whole = any(text == match.run_id for match in named) or text in catalog.names
    matches = named if is_whole else _distinct([*named, *_hashed(catalog, text)])
    exact = [match for match in matches if match.id == text]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if matches:
        names = ", ".join(f"{match.kind} {match.id}" for match in matches[:SHOWN])
        raise InputError(f"{text!r} may mean {len(matches)} things: {names}", "one of them", "give more of the id")
    known = [record.policy_hash for record in catalog.records] + [version.run_id for version in catalog.sealed]
    near = difflib.get_close_matches(text, sorted(set(known)), n=3, cutoff=0.4)
    expected = f"an id such as {', '.join(near)}" if near else "an id of a run, adapter, clip, pair, prompt, norm, …"
    raise InputError(
        f"nothing in {catalog.runs} is called {text!r}", expected, f"avpref runs list --runs {catalog.runs}"
    )


def record_of(catalog: RunCatalog, match: Match) -> AdapterRecord:
    """The record of an adapter: preferably of the named run, then a promoted one, then one of the run's current tables."""

    def preference(record: AdapterRecord) -> tuple[bool, bool, bool, str]:
        version = catalog.version(record, "pairs")
        is_current = version is not None and version.is_current
        return record.run_id != match.run_id, not record.is_promoted, not is_current, record.run_id

    return min((record for record in catalog.records if record.policy_hash == match.id), key=preference)


def touched(catalog: RunCatalog, candidates: Sequence[str]) -> list[Touch]:
    """The adapters of any run that the clips touched, in the order of the runs.

    A pair's clips are candidates of the table version that its adapter's record names, so pairs of other runs are not read.
    """
    holding = {id(version) for name in candidates for version in catalog.holding(name)}
    records = [record for record in catalog.records if id(catalog.version(record, "candidates")) in holding]
    pairs = [(record, catalog.version(record, "pairs")) for record in records]
    versions = {id(version): version for _, version in pairs if version is not None}
    rows = catalog.select("pairs_of_clips", versions.values(), ids=list(candidates))
    touches = []
    for record, version in pairs:
        own = [row for source, row in rows if source is version]
        role = Role.CANDIDATE
        if own:
            role = Role.CHOSEN if any(row["chosen"] in candidates for row in own) else Role.REJECTED
        touches.append(Touch(record, role, tuple(str(row["pair_id"]) for row in own)))
    return touches


def adapters_of_pairs(catalog: RunCatalog, versions: Sequence[TableVersion]) -> list[AdapterRecord]:
    """The adapters that were trained on any of these versions of table ``pairs``."""
    return [
        record for record in catalog.records if any(catalog.version(record, "pairs") is version for version in versions)
    ]


def aliases_of(catalog: RunCatalog, record: AdapterRecord) -> list[str]:
    """The aliases under which an adapter of a run serves now."""
    return sorted(
        alias
        for alias, move in newest(catalog.moves).items()
        if (named := catalog.names.get(move.adapter)) is not None
        and (named.policy_hash, named.run_id) == (record.policy_hash, record.run_id)
    )


def norms_of(catalog: RunCatalog, version: TableVersion | None, norm_id: str) -> list[Row]:
    """The statistics of one norm in a sealed version of table ``norms``."""
    return [row for _, row in catalog.rows([version] if version else [], "norm_id", [norm_id])]


def _named(catalog: RunCatalog, text: str) -> list[Match]:
    """Adapters whose alias, record or run is called ``text``, or whose run's id begins with it."""
    moves = newest(catalog.moves)
    records = [
        catalog.names[move.adapter] for alias, move in moves.items() if alias == text and move.adapter in catalog.names
    ]
    records += [record for name, record in catalog.names.items() if name == text]
    if records:
        return _distinct([_adapter(record) for record in records])
    of_run = [record for record in catalog.records if record.run_id == text]
    if len(text) >= SHORTEST and not of_run:
        of_run = [record for record in catalog.records if record.run_id.startswith(text)]
    return _current(catalog, [_adapter(record) for record in of_run])


def _adapter(record: AdapterRecord) -> Match:
    return Match(Kind.ADAPTER, record.policy_hash, run_id=record.run_id)


def _current(catalog: RunCatalog, matches: list[Match]) -> list[Match]:
    """Of several adapters of a run, the one that was trained on the run's current pairs; all of them where there is none."""
    current = {id(version) for version in catalog.versions("pairs") if version.is_current}
    on_current = [match for match in matches if id(catalog.version(record_of(catalog, match), "pairs")) in current]
    return _distinct(on_current or matches)


def _hashed(catalog: RunCatalog, text: str) -> Iterator[Match]:
    """Everything whose id or hash begins with ``text``."""
    if len(text) < SHORTEST:
        return
    for name, record in catalog.names.items():
        if name.startswith(text):
            yield _adapter(record)
    for record in catalog.records:
        if record.policy_hash.startswith(text):
            yield Match(Kind.ADAPTER, record.policy_hash)
        if record.checkpoint_sha256.startswith(text):
            yield Match(Kind.CHECKPOINT, record.checkpoint_sha256)
    if text[0] in LETTERS:
        kind, table, column = LETTERS[text[0]]
        for name in catalog.values(catalog.versions(table), column, text):
            yield Match(kind, name)
    for name in catalog.candidate_ids(text):
        yield Match(Kind.CANDIDATE, name, (name,))
    yield from _clips(catalog, text)
    if text[0] == "c":
        for name in catalog.values(catalog.versions("evaluations"), "candidate_id", text):
            yield Match(Kind.CANDIDATE, name, (name,))


def _clips(catalog: RunCatalog, text: str) -> Iterator[Match]:
    owners = catalog.candidate_ids_of_clip(text)[: SHOWN + 1]
    versions = {id(version): version for name in owners for version in catalog.holding(name)[:1]}
    by_hash: dict[str, set[str]] = {}
    for _, row in catalog.rows(versions.values(), "candidate_id", owners):
        if str(row["sha256"]).startswith(text):
            by_hash.setdefault(str(row["sha256"]), set()).add(str(row["candidate_id"]))
    for sha256, names in sorted(by_hash.items()):
        yield Match(Kind.CLIP, sha256, tuple(sorted(names)))


def _distinct(matches: Sequence[Match]) -> list[Match]:
    """Each kind and id once: a clip under two ids, or an adapter in two runs, is one thing."""
    by_id: dict[tuple[Kind, str], Match] = {}
    for match in matches:
        by_id.setdefault((match.kind, match.id), match)
    return list(by_id.values())
