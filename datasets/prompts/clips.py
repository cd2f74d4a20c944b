"""Import of recordings: a CSV of files and texts becomes prompts with ground-truth windows.

Only headers are decoded; files are hashed in chunks. A row that cannot be used is kept as :class:`RefusedRow` with its
reason; only a CSV that cannot be read is an error.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path

from avpref.config.data_settings import ClipPrompts
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_rows import CsvRow, data_rows
from avpref.datasets.lists.listed_files import inspect, locate
from avpref.datasets.prompts.held_out import held_out
from avpref.domain import Prompt, Split, prompt_id
from avpref.errors import ConfigError, InputError, MediaError
from avpref.identity import file_sha256
from avpref.media.geometry import ClipShape, nearest_shape, window_starts_s
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

REQUIRED = ("file", "text")
OPTIONAL = ("taxonomy", "group")
INSTANCE_MARK = "#"
RECORDING_ID_CHARS = 16
MAX_SILENT_SHARE = 1 / 3
"""Share of a training clip for which its recording may have no sound."""


@dataclass(frozen=True)
class Recording:
    """One usable row: ``line`` of the CSV (1 = header), file as written and resolved.

    ``duration_s`` is where the first of the two tracks ends, ``sound_start_s`` where the sound begins; the size is that shown.
    """

    line: int
    file: str
    path: Path
    text: str
    taxonomy: str
    sha256: str
    duration_s: float
    height_px: int
    width_px: int
    group: str = ""
    sound_start_s: float = 0.0

    @property
    def split_key(self) -> str:
        """Identity of the recordings that are held out together: the group, or the recording's bytes."""
        return f"group {self.group}" if self.group else self.sha256

    def shape(self, shapes: Sequence[ClipShape]) -> ClipShape:
        """The nearest of ``shapes``."""
        return nearest_shape(shapes, self.height_px, self.width_px, self.duration_s)

    @property
    def recording_id(self) -> str:
        """Identity of the recording: its bytes, not its name."""
        return "r" + self.sha256[:RECORDING_ID_CHARS]


@dataclass(frozen=True)
class RefusedRow:
    """One row that is not used, with the reason."""

    line: int
    file: str
    reason: str


@dataclass(frozen=True)
class ClipRow:
    """One data row whose file has not been opened: ``path`` is resolved, ``text`` may be empty."""

    line: int
    file: str
    path: Path
    text: str


@dataclass(frozen=True)
class RecordingList:
    """The rows of a CSV: every data row is in ``rows`` or in ``refused``."""

    csv: Path
    rows: tuple[Recording, ...]
    refused: tuple[RefusedRow, ...]


@dataclass(frozen=True)
class _Window:
    """One window of a recording; ``index`` counts from its start."""

    recording: Recording
    index: int
    start_s: float


def read_clip_list(path: Path | str, rules: ReadingRules = DEFAULT_READING) -> RecordingList:
    """Read a CSV with header ``file,text[,taxonomy][,group]``; relative files are relative to the CSV's folder.

    ``rules`` choose the sound of each recording. RefusedRow rows:
    faults of :class:`avpref.datasets.lists.csv_rows.CsvRow`, empty file or text, missing or unreadable file, no picture, no sound,
    and a file with the same bytes as an earlier one. Raises as :func:`avpref.datasets.lists.csv_rows.data_rows`.
    """
    table = Path(path)
    rows: list[Recording] = []
    refused: list[RefusedRow] = []
    first_line_of: dict[str, int] = {}
    for row in data_rows(table, REQUIRED, OPTIONAL):
        outcome = _recording(table, row, rules)
        if isinstance(outcome, Recording) and outcome.sha256 in first_line_of:
            outcome = RefusedRow(row.line, outcome.file, f"the same recording as line {first_line_of[outcome.sha256]}")
        if isinstance(outcome, RefusedRow):
            refused.append(outcome)
        else:
            first_line_of[outcome.sha256] = row.line
            rows.append(outcome)
    return RecordingList(table, tuple(rows), tuple(refused))


def read_rows(path: Path | str) -> Iterator[ClipRow | RefusedRow]:
    """Rows of a CSV as :func:`read_clip_list` reads it, without opening any file; raises what it raises about the CSV."""
    table = Path(path)
    for row in data_rows(table, REQUIRED, OPTIONAL):
        if row.fault:
            yield RefusedRow(row.line, row.shown, row.fault)
            continue
        try:
            yield ClipRow(row.line, row.get("file"), locate(table.parent, row.get("file")), row.get("text"))
        except InputError as error:
            yield RefusedRow(row.line, printable(row.get("file")), error.found)


