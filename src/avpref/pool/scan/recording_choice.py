"""Which sources are used: of those that show the same, the best one; and the groups that training and held-out must not share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from avpref.pool.pool_tables import RecordingRow, SimilarRow
from avpref.pool.scan.duplicates import PART, SAME_BYTES, SAME_PICTURE, SAME_RECORDING, SAME_SHARE, groups


@dataclass(frozen=True)
class ReadableSource:
    """A source that can be decoded, in the order of the list; ``group_name`` is the list's, or empty."""

    source_id: str
    recording_id: str
    group_name: str
    num_pixels: int
    duration_s: float
    num_bytes: int

    @property
    def rank(self) -> tuple[int, float, int]:
        """The order in which sources that show the same are preferred: pixels, then length, then bytes."""
        return self.num_pixels, round(self.duration_s, 1), self.num_bytes


def choose(sources: Sequence[ReadableSource], similar: Sequence[SimilarRow], drops: bool) -> list[RecordingRow]:
    """A row per source, in order. Of equal bytes the first is used; with ``drops``, sources that show what a better one shows are not."""
    first_of: dict[str, ReadableSource] = {}
    for source in sources:
        first_of.setdefault(source.recording_id, source)
    group_of = _groups(sources, first_of, similar)
    better = _better(first_of, similar) if drops else {}
    rows = []
    for source in sources:
        reason, duplicate_of = "", ""
        first = first_of[source.recording_id]
        if source.source_id != first.source_id:
            reason, duplicate_of = SAME_BYTES, first.source_id
        elif source.recording_id in better:
            duplicate_of, reason = better[source.recording_id]
        group = group_of[source.recording_id]
        rows.append(RecordingRow(source.source_id, source.recording_id, group, not duplicate_of, reason, duplicate_of))
    return rows


def _groups(
    sources: Sequence[ReadableSource], first_of: Mapping[str, ReadableSource], similar: Sequence[SimilarRow]
) -> dict[str, str]:
    """Recording → group: similar recordings, and those that the list puts into one."""
    named: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if source.group_name:
            named[source.group_name].append(source.recording_id)
    links = [(row.recording_id, row.other_id) for row in similar]
    links += [(members[0], member) for members in named.values() for member in members[1:]]
    return {recording: f"g{group[1:]}" for recording, group in groups(list(first_of), links).items()}


def _better(first_of: Mapping[str, ReadableSource], similar: Sequence[SimilarRow]) -> dict[str, tuple[str, str]]:
    """Recordings that are not used → the used source that shows the same, and how. What is not used itself removes nothing."""
    options: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for worse, best, kind in sorted(_orders(first_of, similar)):
        options[worse].append((best, kind))
    outcome: dict[str, tuple[str, str] | None] = {}

    def decide(recording: str) -> tuple[str, str] | None:
        if recording not in outcome:
            outcome[recording] = None
            outcome[recording] = next((option for option in options[recording] if decide(option[0]) is None), None)
        return outcome[recording]

    chosen = {worse: decide(worse) for worse in sorted(options)}
    return {worse: (first_of[option[0]].source_id, option[1]) for worse, option in chosen.items() if option}


def _orders(first_of: Mapping[str, ReadableSource], similar: Sequence[SimilarRow]) -> Iterator[tuple[str, str, str]]:
    """(worse, better, kind) of each pair of which one is enough."""
    for row in similar:
        if row.kind == SAME_PICTURE or (row.kind == PART and row.picture_share < SAME_SHARE):
            continue
        pair = [row.recording_id, row.other_id]
        if row.kind == PART:
            pair.sort(key=lambda recording: (first_of[recording].duration_s, recording))
        else:
            pair.sort(key=lambda recording: (first_of[recording].rank, recording))
        yield pair[0], pair[1], f"{row.kind} as another" if row.kind == SAME_RECORDING else "a part of another"
