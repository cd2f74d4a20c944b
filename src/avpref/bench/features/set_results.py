"""All results of a set of clips: what each network and scorer gave for each of its samples, or the reason why there is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from avpref.bench.features.feature_files import FeatureFiles, Result
from avpref.bench.features.parts import ClipIdentity, KeyKind, NetworkPart, Part, clip_key
from avpref.bench.measures.feature_rows import FeatureRows, rows_of

NOT_COMPUTED = "not computed"


@dataclass(frozen=True)
class PartRecord:
    """A part as results name it: fingerprint, what its results depend on besides it, and the settings and licence behind it."""

    name: str
    fingerprint: str
    depends_on: KeyKind
    settings: dict[str, Any] = field(default_factory=dict)
    weights_id: str = ""
    licence: str = ""
    is_meaningful: bool = True

    def key(self, clip: ClipIdentity) -> str:
        """Identity of a clip as far as results depend on it; equal to that of the part."""
        return clip_key(clip, self.depends_on)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def record_of(part: Part) -> PartRecord:
    """The record of a part. Raises InputError where weights are absent."""
    terms = part.terms
    if isinstance(part, NetworkPart):
        return PartRecord(
            part.name,
            part.fingerprint,
            part.depends_on,
            dict(part.source.settings),
            part.source.weights_id,
            terms.licence,
            terms.is_meaningful,
        )
    settings: dict[str, Any] = {"scorer": part.source.name, "cut_s": part.cut_s}
    if part.has_librosa_sound:
        settings["resampler"] = "kaiser_best"
    return PartRecord(part.name, part.fingerprint, part.depends_on, settings, "", terms.licence, terms.is_meaningful)


@dataclass(frozen=True)
class SampleClip:
    """A sample of a set: its name, files, identity and properties."""

    key: str
    video: str
    sound: str
    identity: ClipIdentity
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    facts: dict[str, Any] = field(default_factory=dict, hash=False)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def sample_of(document: Mapping[str, Any]) -> SampleClip:
    """The sample in a document."""
    labels = {column: tuple(indices) for column, indices in document["labels"].items()}
    identity = ClipIdentity(**document["identity"])
    return SampleClip(document["key"], document["video"], document["sound"], identity, labels, document["facts"])


@dataclass(frozen=True, eq=False)
class SetResults:
    """Samples in order, results by part, key and array, and the reasons of clips that were lost on the way, by sample."""

    samples: tuple[SampleClip, ...]
    records: Mapping[str, PartRecord]
    results: Mapping[str, Mapping[str, Mapping[str, Result]]]
    lost: Mapping[str, str] = field(default_factory=dict)

    def rows(self, part: str, name: str) -> FeatureRows:
        """The rows of an array (or of a metric) of a part."""
        return rows_of([(sample.key, self.result(part, name, sample)) for sample in self.samples])

    def result(self, part: str, name: str, sample: SampleClip) -> Result:
        """The result of one sample."""
        record = self.records.get(part)
        if record is None:
            return Result(None, NOT_COMPUTED)
        of_clip = self.results.get(part, {}).get(record.key(sample.identity), {})
        if name in of_clip:
            return of_clip[name]
        if "" in of_clip:
            return of_clip[""]
        return Result(None, self.lost.get(sample.key, NOT_COMPUTED))


def load_results(
    files: FeatureFiles, samples: Sequence[SampleClip], records: Mapping[str, PartRecord], lost: Mapping[str, str]
) -> SetResults:
    """The results that the store holds for ``samples``. Raises TableError for a unit that cannot be read."""
    results = {
        name: files.results(name, {record.key(sample.identity) for sample in samples})
        for name, record in records.items()
    }
    return SetResults(tuple(samples), records, results, lost)