def prompts(
    settings: ClipPrompts, shapes: Sequence[ClipShape], seed: int, rules: ReadingRules = DEFAULT_READING
) -> tuple[list[Prompt], list[RefusedRow]]:
    """Training prompts, then evaluation prompts, of the CSV that ``settings.clips`` names; and the refused rows.

    Each recording is cut into windows of the length of its shape (the nearest); one prompt per window, its ground truth. Windows in
    which the sound begins after more than :data:`MAX_SILENT_SHARE` are not used and make a refused row. ``rules`` choose the sound.
    Whole recordings are held out: a hash of ``seed`` and the recordings' bytes (not names or positions in the CSV) holds out about
    ``held_out_share`` of them, at least one and never all; recordings of one ``group`` are held out together, by the hash of its
    name. So a recording keeps its split when the list grows (see :func:`avpref.datasets.prompts.held_out.held_out`; what holds for
    the first or last of a few recordings can change). Held-out windows, taken in turn from every held-out recording, become
    ``num_evaluation_clips`` evaluation prompts; if there are fewer windows, they are used again as further instances.

    ``Prompt.source`` is ``RECORDING#N``, N counting the prompts of one recording (see :func:`recording_of`), so that
    ``prompt_id`` derives from text, source and split as usual. ``ground_truth_path`` is absolute; ``ground_truth_sha256``
    identifies the bytes. Raises like :func:`read_clip_list`; ConfigError where no CSV is named; InputError where fewer
    than two recordings are usable.
    """
    if not settings.clips:
        raise ConfigError(
            found="prompts.clips is empty",
            expected="the path of a CSV with columns file,text",
            fix="set `clips: path/to/clips.csv` in section prompts, or AVPREF_PROMPTS__CLIPS",
        )
    listed = read_clip_list(settings.clips, rules)
    usable = [row for row in listed.rows if _starts_s(row, row.shape(shapes))]
    unused = [refusal for row in listed.rows if (refusal := _without_windows(row, row.shape(shapes))) is not None]
    refused = sorted([*listed.refused, *unused], key=lambda row: row.line)
    _require_two(listed.csv, usable, refused)
    held_out_rows, training_rows = _split(usable, settings.held_out_share, seed)
    evaluation = _windows(held_out_rows, shapes)
    training = [_prompt(window, window.index, Split.TRAIN) for window in _windows(training_rows, shapes)]
    return training + list(_evaluation(evaluation, settings.num_evaluation_clips)), refused


def recording_of(prompt: Prompt) -> str:
    """The id of the recording that a prompt was cut from: its source without the instance number."""
    return prompt.source.partition(INSTANCE_MARK)[0]


def ground_truth_clip(prompt: Prompt, shape: ClipShape, rules: ReadingRules = DEFAULT_READING) -> DecodedClip:
    """The prompt's window, resized (to fill, centre crop) and resampled to ``shape``; for re-encoding by the caller.

    Raises InputError where the file is absent or differs from the imported one, and MediaError where it cannot be decoded or has no
    sound in more than :data:`MAX_SILENT_SHARE` of the window.
    """
    path = Path(prompt.ground_truth_path)
    if not path.is_file():
        raise InputError(
            found=f"{path}: no such file",
            expected=f"the recording of prompt {prompt.prompt_id}",
            fix="put the file back, or import the CSV again: avpref prompts import",
        )
    stat = path.stat()
    sha256 = _sha256_of(path, stat.st_mtime_ns, stat.st_size)
    if sha256 != prompt.ground_truth_sha256:
        raise InputError(
            found=f"{path}: sha-256 {sha256[:12]}…, changed since the import",
            expected=f"sha-256 {prompt.ground_truth_sha256[:12]}…",
            fix="put the old file back, or import the CSV again: avpref prompts import",
        )
    clip = read_clip(path, shape, start_s=prompt.ground_truth_start_s, rules=rules)
    if clip.has_audio and clip.sound_share < 1.0 - MAX_SILENT_SHARE:
        raise MediaError(
            found=f"{path.name}: no sound in {1.0 - clip.sound_share:.0%} of the {clip.duration_s:g} s from {clip.start_s:g} s",
            expected="a window in which the recording has sound",
            fix="cut the recording to the part that has sound, or remove its row",
        )
    return clip


