"""``avpref rewards validate``: from a folder of recordings to tables, JSON and a picture, with everything that was left out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from present import present

from avpref.datasets.prompts import toyworld
from avpref.domain import METRIC_BY_NAME, OWN_TERMS, Metric, ScoreStatus, Terms
from avpref.errors import InputError, TableError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.media.toyscene import all_attributes
from avpref.media.writing import encode_clip
from avpref.rewards.fake import FakeScorer
from avpref.rewards.negatives.corruptions import DELAY_STEPS_S, SEED_KINDS, Negative, NegativeKind, negatives
from avpref.rewards.protocol import measured, skipped
from avpref.validation.discrimination import Estimate
from avpref.validation.validate import POSITIVE, ValidationSettings, score_windows, validate_metrics
from avpref.validation.validation_report import document, kind_rows, overall_rows, panels, remarks, rows_table
from avpref.validation.windows import find_windows, read_cut, read_donor

SHAPE = ClipShape(75, 48, 64, 12.5, 16000)
WINDOW_S = 2.0
MEANINGLESS = Terms("none", commercial_use=False, is_meaningful=False)
SETTINGS = ValidationSettings(window_s=WINDOW_S, bootstrap_samples=200)
NUM_RECORDINGS, WINDOWS_EACH = 3, 3


@dataclass(frozen=True)
class KnowsBetter:
    """Knows the original's picture and sound: how much differs from them, and by how much the sound is shifted."""

    originals: dict[str, tuple[np.ndarray, np.ndarray]]
    metrics: tuple[Metric, ...] = (
        METRIC_BY_NAME["audio_video"],
        METRIC_BY_NAME["desync"],
        METRIC_BY_NAME["visual_quality"],
    )
    fingerprint: str = "knows"
    terms: Terms = OWN_TERMS

    def score(self, clips):
        return [self._scores(clip) for clip in clips]

    def _scores(self, clip):
        name = next(name for name in self.originals if clip.candidate_id.startswith(f"{name}/"))
        frames, audio = self.originals[name]
        off = float(np.mean(np.abs(clip.clip.audio - audio)) + np.mean(clip.clip.frames != frames))
        values = {
            "audio_video": -off,
            "desync": _shift_s(audio, clip.clip),
            "visual_quality": -float(np.mean(clip.clip.frames != frames)),
        }
        return [measured(clip.candidate_id, metric, values[metric.name]) for metric in self.metrics]


def value_of(estimate: Estimate | None) -> float:
    return present(estimate).value


def _shift_s(audio: np.ndarray, clip: DecodedClip) -> float:
    size = 2 * len(audio)
    alike = np.fft.irfft(np.fft.rfft(present(clip.audio), size) * np.conj(np.fft.rfft(audio, size)))
    lag = int(np.argmax(alike))
    return min(lag, size - lag) / clip.sample_rate_hz


