"""Small models that FunASR's own classes made, with random weights: equal to FunASR called directly. Skipped without FunASR."""

from __future__ import annotations

import io
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from stand_in_library import library_or_skip

from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.libraries.funasr_speech import FunasrSpeech, covered_share
from avpref.rewards.outside.scorer_contract import Contract
from avpref.rewards.protocol import ScorableClip

pytestmark = pytest.mark.filterwarnings("ignore")
"""Warnings of the libraries themselves."""
RATE_HZ = 16000
FSMN = {
    "input_dim": 400,
    "input_affine_dim": 24,
    "fsmn_layers": 2,
    "linear_dim": 32,
    "proj_dim": 16,
    "lorder": 20,
    "rorder": 0,
    "lstride": 1,
    "rstride": 0,
    "output_affine_dim": 24,
    "output_dim": 8,
}
SENSE_VOICE = {
    "output_size": 32,
    "attention_heads": 2,
    "linear_units": 48,
    "num_blocks": 2,
    "tp_blocks": 1,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}
FRONTEND: dict[str, Any] = {"fs": RATE_HZ, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def funasr() -> Iterator[Any]:
    module = library_or_skip("funasr")
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def sounds(seconds: float = 12.0) -> np.ndarray:
    """Noise in the second second and every fourth one after it, and a hundredth of it between, float32 [S]."""
    noise = np.random.default_rng(2).normal(size=int(RATE_HZ * seconds))
    is_loud = np.arange(len(noise)) // RATE_HZ % 4 == 1
    return (0.2 * noise * np.where(is_loud, 1.0, 0.01)).astype(np.float32)


def clip(sound: np.ndarray) -> ScorableClip:
    return ScorableClip("a", "", DecodedClip(None, 0.0, sound, RATE_HZ, len(sound) / RATE_HZ))


def write_folder(folder: Path, config: dict[str, Any], network: torch.nn.Module) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    for tensor in network.parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator) / max(tensor[0].numel(), 1) ** 0.5
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def vad_folder(folder: Path, lfr_m: int = 5, **frontend: float) -> Path:
    from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

    rules = {"sample_rate": RATE_HZ, "max_end_silence_time": 300, "sil_pdf_ids": [0], "decibel_thres": -10.0}
    network = FsmnVADStreaming(encoder="FSMN", encoder_conf=FSMN, **rules)
    config = {"model": "FsmnVADStreaming", "model_conf": rules, "encoder": "FSMN", "encoder_conf": FSMN}
    config |= {"frontend": "WavFrontendOnline", "frontend_conf": {**FRONTEND, "lfr_m": lfr_m, "lfr_n": 1, **frontend}}
    folder.mkdir(parents=True)
    shift, scale = " ".join(["-10"] * 400), " ".join(["0.2"] * 400)
    lines = ["<Nnet>", "<Splice> 400 400", "[ 0 ]"]
    lines += ["<AddShift> 400 400", f"<LearnRateCoef> 0 [ {shift} ]", "<Rescale> 400 400"]
    lines += [f"<LearnRateCoef> 0 [ {scale} ]", "</Nnet>"]
    (folder / "am.mvn").write_text("\n".join(lines), encoding="utf-8")
    return write_folder(folder, config, network)


def sense_voice_folder(folder: Path, **frontend: float) -> Path:
    import sentencepiece
    from funasr.models.sense_voice.model import SenseVoiceSmall

    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a pool of clips with sound", "some words for a tokenizer"] * 20),
        model_writer=model,
        model_type="char",
        hard_vocab_limit=False,
        user_defined_symbols=["<|nospeech|>", "<|en|>"],
        minloglevel=2,
    )
    (folder / "small.bpe.model").write_bytes(model.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    kept = {"encoder": "SenseVoiceEncoderSmall", "encoder_conf": SENSE_VOICE}
    network = SenseVoiceSmall(**kept, input_size=560, vocab_size=size)
    config = {"model": "SenseVoiceSmall", **kept}
    config |= {"frontend": "WavFrontend", "frontend_conf": {**FRONTEND, "lfr_m": 7, "lfr_n": 6, **frontend}}
    tokenizer = {"unk_symbol": "<unk>", "bpemodel": str(folder / "small.bpe.model")}
    config |= {"tokenizer": "SentencepiecesTokenizer", "tokenizer_conf": tokenizer}
    return write_folder(folder, config, network)


def loaded(**folders: Path) -> FunasrSpeech:
    scorer = FunasrSpeech(FunasrSpeech.Settings(**{name: str(folder) for name, folder in folders.items()}))
    scorer.load("cpu")
    return scorer


def direct(funasr: Any, folder: Path, sound: np.ndarray, **more: Any) -> Any:
    """FunASR's own answer for a folder."""
    model = funasr.AutoModel(model=str(folder), disable_update=True, device="cpu", disable_pbar=True, **more)
    return model.generate(input=sound)[0]


def test_fsmn_vad_gives_the_segments_of_funasr(funasr: Any, tmp_path: Path) -> None:
    folder, sound = vad_folder(tmp_path / "vad", dither=0.0), sounds()
    expected = [tuple(segment) for segment in direct(funasr, folder, sound)["value"]]
    scorer = loaded(vad=folder)
    (network,) = scorer._networks.values()
    assert len(expected) == 3
    assert network.segments_ms(sound) == expected
    (row,) = scorer.score([clip(sound)])
    assert row[0].value == pytest.approx(covered_share(expected, 1000 * len(sound) / RATE_HZ))
    assert 0.0 < covered_share(expected, 1000 * len(sound) / RATE_HZ) < 1.0


def test_sense_voice_writes_the_text_of_funasr(funasr: Any, tmp_path: Path) -> None:
    folder, sound = sense_voice_folder(tmp_path / "voice", dither=0.0), sounds()
    expected = direct(funasr, folder, sound)
    assert expected["text"]
    scorer = loaded(sense_voice=folder)
    (network,) = scorer._networks.values()
    assert network.text(sound) == expected["text"]
    (row,) = scorer.score([clip(sound)])
    assert row[0].value == float("<|nospeech|>" not in expected["text"])


def test_both_keep_the_contract_although_their_folders_ask_for_random_noise(funasr: Any, tmp_path: Path) -> None:
    folders = {"vad": vad_folder(tmp_path / "vad", dither=5.0), "sense_voice": sense_voice_folder(tmp_path / "voice")}
    state = torch.random.get_rng_state(), random.getstate(), torch.get_num_threads()
    scorer = loaded(**folders)
    after = torch.random.get_rng_state(), random.getstate(), torch.get_num_threads()
    assert torch.equal(state[0], after[0])
    assert state[1:] == after[1:]
    assert [metric.name for metric in scorer.metrics] == ["funasr_speech_share", "sense_voice_speech"]
    findings = list(Contract(scorer, [clip(sounds()), clip(sounds(2.0))]).findings())
    assert all(finding.is_passed for finding in findings), findings


def test_folders_of_other_models_and_files_without_a_tensor_are_refused(funasr: Any, tmp_path: Path) -> None:
    folder = vad_folder(tmp_path / "vad")
    with pytest.raises(InputError, match="is of model FsmnVADStreaming"):
        loaded(sense_voice=folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    torch.save(dict(list(state.items())[1:]), folder / "model.pt")
    with pytest.raises(InputError, match="lacks encoder"):
        loaded(vad=folder)
    voice = sense_voice_folder(tmp_path / "voice")
    (voice / "small.bpe.model").unlink()
    with pytest.raises(InputError, match=r"0 files \*\.bpe\.model"):
        loaded(sense_voice=voice)
