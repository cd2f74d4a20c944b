"""A list of foreign pairs as prompts and rows: its clips are hashed, rows that cannot be used are refused with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from avpref.config.data_settings import PairPrompts
from avpref.datasets.foreign_pairs.clip_bytes import WHOLE_FILE, ClipPlace, ClipReader
from avpref.datasets.foreign_pairs.csv_pairs import csv_pairs
from avpref.datasets.foreign_pairs.hf_pairs import hf_pairs, pair_files
from avpref.datasets.foreign_pairs.listed_pairs import ListedPair, Refuse
from avpref.datasets.prompts.clips import RefusedRow
from avpref.datasets.prompts.held_out import held_out
from avpref.domain import Prompt, Split, prompt_id
from avpref.errors import ConfigError, InputError, MediaError
from avpref.identity import bytes_sha256, digest, file_sha256

CSV = ".csv"


@dataclass(frozen=True)
class ImportedPair:
    """A row of table ``imported``: a usable pair, with the place and the SHA-256 of both clips as they were found.

    ``is_verified``: the list gave these hashes itself. ``scores`` is JSON of the numbers in the list.
    """

    line: int
    foreign_id: str
    prompt_id: str
    split: str
    dimension: str
    chosen_file: str
    chosen_row: int
    chosen_sha256: str
    rejected_file: str
    rejected_row: int
    rejected_sha256: str
    is_verified: bool
    scores: str


@dataclass(frozen=True)
class PairList:
    """The prompts of a list, its usable pairs, and the refused rows."""

    prompts: list[Prompt]
    pairs: list[ImportedPair]
    refused: list[RefusedRow]


def read_pairs(settings: PairPrompts, seed: int) -> PairList:
    """Prompts and pairs of the list that ``settings.pairs`` names; one prompt per distinct text, in order of first appearance.

    A hash of ``seed`` and the text holds out about ``held_out_share`` of the texts, at most ``num_evaluation_clips``, those with
    the smallest hashes; pairs of a held-out text are listed and not trained on. Refused: an empty text, a clip that cannot be read,
    other bytes than the list says, two equal clips, a pair that an earlier row has or reverses. Raises ConfigError where no list is
    named, InputError where it is absent or no row can be used, TableError for a list that cannot be read.
    """
    path = list_path(settings)
    refused: list[RefusedRow] = []

    def refuse(line: int, label: str, reason: str) -> None:
        refused.append(RefusedRow(line, label, reason))

    usable = list(_checked(path, refuse))
    if not usable:
        first = f" (row {refused[0].line}: {refused[0].reason})" if refused else ""
        expected = "at least one pair of two different clips with a text"
        raise InputError(f"{path}: no pair can be used{first}", expected, "correct the rows, or make the list again")
    split = _splits([pair.text for pair, _ in usable], settings, seed)
    taxonomy = {pair.text: pair.taxonomy for pair, _ in reversed(usable)}
    prompts = [Prompt(prompt_id(text, "", side), text, side, taxonomy=taxonomy[text]) for text, side in split.items()]
    pairs = [_row(pair, hashes, split[pair.text]) for pair, hashes in usable]
    return PairList(prompts, pairs, sorted(refused, key=lambda row: row.line))


def list_path(settings: PairPrompts) -> Path:
    """The folder or CSV that ``settings`` name. Raises ConfigError where they name none, InputError where it is absent."""
    if not settings.pairs:
        expected = "a folder of pairs, or a CSV with columns chosen,rejected,text"
        raise ConfigError("prompts.pairs is empty", expected, "avpref pairs import FOLDER_OR_CSV")
    path = Path(settings.pairs)
    if not path.exists():
        raise InputError(f"{path} does not exist", "a folder of pairs, or a CSV of pairs", "check the path")
    if path.is_file() and path.suffix.lower() != CSV:
        fix = "give the folder that holds it" if path.suffix == ".parquet" else f"name it {path.with_suffix(CSV).name}"
        raise InputError(f"{path} ends in {path.suffix!r}", "a folder of pairs, or a .csv", fix)
    return path


def clip_folder(settings: PairPrompts) -> Path:
    """The folder that the places of clips are relative to."""
    path = list_path(settings)
    return path.parent if path.is_file() else path


def list_identity(settings: PairPrompts) -> str:
    """Hash of the list: a CSV's bytes, or names, sizes and footers of Parquet files, or the bytes of the lists of files.

    Clips are not read: their hashes are in table ``imported`` and are compared when the clips are.
    """
    path = list_path(settings)
    if path.is_file():
        return file_sha256(path)
    return digest("pairs", [[file.relative_to(path).as_posix(), _file_identity(file)] for file in pair_files(path)])


def _file_identity(path: Path) -> str:
    if path.suffix != ".parquet":
        return file_sha256(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(0, size - 8 - length))
        return f"{size} {bytes_sha256(stream.read())}"


def num_rows(settings: PairPrompts) -> int:
    """Rows of the list: an upper bound of its pairs."""
    path = list_path(settings)
    if path.is_file():
        return sum(1 for _ in csv_pairs(path, lambda *_: None))
    files = pair_files(path)
    if files[0].suffix == ".parquet":
        return sum(pq.read_metadata(file).num_rows for file in files)
    return sum(1 for _ in hf_pairs(path, lambda *_: None))


def _checked(path: Path, refuse: Refuse) -> Iterator[tuple[ListedPair, tuple[str, str]]]:
    """The pairs that can be used, with the hashes of chosen and rejected clip."""
    listed = csv_pairs(path, refuse) if path.is_file() else hf_pairs(path, refuse)
    hashes = _ClipHashes(ClipReader(path.parent if path.is_file() else path))
    line_of: dict[tuple[str, str, str], int] = {}
    for pair in listed:
        try:
            sides = hashes.of(pair.chosen), hashes.of(pair.rejected)
        except MediaError as error:
            refuse(pair.line, pair.label, error.found)
            continue
        reason = _fault(pair, sides, line_of)
        if reason:
            refuse(pair.line, pair.label, reason)
            continue
        line_of[pair.text, *sides] = pair.line
        yield pair, sides


def _fault(pair: ListedPair, hashes: tuple[str, str], line_of: dict[tuple[str, str, str], int]) -> str:
    """The reason why a pair cannot be used; empty where it can. ``line_of``: text and clips of earlier pairs → line."""
    chosen, rejected = hashes
    wrong = [named for named, sha256 in zip(pair.sha256, hashes, strict=True) if named and named != sha256]
    if not pair.text.strip():
        return "empty text"
    if wrong:
        return f"a clip has other bytes than the list says (sha-256 {wrong[0][:12]}…)"
    if chosen == rejected:
        return "chosen and rejected are the same clip"
    if (line := line_of.get((pair.text, chosen, rejected))) is not None:
        return f"the same pair as row {line}"
    if (line := line_of.get((pair.text, rejected, chosen))) is not None:
        return f"the reverse of row {line}"
    return ""


class _ClipHashes:
    """SHA-256 of clips; a file that several pairs name is read once."""

    def __init__(self, reader: ClipReader) -> None:
        self._reader = reader
        self._of_file: dict[str, str] = {}

    def of(self, place: ClipPlace) -> str:
        """Raises MediaError for a clip that cannot be read."""
        if place.row != WHOLE_FILE:
            return hashlib.sha256(self._reader.read(place)).hexdigest()
        if place.file not in self._of_file:
            path = self._reader.folder / place.file
            try:
                self._of_file[place.file] = file_sha256(path)
            except OSError as error:
                fix = "make it readable, or remove the row"
                raise MediaError(f"{place.file}: {error.strerror}", "a readable file", fix) from error
        return self._of_file[place.file]


def _splits(texts: Sequence[str], settings: PairPrompts, seed: int) -> dict[str, Split]:
    """The split of every distinct text, in order of first appearance."""
    distinct = dict.fromkeys(texts)
    chosen = held_out(distinct, settings.held_out_share, seed)
    if len(chosen) == len(distinct):
        raise InputError(
            f"{settings.pairs}: all {len(distinct)} texts would be held out",
            "at least one text to train on",
            "--set prompts.held_out_share=0",
        )
    kept = set(chosen[: settings.num_evaluation_clips])  # sorted by hash
    return {text: Split.HELD_OUT if text in kept else Split.TRAIN for text in distinct}


def _row(pair: ListedPair, hashes: tuple[str, str], split: Split) -> ImportedPair:
    return ImportedPair(
        line=pair.line,
        foreign_id=pair.foreign_id,
        prompt_id=prompt_id(pair.text, "", split),
        split=split,
        dimension=pair.dimension,
        chosen_file=pair.chosen.file,
        chosen_row=pair.chosen.row,
        chosen_sha256=hashes[0],
        rejected_file=pair.rejected.file,
        rejected_row=pair.rejected.row,
        rejected_sha256=hashes[1],
        is_verified=pair.sha256 == hashes,
        scores=pair.scores,
    )
