"""Finds recordings that show the same: by the hashes of their pictures, then by the prints of their sound.

Candidates share the value of 20 bits, chosen in eight fixed ways, of some hash. For each pair the shift in time is found on which most
hashes agree (at most :data:`MAX_BITS` of 64 bits differ); then the sound is compared at that shift.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from avpref.pool.pool_tables import SimilarRow
from avpref.pool.scan.picture_hashes import EVERY_S, differing_bits
from avpref.pool.scan.sound_prints import EVERY_S as PRINT_S
from avpref.pool.scan.sound_prints import NO_PRINT

MAX_BITS = 10
KEY_BITS, NUM_KEYS, KEY_SEED = 20, 8, 20261128
MAX_BUCKET = 64
"""Recordings of one key that are all compared with each other; of a larger number, each is compared with the first."""
MAX_COMPARED = 1200
"""Hashes of a recording that are compared, the first ten minutes of it."""
MIN_MATCHES, MANY_MATCHES, MIN_SHARE, SAME_SHARE = 3, 8, 0.6, 0.8
MAX_SOUND_ERROR = 0.35
"""Largest share of differing bits between prints of the same sound (Haitsma and Kalker's threshold)."""
MIN_PRINTS = 10
PRINTS_PER_SLOT = round(EVERY_S / PRINT_S)
SAME_BYTES, SAME_RECORDING, PART, SAME_PICTURE = "same bytes", "same recording", "part", "same picture"


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """The hashes of a recording with their slots, and its prints."""

    recording_id: str
    hashes: NDArray[np.int64]
    slots: NDArray[np.int64]
    prints: NDArray[np.int64]


def similar(recordings: Sequence[Fingerprints]) -> list[SimilarRow]:
    """Pairs of recordings that share pictures, in the order of ids. Ids are distinct; the result does not depend on the order."""
    ordered = sorted(recordings, key=lambda recording: recording.recording_id)
    rows = (compare(ordered[first], ordered[second]) for first, second in sorted(_candidates(ordered)))
    return [row for row in rows if row is not None]


def _candidates(recordings: Sequence[Fingerprints]) -> set[tuple[int, int]]:
    """Pairs of indices of recordings that share a key, and of recordings without hashes that share prints."""
    hashed = [recording.hashes[:MAX_COMPARED] for recording in recordings]
    owners = np.repeat(np.arange(len(recordings)), [len(hashes) for hashes in hashed])
    values = np.concatenate([np.zeros(0, np.int64), *hashed]).view(np.uint64)
    pairs: set[tuple[int, int]] = set()
    for mask in _masks():
        pairs |= _sharing(values & mask, owners)
    dark = [index for index, hashes in enumerate(hashed) if not len(hashes)]
    prints = [np.unique(recordings[index].prints) for index in dark]
    sound_owners = np.repeat(np.array(dark, int), [len(values) for values in prints])
    sounds = np.concatenate([np.zeros(0, np.int64), *prints])
    is_print = sounds != NO_PRINT
    return pairs | _sharing(sounds[is_print].view(np.uint64), sound_owners[is_print])


def _masks() -> Iterator[np.uint64]:
    random = np.random.default_rng(KEY_SEED)
    for _ in range(NUM_KEYS):
        bits = random.choice(64, KEY_BITS, replace=False).astype(np.uint64)
        yield np.bitwise_or.reduce(np.left_shift(np.uint64(1), bits))


def _sharing(keys: NDArray[np.uint64], owners: NDArray[np.int_]) -> set[tuple[int, int]]:
    """Pairs of owners that share a key."""
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    edges = np.flatnonzero(np.diff(keys) != 0) + 1
    pairs: set[tuple[int, int]] = set()
    for bucket in np.split(owners, edges):
        if len(bucket) < 2 or bucket[0] == bucket[-1]:
            continue
        members = [int(member) for member in np.unique(bucket)]
        if len(members) <= MAX_BUCKET:
            pairs.update(combinations(members, 2))
        else:
            pairs.update((members[0], member) for member in members[1:])
    return pairs


def compare(first: Fingerprints, second: Fingerprints) -> SimilarRow | None:
    """How two recordings are alike; None where they share no pictures (or, without hashes of both, no sound)."""
    if not len(first.hashes) or not len(second.hashes):
        return _compare_sound(first, second)
    shift, matches, shared = _best_shift(first, second)
    fewer, more = sorted((min(len(first.hashes), MAX_COMPARED), min(len(second.hashes), MAX_COMPARED)))
    share, enough = matches / fewer, min(MIN_MATCHES, fewer)
    if matches < enough or (share < MIN_SHARE and matches < MANY_MATCHES) or matches < MIN_SHARE * shared:
        return None
    error = sound_error(first.prints, second.prints, shift)
    is_whole = share >= SAME_SHARE and matches >= SAME_SHARE * more
    kind = SAME_RECORDING if is_whole else PART
    if error is not None and error > MAX_SOUND_ERROR:
        kind = SAME_PICTURE
    return SimilarRow(first.recording_id, second.recording_id, kind, -shift * EVERY_S, min(1.0, share), error)


def _compare_sound(first: Fingerprints, second: Fingerprints) -> SimilarRow | None:
    """Recordings without pictures that have a hash are the same where their sound is, from the start and over the same length."""
    if len(first.hashes) or len(second.hashes):
        return None
    error = sound_error(first.prints, second.prints, 0)
    lengths = sorted((len(first.prints), len(second.prints)))
    if error is None or error > MAX_SOUND_ERROR or lengths[0] < SAME_SHARE * lengths[1]:
        return None
    return SimilarRow(first.recording_id, second.recording_id, SAME_RECORDING, 0.0, 0.0, error)


def _best_shift(first: Fingerprints, second: Fingerprints) -> tuple[int, int, int]:
    """The shift in slots (of the second to the first) on which most hashes agree, their number, and the slots that both have then."""
    a, b = first.hashes[:MAX_COMPARED], second.hashes[:MAX_COMPARED]
    slots_a, slots_b = first.slots[:MAX_COMPARED], second.slots[:MAX_COMPARED]
    rows, columns = np.nonzero(differing_bits(a[:, None], b[None, :]) <= MAX_BITS)
    if not len(rows):
        return 0, 0, 0
    shifts, counts = np.unique(slots_b[columns] - slots_a[rows], return_counts=True)
    best = int(shifts[np.lexsort((np.abs(shifts), -counts))[0]])
    shared = len(np.intersect1d(slots_a + best, slots_b, assume_unique=True))
    return best, int(counts.max()), shared


def sound_error(first: NDArray[np.int64], second: NDArray[np.int64], shift: int) -> float | None:
    """Share of differing bits of two recordings' prints where the second is ``shift`` slots later; None with too few prints.

    Without a shift the sounds may be 0.1 s apart (coders delay them); with one, half a slot more, because slots are coarse.
    """
    reach = 2 if shift == 0 else PRINTS_PER_SLOT
    errors = [_error_at(first, second, shift * PRINTS_PER_SLOT + lag) for lag in range(-reach, reach + 1)]
    valid = [error for error in errors if error is not None]
    return min(valid) if valid else None


def _error_at(first: NDArray[np.int64], second: NDArray[np.int64], lag: int) -> float | None:
    start = max(0, -lag)
    length = min(len(first) - start, len(second) - start - lag)
    if length < MIN_PRINTS:
        return None
    a, b = first[start : start + length], second[start + lag : start + lag + length]
    is_heard = (a != NO_PRINT) & (b != NO_PRINT)
    if is_heard.sum() < MIN_PRINTS:
        return None
    return float(differing_bits(a[is_heard], b[is_heard]).mean() / 32.0)


def groups(members: Sequence[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The group of each member: members that links connect, directly or not, are in one; it is named by its smallest member."""
    parent = {member: member for member in members}

    def root(member: str) -> str:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for first, second in links:
        a, b = sorted((root(first), root(second)))
        parent[b] = a
    by_root: dict[str, list[str]] = defaultdict(list)
    for member in members:
        by_root[root(member)].append(member)
    return {member: min(group) for group in by_root.values() for member in group}