@dataclass
class OfOneTrack:
    """Counts what it is asked to judge; gives nothing for the first picture of each call."""

    metrics: tuple[Metric, ...] = (METRIC_BY_NAME["visual_quality"],)
    fingerprint: str = "one track"
    terms: Terms = MEANINGLESS
    asked: int = 0

    def score(self, clips):
        self.asked += len(clips)
        return [[self._of(number, clip)] for number, clip in enumerate(clips)]

    def _of(self, number, clip):
        if not number:
            return skipped(clip.candidate_id, self.metrics[0], "not today")
        return measured(clip.candidate_id, self.metrics[0], float(clip.clip.frames.mean()))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of 6 s, a text file, and files that cannot be used."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "deeper").mkdir()
    for number in range(NUM_RECORDINGS):
        clip = toyworld.simulate(all_attributes()[7 * number], number, SHAPE)
        name = f"deeper/c{number}.mp4" if number else f"c{number}.mp4"
        (folder / name).write_bytes(encode_clip(clip.frames, SHAPE.fps_hz, clip.audio, SHAPE.sample_rate_hz))
    (folder / "notes.txt").write_text("no recording")
    (folder / "half.mp4").write_bytes((folder / "c0.mp4").read_bytes()[:3000])
    (folder / "twice.mp4").write_bytes((folder / "c0.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def windows(recordings: Path):
    return find_windows(recordings, WINDOW_S).windows


@pytest.fixture(scope="module")
def knowing(windows) -> KnowsBetter:
    clips = {window.name: read_cut(window, WINDOW_S, 2.0).clip for window in windows}
    return KnowsBetter({name: (present(clip.frames), present(clip.audio)) for name, clip in clips.items()})


@pytest.fixture(scope="module")
def scored(windows, knowing):
    return score_windows(windows, [knowing], SETTINGS)


def test_a_folder_is_searched_and_everything_else_is_named(recordings) -> None:
    found = find_windows(recordings, WINDOW_S)
    assert len(found.windows) == NUM_RECORDINGS * WINDOWS_EACH
    assert {window.file for window in found.windows} == {"c0.mp4", "deeper/c1.mp4", "deeper/c2.mp4"}
    reasons = {one.file: one.reason for one in found.unusable}
    assert set(reasons) == {"half.mp4", "twice.mp4"}
    assert reasons["twice.mp4"] == "the same recording as c0.mp4" and "unreadable" in reasons["half.mp4"]
    assert found.unread_list is None


def test_windows_lie_in_the_middle_and_do_not_overlap(recordings) -> None:
    starts = [window.start_s for window in find_windows(recordings, 2.5).windows if window.file == "c0.mp4"]
    assert starts == pytest.approx([0.5, 3.0], abs=0.02)


def test_a_window_has_the_recordings_sound_around_it(windows) -> None:
    middle = windows[1]
    cut = read_cut(middle, WINDOW_S, 1.5)
    assert (cut.first, cut.samples_after) == (24000, pytest.approx(24000, abs=1100))
    assert cut.frames.shape == (25, 48, 64, 3) and present(cut.clip.channels).shape == (2, 32000)
    np.testing.assert_array_equal(cut.sound_from(0, 32000), cut.clip.channels)
    np.testing.assert_array_equal(cut.sound_from(-24000, 72000 - 24000), cut.sound[:, : 72000 - 24000])
    first = read_cut(windows[0], WINDOW_S, 1.5)
    assert first.first == 0
    np.testing.assert_allclose(first.sound_from(32000, 16000), cut.sound_from(0, 16000), atol=1e-6)


def test_a_donor_comes_in_the_clips_shape(windows) -> None:
    cut = read_cut(windows[0], WINDOW_S, 0.0)
    donor = read_donor(windows[-1], cut.clip)
    assert present(donor.clip.frames).shape == cut.frames.shape and donor.clip.sample_rate_hz == cut.rate_hz


def test_real_recordings_of_all_sizes_and_rates_lend_to_each_other(media) -> None:
    found = find_windows(media / "clips.csv", 2.0).windows
    firsts = {window.file: window for window in found if window.file in ("dog.mp4", "telescope.mp4")}
    for window, other in (list(firsts.values()), list(firsts.values())[::-1]):
        cut = read_cut(window, 2.0, 2.0)
        donor = read_donor(other, cut.clip)
        assert present(donor.clip.frames).shape == cut.frames.shape
        assert np.array_equal(cut.sound_from(0, cut.channels.shape[1]), cut.channels)
        made = [each for index in range(2) for each in negatives(cut, donor, 0, index)]
        for each in made:
            assert isinstance(each, Negative) and present(each.clip.channels).shape == cut.channels.shape


@pytest.mark.parametrize("header", ["file,text", "file"])
def test_a_csv_names_files_and_may_give_texts(recordings, tmp_path, header) -> None:
    listed = tmp_path / "clips.csv"
    files = ["c0.mp4", "deeper/c1.mp4", "none.mp4"]
    rows = [f"{recordings / file}{',a text' if header == 'file,text' else ''}" for file in files]
    listed.write_text("\n".join([header, *rows, f"{recordings / 'c0.mp4'},one,two,three"]) + "\n")
    found = find_windows(listed, WINDOW_S)
    assert len(found.windows) == 2 * WINDOWS_EACH
    assert {window.text for window in found.windows} == {"a text" if header == "file,text" else ""}
    assert [one.reason for one in found.unusable] == [
        "no such file",
        f"4 fields where the header has {len(header.split(','))} (a comma outside quotes?)",
    ]


@pytest.mark.parametrize("header", ["", "path,text", "file,txt", "file,file"])
def test_a_csv_with_other_columns_is_refused(tmp_path, header) -> None:
    listed = tmp_path / "clips.csv"
    listed.write_text(f"{header}\na.mp4,b\n")
    with pytest.raises(TableError, match="file,text"):
        find_windows(listed, WINDOW_S)


def test_nothing_to_validate_on_is_an_error_that_says_why(recordings, tmp_path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_windows(tmp_path / "absent", WINDOW_S)
    with pytest.raises(InputError, match="no usable recording"):
        find_windows(tmp_path, WINDOW_S)
    with pytest.raises(InputError, match="shorter than one window of 30 s"):
        find_windows(recordings, 30.0)


def test_a_metric_that_knows_is_found_to_know(windows, knowing, scored) -> None:
    sync, shift, picture = validate_metrics(scored, [knowing], SETTINGS)
    absent = sum(row.kind != NegativeKind.DESYNC for row in scored.absent)
    num = len(windows) * len(SEED_KINDS) - absent
    assert value_of(sync.overall.accuracy_strict) == value_of(sync.overall.auroc) == 1.0
    assert (sync.overall.num_pairs, sync.overall.num_sources) == (num, NUM_RECORDINGS)
    assert value_of(shift.monotonicity.estimate) > 0.8
    assert (shift.monotonicity.num_series, shift.monotonicity.num_without) == (2 * len(windows), 0)
    assert {name: one.num_series for name, one in shift.directions.items()} == {"late": 9, "early": 9}
    assert [step.step_s for step in shift.steps] == [step for step in DELAY_STEPS_S if step <= WINDOW_S / 2]
    assert all(value_of(step.discrimination.accuracy_strict) == 1.0 for step in sync.steps)
    for kind in SEED_KINDS:
        sees = kind in (NegativeKind.VIDEO_SPATIAL, NegativeKind.VIDEO_TEMPORAL)
        assert value_of(picture.kinds[kind].accuracy_strict) == (1.0 if sees else 0.0)
        assert value_of(picture.kinds[kind].accuracy_tolerant) == 1.0
    assert (value_of(picture.monotonicity.estimate), picture.monotonicity.num_constant) == (0.0, 2 * len(windows))


def test_guessing_is_found_to_guess(windows) -> None:
    scorer = FakeScorer()
    settings = ValidationSettings(window_s=WINDOW_S, num_negatives=3, bootstrap_samples=200)
    found = score_windows(windows, [scorer], settings)
    for one in validate_metrics(found, [scorer], settings):
        auroc = present(one.overall.auroc)
        assert abs(auroc.value - 0.5) < 0.25
        assert present(auroc.low) <= auroc.value <= present(auroc.high)
        absent = sum(row.kind != NegativeKind.DESYNC for row in found.absent)
        assert one.overall.num_negatives == 3 * len(SEED_KINDS) * len(windows) - absent


def test_every_row_says_what_was_done(windows, scored) -> None:
    kinds = {row.kind for row in scored.rows}
    assert kinds == {POSITIVE, *SEED_KINDS, NegativeKind.DESYNC}
    for row in scored.rows:
        parameters = json.loads(row.parameters)
        assert bool(parameters) == (row.kind != POSITIVE)
        assert (row.step_s > 0) == (row.kind == NegativeKind.DESYNC)
        assert "donor" not in parameters or parameters["donor"].split("@")[0] != row.file
    reasons = {(row.kind, row.reason) for row in scored.absent}
    assert ("desync", "1.5 s is more than half a window of 2 s") in reasons
    assert rows_table(scored).num_rows == len(scored.rows)


def test_the_same_again_and_another_seed(windows, knowing, scored) -> None:
    assert score_windows(windows, [knowing], SETTINGS) == scored
    other = score_windows(windows, [knowing], ValidationSettings(WINDOW_S, seed=1))
    assert [row.parameters for row in other.rows] != [row.parameters for row in scored.rows]


def test_a_scorer_of_one_track_judges_each_picture_once_and_gaps_are_counted(windows) -> None:
    scorer = OfOneTrack()
    found = score_windows(windows, [scorer], SETTINGS)
    assert scorer.asked == len(windows) * 3  # as it is, and two with another picture
    (one,) = validate_metrics(found, [scorer], SETTINGS)
    assert one.overall.num_positives == 0 and one.overall.positives_without == len(windows)
    assert one.overall.auroc is None and one.monotonicity.estimate is None
    assert one.without_number[POSITIVE, "not today"] == len(windows)
    assert all(row.value is None for row in found.rows if row.status == ScoreStatus.SKIPPED)
    told = "\n".join(remarks(windows_of(windows), found, [one]))
    assert "not today" in told and "meaningless" in told and "3 recordings" in told
    assert overall_rows([one])[1]["AUROC"] == "-"


def windows_of(windows):
    from avpref.validation.windows import ValidationWindows

    return ValidationWindows(windows, ())


def test_one_recording_has_no_negatives_that_need_another(windows, knowing) -> None:
    alone = [window for window in windows if window.file == "c0.mp4"]
    found = score_windows(alone, [knowing], SETTINGS)
    assert ("swapped_audio", "needs another recording") in {(row.kind, row.reason) for row in found.absent}
    sync = validate_metrics(found, [knowing], SETTINGS)[0]
    assert sync.kinds[NegativeKind.SWAPPED_AUDIO].auroc is None
    assert present(sync.overall.auroc).low is None  # nothing to resample


def test_a_recording_that_breaks_while_reading_is_left_out_and_harms_no_other(recordings, tmp_path) -> None:
    for name in ("c0.mp4", "deeper/c1.mp4"):
        (tmp_path / Path(name).name).write_bytes((recordings / name).read_bytes())
    listed = find_windows(tmp_path, WINDOW_S).windows
    (tmp_path / "c1.mp4").write_bytes((tmp_path / "c1.mp4").read_bytes()[:9000])
    scorer = FakeScorer()
    found = score_windows(listed, [scorer], SETTINGS)
    assert {one.file for one in found.unusable} == {window.name for window in listed if window.file == "c1.mp4"}
    assert {row.file for row in found.rows} == {"c0.mp4"}
    assert {row.kind for row in found.absent if "another recording" in row.reason} == {"swapped_audio"}
    with pytest.raises(InputError, match="no window could be decoded"):
        score_windows([window for window in listed if window.file == "c1.mp4"], [scorer], SETTINGS)


def test_the_document_is_plain_json_and_the_tables_have_every_metric(windows, knowing, scored) -> None:
    found = validate_metrics(scored, [knowing], SETTINGS)
    written = document(windows_of(windows), [knowing], scored, found, SETTINGS)
    again = json.loads(json.dumps(written, allow_nan=False))
    assert [one["metric"] for one in again["metrics"]] == ["audio_video", "desync", "visual_quality"]
    assert again["metrics"][0]["overall"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert set(again["metrics"][0]["kinds"]) == set(SEED_KINDS)
    assert again["scorers"][0]["is_meaningful"] is True
    assert [row["metric"] for row in overall_rows(found)] == ["random guess", "audio_video", "desync", "visual_quality"]
    assert all(set(SEED_KINDS) < set(row) for row in kind_rows(found))
    drawn = panels(found)
    assert len(drawn) == 6 and all(panel.alt_text for panel in drawn)


def test_the_command_writes_and_prints_it_all(call, recordings, tmp_path) -> None:
    out = tmp_path / "found"
    answer = call("rewards", "validate", recordings, "--out", out, "--window-s", 5, "--seed", 4)
    assert answer.code == 5  # two files could not be used
    for words in ("AUROC", "random guess", "av_align", "desync", "swapped_audio", "half.mp4: not used", "monotonicity"):
        assert words in answer.out
    written = json.loads((out / "validation.json").read_text(encoding="utf-8"))
    assert written["schema_version"] >= 1 and written["settings"]["seed"] == 4
    assert (written["recordings"], written["windows"]) == (NUM_RECORDINGS, NUM_RECORDINGS)
    table = pq.read_table(out / "validation.parquet")
    values = [row for row in table.to_pylist() if row["metric"] == "desync" and row["value"] is not None]
    assert values and all(math.isfinite(row["value"]) for row in values)
    assert (out / "validation.csv").read_text().count("\n") >= table.num_rows
    assert (out / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert {one["metric"]: one["dimension"] for one in written["metrics"]}["desync"] == "sync"


def test_json_is_the_file_and_the_same_again(call, recordings, tmp_path) -> None:
    arguments = ["--out", tmp_path, "--window-s", 3, "--negatives", 2, "--scorers", "fake", "--json"]
    first, again = (call("rewards", "validate", recordings, *arguments).document for _ in range(2))
    assert first == again == {**json.loads((tmp_path / "validation.json").read_text()), "out": str(tmp_path)}
    assert first["settings"]["num_negatives"] == 2


@pytest.mark.parametrize(
    ("given", "code", "expected"),
    [
        (["--scorers", "loud"], 2, "loud"),
        (["--window-s", "0"], 2, "window-s"),
        (["--negatives", "0"], 2, "negatives"),
        (["--window-s", "50"], 4, "--window-s"),
    ],
)
def test_bad_requests(call, recordings, tmp_path, given, code, expected) -> None:
    answer = call("rewards", "validate", recordings, "--out", tmp_path / "out", *given)
    assert (answer.code, answer.out) == (code, "")
    assert expected in answer.err
    assert not (tmp_path / "out").exists()


def test_texts_beside_the_recordings_are_pointed_at(call, recordings, tmp_path) -> None:
    (tmp_path / "c0.mp4").write_bytes((recordings / "c0.mp4").read_bytes())
    (tmp_path / "clips.csv").write_text("file,text\nc0.mp4,a ball\n")
    arguments = ["--out", tmp_path / "out", "--window-s", 3, "--scorers", "fake"]
    folder = call("rewards", "validate", tmp_path, *arguments)
    assert folder.code == 0 and f"avpref rewards validate {tmp_path / 'clips.csv'}" in folder.err
    listed = call("rewards", "validate", tmp_path / "clips.csv", *arguments)
    assert listed.code == 0 and "texts are not read" not in listed.err
    assert "1 recording: there are no intervals" in listed.out
