"""Speech by FunASR without FunASR: shares and verdicts from known answers, identity, settings and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stand_in_library import absent, installed

from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import ConfigError, InputError
from avpref.flows.workers.scorers import resolve
from avpref.media.reading import DecodedClip
from avpref.rewards.libraries.funasr_networks import FunasrNetwork
from avpref.rewards.libraries.funasr_speech import SHARE, VERDICT, FunasrSpeech, covered_share
from avpref.rewards.protocol import ScorableClip

EMPTY = "tables = None"
WITHOUT_FILTER_BANKS = """
import sys, types

for name in ("register", "utils", "utils.fbank"):
    sys.modules["funasr." + name] = types.ModuleType("funasr." + name)


def fbank(waveform):
    raise ImportError("kaldi-native-fbank is not installed")


sys.modules["funasr.register"].tables = None
sys.modules["funasr.utils.fbank"].fbank = fbank
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.yaml", "model.pt", "am.mvn", "small.bpe.model"):
        (model / name).write_text(name, encoding="utf-8")
    with installed(tmp_path / "packages", "funasr", EMPTY):
        yield model


class Answers:
    """A network that gives stretches of speech or a text, whatever it hears."""

    def __init__(self, value: list[list[int]] | None = None, text: str = "") -> None:
        self.answer: dict[str, object] = {"key": "clip", "value": value, "text": text}

    def inference(self, data_in: list[object], **_: object) -> tuple[list[dict[str, object]], dict[str, object]]:
        assert len(data_in) == 1
        return [self.answer], {}


def scored(scorer: FunasrSpeech, sound: np.ndarray | None, rate_hz: int = 48000) -> list[float | str | None]:
    seconds = 2.0 if sound is None else len(sound) / rate_hz
    (row,) = scorer.score([ScorableClip("a", "", DecodedClip(None, 0.0, sound, rate_hz, seconds))])
    return [score.reason if score.value is None else score.value for score in row]


def with_answers(folder: Path, vad: Answers, voice: Answers) -> FunasrSpeech:
    scorer = FunasrSpeech(FunasrSpeech.Settings(vad=str(folder), sense_voice=str(folder)))
    scorer._networks = {SHARE: FunasrNetwork(vad, None, None, "cpu"), VERDICT: FunasrNetwork(voice, None, None, "cpu")}
    return scorer


def test_the_share_is_that_of_the_stretches_and_the_verdict_is_0_without_speech(folder: Path) -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, 96000).astype(np.float32)
    silent_words = "<|nospeech|><|EMO_UNKNOWN|><|BGM|><|woitn|>"
    scorer = with_answers(folder, Answers([[0, 500], [1500, 2000]]), Answers(text=silent_words))
    assert scored(scorer, sound) == [pytest.approx(0.5), 0.0]
    scorer = with_answers(folder, Answers([]), Answers(text="<|en|><|NEUTRAL|><|Speech|><|woitn|>words"))
    assert scored(scorer, sound) == [0.0, 1.0]
    assert scored(scorer, 0 * sound) == ["silent", "silent"]
    assert scored(scorer, None) == ["no audio track", "no audio track"]


def test_stretches_that_overlap_or_end_after_the_sound_count_once() -> None:
    assert covered_share([(0, 600), (300, 800)], 1000.0) == pytest.approx(0.8)
    assert covered_share([(700, 1300), (100, 200)], 1000.0) == pytest.approx(0.4)
    assert covered_share([(1200, 1300)], 1000.0) == 0.0
    assert covered_share([], 1000.0) == 0.0


def test_metrics_follow_the_folders_that_are_named(folder: Path) -> None:
    both = {"vad": str(folder), "sense_voice": str(folder)}
    names = {
        tuple(metric.name for metric in source.metrics)
        for settings in (both, {"vad": str(folder)}, {"sense_voice": str(folder)})
        for source in resolve([ScorerUse(use="funasr", settings=dict(settings))], ScoringSettings())
    }
    assert names == {
        ("funasr_speech_share", "sense_voice_speech"),
        ("funasr_speech_share",),
        ("sense_voice_speech",),
    }


@pytest.mark.parametrize("name", ["config.yaml", "model.pt", "am.mvn", "small.bpe.model"])
def test_the_identity_follows_the_bytes_of_every_file_and_not_the_folder(
    folder: Path, tmp_path: Path, name: str
) -> None:
    def fingerprint(model: Path) -> str:
        use = ScorerUse(use="funasr", settings={"vad": str(model)})
        return resolve([use], ScoringSettings())[0].fingerprint

    first = fingerprint(folder)
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint(moved) == first
    (moved / name).write_text("other", encoding="utf-8")
    assert fingerprint(moved) != first


def test_wrong_settings_absent_files_and_an_absent_library_are_errors(folder: Path, tmp_path: Path) -> None:
    for settings, words in (({}, "a folder in vad"), ({"model": "x"}, "model")):
        with pytest.raises(ConfigError, match=words):
            resolve([ScorerUse(use="funasr", settings=dict(settings))], ScoringSettings())
    named = FunasrSpeech.Settings(vad=str(folder))
    with absent("funasr"), pytest.raises(InputError, match="funasr is not installed") as absence:
        FunasrSpeech(named)
    assert absence.value.fix.startswith("pip install 'funasr[knf]==")
    (folder / "model.pt").unlink()
    with pytest.raises(InputError, match=r"no file .*model\.pt") as failure:
        FunasrSpeech(named)
    assert "FsmnVADStreaming" in failure.value.expected


def test_a_library_that_does_not_import_is_an_error_with_its_cause(folder: Path, tmp_path: Path) -> None:
    scorer = FunasrSpeech(FunasrSpeech.Settings(vad=str(folder)))
    broken = installed(tmp_path / "broken", "funasr", "raise OSError('libc10_cuda.so: cannot open')")
    with broken, pytest.raises(InputError, match=r"libc10_cuda\.so"):
        scorer.load("cpu")


def test_absent_filter_banks_are_an_error_of_the_loading_and_not_of_each_clip(folder: Path, tmp_path: Path) -> None:
    scorer = FunasrSpeech(FunasrSpeech.Settings(vad=str(folder)))
    without = installed(tmp_path / "without", "funasr", WITHOUT_FILTER_BANKS)
    with without, pytest.raises(InputError, match="no package for filter banks") as failure:
        scorer.load("cpu")
    assert failure.value.fix == "pip install 'funasr[knf]==1.4.16'"
