"""What an id means, and which adapters a clip touched. See docs/lineage.md for the words.

Every id is looked for as what it can be: the letter in front says which table (c candidate, x pair, p prompt, n norm, g
decision); hexadecimal digits are an adapter, a checkpoint or a clip's SHA-256; anything else is a run, a record or an alias.
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
"""Fewer characters are not looked for: they would mean too much."""


class Kind(StrEnum):
    """What an id can be of."""

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
class Found:
    """What an id means: its kind and the whole id. ``candidates`` are a clip's; ``run_id`` is set where a run was named."""

    kind: Kind
    id: str
    candidates: tuple[str, ...] = ()
    run_id: str = ""


class Role(StrEnum):
    """What a clip was to an adapter, the strongest first: trained on, or only compared with those that were."""

    CHOSEN = "chosen"
    REJECTED = "rejected"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Touch:
    """An adapter that a clip touched: as what, and through which pairs (none for one that was only a candidate)."""

    record: AdapterRecord
    role: Role
    pairs: tuple[str, ...]


def find(catalog: RunCatalog, given: str) -> Found:
    """What ``given`` means: a whole id, or an unambiguous beginning of one.

    Raises InputError where nothing begins like that, or several things do, naming them.
    """
    named = _named(catalog, given)
    is_whole = any(given == each.run_id for each in named) or given in catalog.names
    found = named if is_whole else _distinct([*named, *_hashed(catalog, given)])
    whole = [each for each in found if each.id == given]
    if len(whole or found) == 1:
        return (whole or found)[0]
    if found:
        names = ", ".join(f"{each.kind} {each.id}" for each in found[:SHOWN])
        raise InputError(f"{given!r} may mean {len(found)} things: {names}", "one of them", "give more of the id")
    known = [record.policy_hash for record in catalog.records] + [each.run_id for each in catalog.sealed]
    near = difflib.get_close_matches(given, sorted(set(known)), n=3, cutoff=0.4)
    expected = f"an id such as {', '.join(near)}" if near else "an id of a run, adapter, clip, pair, prompt, norm, …"
    raise InputError(
        f"nothing in {catalog.runs} is called {given!r}", expected, f"avpref runs list --runs {catalog.runs}"
    )


def record_of(catalog: RunCatalog, found: Found) -> AdapterRecord:
    """The record of an adapter: of the run named, a promoted one, one of the tables that its run stands on now."""

    def place(record: AdapterRecord) -> tuple[bool, bool, bool, str]:
        version = catalog.version(record, "pairs")
        is_current = version is not None and version.is_current
        return record.run_id != found.run_id, not record.is_promoted, not is_current, record.run_id

    return min((record for record in catalog.records if record.policy_hash == found.id), key=place)


def touched(catalog: RunCatalog, candidates: Sequence[str]) -> list[Touch]:
    """The adapters of any run of the folder that clips touched, in the order of the runs.

    A pair's clips are candidates of the table version that its record names, so the pairs of other runs are not read.
    """
    holding = {id(each) for name in candidates for each in catalog.holding(name)}
    among = [record for record in catalog.records if id(catalog.version(record, "candidates")) in holding]
    pairs = [(record, catalog.version(record, "pairs")) for record in among]
    wanted = {id(version): version for _, version in pairs if version is not None}
    rows = catalog.select("pairs_of_clips", wanted.values(), ids=list(candidates))
    found = []
    for record, version in pairs:
        own = [row for where, row in rows if where is version]
        role = Role.CANDIDATE
        if own:
            role = Role.CHOSEN if any(row["chosen"] in candidates for row in own) else Role.REJECTED
        found.append(Touch(record, role, tuple(str(row["pair_id"]) for row in own)))
    return found


def adapters_of_pairs(catalog: RunCatalog, versions: Sequence[TableVersion]) -> list[AdapterRecord]:
    """The adapters that were trained on any of these versions of table ``pairs``."""
    return [record for record in catalog.records if any(catalog.version(record, "pairs") is each for each in versions)]


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


def _named(catalog: RunCatalog, given: str) -> list[Found]:
    """Runs, aliases and records that are called ``given``, or begin like it."""
    now = newest(catalog.moves)
    names = [
        catalog.names[move.adapter] for alias, move in now.items() if alias == given and move.adapter in catalog.names
    ]
    names += [record for name, record in catalog.names.items() if name == given]
    if names:
        return _distinct([Found(Kind.ADAPTER, record.policy_hash, run_id=record.run_id) for record in names])
    runs = [record for record in catalog.records if record.run_id == given]
    if len(given) >= SHORTEST and not runs:
        runs = [record for record in catalog.records if record.run_id.startswith(given)]
    return _of_now(catalog, [Found(Kind.ADAPTER, record.policy_hash, run_id=record.run_id) for record in runs])


def _of_now(catalog: RunCatalog, found: list[Found]) -> list[Found]:
    """Of several adapters of a run, the one that was trained on the pairs that the run stands on now."""
    current = {id(version) for version in catalog.versions("pairs") if version.is_current}
    now = [each for each in found if id(catalog.version(record_of(catalog, each), "pairs")) in current]
    return _distinct(now or found)


def _hashed(catalog: RunCatalog, given: str) -> Iterator[Found]:
    """Everything whose hash begins with ``given``."""
    if len(given) < SHORTEST:
        return
    for name, record in catalog.names.items():
        if name.startswith(given):
            yield Found(Kind.ADAPTER, record.policy_hash, run_id=record.run_id)
    for record in catalog.records:
        if record.policy_hash.startswith(given):
            yield Found(Kind.ADAPTER, record.policy_hash)
        if record.checkpoint_sha256.startswith(given):
            yield Found(Kind.CHECKPOINT, record.checkpoint_sha256)
    if given[0] in LETTERS:
        kind, table, column = LETTERS[given[0]]
        for name in catalog.values(catalog.versions(table), column, given):
            yield Found(kind, name)
    for name in catalog.candidate_ids(given):
        yield Found(Kind.CANDIDATE, name, (name,))
    yield from _clips(catalog, given)
    if given[0] == "c":
        for name in catalog.values(catalog.versions("evaluations"), "candidate_id", given):
            yield Found(Kind.CANDIDATE, name, (name,))


def _clips(catalog: RunCatalog, given: str) -> Iterator[Found]:
    owners = catalog.candidate_ids_of_clip(given)[: SHOWN + 1]
    somewhere = {id(where): where for name in owners for where in catalog.holding(name)[:1]}
    by_hash: dict[str, set[str]] = {}
    for _, row in catalog.rows(somewhere.values(), "candidate_id", owners):
        if str(row["sha256"]).startswith(given):
            by_hash.setdefault(str(row["sha256"]), set()).add(str(row["candidate_id"]))
    for sha256, names in sorted(by_hash.items()):
        yield Found(Kind.CLIP, sha256, tuple(sorted(names)))


def _distinct(found: Sequence[Found]) -> list[Found]:
    """Each kind and id once. The same clip under two ids, or adapter in two runs, is one thing."""
    kept: dict[tuple[Kind, str], Found] = {}
    for each in found:
        kept.setdefault((each.kind, each.id), each)
    return list(kept.values())