@lru_cache(maxsize=1024)
def _sha256_of(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """Hash of a file, cached by modification time and size."""
    return file_sha256(path)


def _recording(table: Path, row: CsvRow, rules: ReadingRules) -> Recording | RefusedRow:
    """The row's recording from the file's headers and hash, or the refusal."""
    if row.fault:
        return RefusedRow(row.line, row.shown, row.fault)
    file, text, taxonomy, group = (row.get(name) for name in REQUIRED + OPTIONAL)
    if file.strip() and not text.strip():
        return RefusedRow(row.line, printable(file), "empty text")
    try:
        listed = inspect(locate(table.parent, file), rules)
    except InputError as error:
        return RefusedRow(row.line, printable(file), _swapped(table, file, text) or error.found)
    return Recording(
        line=row.line,
        file=file,
        path=listed.path,
        text=text,
        taxonomy=taxonomy,
        sha256=listed.sha256,
        duration_s=listed.duration_s,
        height_px=listed.height_px,
        width_px=listed.width_px,
        group=group.strip(),
        sound_start_s=listed.sound_start_s,
    )


def _swapped(table: Path, file: str, text: str) -> str:
    """The reason for a row whose text names a file and whose file does not; empty for others."""
    try:
        locate(table.parent, text)
    except InputError:
        return ""
    return f"the columns are exchanged: 'file' has {printable(file)!r}, and 'text' has the name of a file"


def _require_two(table: Path, usable: Sequence[Recording], refused: Sequence[RefusedRow]) -> None:
    """Raises InputError unless training and evaluation can each have a recording, of another group."""
    num_groups = len({row.split_key for row in usable})
    if num_groups >= 2:
        return
    reasons = "".join(f"\n  line {row.line}: {row.file}: {row.reason}" for row in refused)
    of_group = " of one group" if len(usable) > 1 else ""
    raise InputError(
        found=f"{table}: {len(usable)} usable recordings{of_group}, {len(refused)} refused{reasons}",
        expected="at least two, of different groups: one to train on and one to hold out",
        fix="add recordings to the CSV, repair the refused ones, or divide the group",
    )


def _split(rows: Sequence[Recording], share: float, seed: int) -> tuple[list[Recording], list[Recording]]:
    """Held-out recordings and training recordings, both in the order of their groups' hashes; rows of one group as listed."""
    groups: dict[str, list[Recording]] = defaultdict(list)
    for row in rows:
        groups[row.split_key].append(row)
    ordered = held_out(groups, 1.0, seed)
    num_held_out = min(max(1, len(held_out(groups, share, seed))), len(ordered) - 1)
    sides = ordered[:num_held_out], ordered[num_held_out:]
    held_out_rows, training_rows = ([row for key in side for row in groups[key]] for side in sides)
    return held_out_rows, training_rows


def _starts_s(recording: Recording, shape: ClipShape) -> tuple[float, ...]:
    """Starts of the recording's windows in which there is sound for all but :data:`MAX_SILENT_SHARE`."""
    earliest_s = recording.sound_start_s - MAX_SILENT_SHARE * shape.duration_s
    return tuple(
        start_s for start_s in window_starts_s(recording.duration_s, shape.duration_s) if start_s >= earliest_s
    )


def _without_windows(recording: Recording, shape: ClipShape) -> RefusedRow | None:
    """The refusal of a recording that has no window, or of its windows before the sound begins; None if all are used."""
    starts_s = window_starts_s(recording.duration_s, shape.duration_s)
    if not starts_s:
        reason = f"{recording.duration_s:.3f} s long, shorter than one window of {shape.duration_s:g} s"
    elif len(silent_s := starts_s[: len(starts_s) - len(_starts_s(recording, shape))]):
        windows = ", ".join(f"{start_s:g}" for start_s in silent_s)
        reason = f"no sound before {recording.sound_start_s:.3f} s: the windows from {windows} s are not used"
    else:
        return None
    return RefusedRow(recording.line, printable(recording.file), reason)


def _windows(recordings: Sequence[Recording], shapes: Sequence[ClipShape]) -> list[_Window]:
    """First windows of all recordings, then all second ones, and so on: a prefix covers as many recordings as possible."""
    windows = [
        _Window(recording, index, start_s)
        for recording in recordings
        for index, start_s in enumerate(_starts_s(recording, recording.shape(shapes)))
    ]
    return sorted(windows, key=lambda window: window.index)


def _evaluation(windows: Sequence[_Window], num_prompts: int) -> Iterator[Prompt]:
    """``num_prompts`` held-out prompts; each prompt of a recording has its own instance number."""
    used: Counter[str] = Counter()
    for window in islice(cycle(windows), num_prompts):
        recording = window.recording.recording_id
        yield _prompt(window, used[recording], Split.HELD_OUT)
        used[recording] += 1


def _prompt(window: _Window, instance: int, split: Split) -> Prompt:
    recording = window.recording
    source = f"{recording.recording_id}{INSTANCE_MARK}{instance}"
    return Prompt(
        prompt_id=prompt_id(recording.text, source, split),
        text=recording.text,
        split=split,
        source=source,
        taxonomy=recording.taxonomy,
        ground_truth_path=str(recording.path),
        ground_truth_start_s=window.start_s,
        ground_truth_sha256=recording.sha256,
    )
