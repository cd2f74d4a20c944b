"""Prior tokens before the states of a text: order, padding, independence of other texts, files of other sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avpref.config.base_settings import BaseSections
from avpref.config.codec_settings import IdentityCodecSettings
from avpref.config.network_settings import NetworkSettings, PriorSettings
from avpref.errors import InputError
from avpref.models.bases.javis_base import JavisBase
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.synchronisers.prior_text import PriorText, read_estimator
from avpref.models.text import WordText

WIDTH, LENGTH, CHANNELS = 12, 5, 8
CONFIG = PriorConfig(
    text_emb_dim=WIDTH,
    spatial_token_num=3,
    temporal_token_num=2,
    hidden_size=16,
    out_dim=CHANNELS,
    num_encoder_layers=1,
    num_decoder_layers=2,
    feedforward_scale=2,
)
TEXTS = ["a red ball falls", "", "a glass ball bounces from the left"]


def saved(path: Path, config: PriorConfig = CONFIG, seed: int = 0) -> PriorSettings:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(SynchronyPrior(config).state_dict(), path)
    return PriorSettings(weights=str(path), spatial_tokens=3, temporal_tokens=2, channels=CHANNELS)


def test_priors_come_first_and_are_the_means(tmp_path: Path) -> None:
    settings, words = saved(tmp_path / "prior.safetensors"), WordText(WIDTH, LENGTH)
    batch, plain = PriorText(words, settings).encode(TEXTS), words.encode(TEXTS)
    assert batch.states.shape == (3, 5 + LENGTH, WIDTH) and batch.mask.shape == (3, 5 + LENGTH)
    assert torch.equal(batch.states[:, 5:], plain.states) and torch.equal(batch.mask[:, 5:], plain.mask)
    assert batch.mask[:, :5].all() and not batch.states[:, :5, CHANNELS:].any()
    with torch.no_grad():
        priors = read_estimator(settings).eval()(plain.states)
    joined = torch.cat([priors.spatial, priors.temporal], dim=1)
    torch.testing.assert_close(batch.states[:, :5, :CHANNELS], joined, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_other_texts(tmp_path: Path) -> None:
    encoder = PriorText(WordText(WIDTH, LENGTH), saved(tmp_path / "prior.safetensors"))
    together = encoder.encode(TEXTS).states
    for row, text in enumerate(TEXTS):
        assert torch.equal(encoder.encode([text]).states[0], together[row])
    assert not torch.equal(together[0, :5], together[2, :5])


def test_fingerprint_follows_bytes_and_text_encoder(tmp_path: Path) -> None:
    first, copy = saved(tmp_path / "a.safetensors"), saved(tmp_path / "copy.safetensors")
    other = saved(tmp_path / "b.safetensors", seed=1)
    words = WordText(WIDTH, LENGTH)
    assert PriorText(words, first).fingerprint == PriorText(words, copy).fingerprint
    fewer_heads = first.model_copy(update={"num_heads": 2})
    different = {PriorText(words, own).fingerprint for own in (first, other, fewer_heads)}
    different |= {PriorText(WordText(WIDTH, 6), first).fingerprint, words.fingerprint}
    assert len(different) == 5


def test_tensors_of_training_are_not_needed(tmp_path: Path) -> None:
    trained = replace(CONFIG, encode_va=True, video_in_channel=3, audio_in_channel=1)
    estimator = read_estimator(saved(tmp_path / "trained.safetensors", trained))
    assert estimator.state_dict().keys() == SynchronyPrior(CONFIG).state_dict().keys()


def test_estimators_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    settings = saved(tmp_path / "prior.safetensors")
    with pytest.raises(InputError, match="reads states of width 12"):
        PriorText(WordText(13, LENGTH), settings).encode(["a ball"])
    with pytest.raises(InputError, match="3 spatial and 2 temporal tokens"):
        read_estimator(settings.model_copy(update={"temporal_tokens": 4}))
    with pytest.raises(InputError, match="has width 16"):
        read_estimator(settings.model_copy(update={"num_heads": 5}))
    with pytest.raises(InputError, match="16 outputs"):
        read_estimator(settings.model_copy(update={"channels": 9}))
    with pytest.raises(InputError, match="is absent"):
        PriorText(WordText(WIDTH, LENGTH), PriorSettings(weights=str(tmp_path / "none"))).fingerprint  # noqa: B018
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="is no prior estimator"):
        read_estimator(PriorSettings(weights=str(tmp_path / "other.safetensors")))


def test_the_base_model_puts_priors_before_its_texts(tmp_path: Path) -> None:
    network = NetworkSettings(
        dim=24,
        ffn_dim=32,
        freq_dim=16,
        text_dim=WIDTH,
        text_len=LENGTH,
        num_heads=2,
        num_layers=1,
        in_dim=3,
        audio_in_dim=1,
        synchroniser="st_prior",
        prior=saved(tmp_path / "prior.safetensors"),
    )
    base = JavisBase(BaseSections(network=network, codec=IdentityCodecSettings(audio_bands=8)))
    encoded = base.text_encoder(tmp_path).encode(["a ball"])
    assert base.text_shape() == tuple(encoded.states.shape[1:]) == (5 + LENGTH, WIDTH)
    assert base.text_fingerprint() != WordText(WIDTH, LENGTH).fingerprint
    moved = network.model_copy(update={"prior": saved(tmp_path / "moved.safetensors")})
    other = JavisBase(BaseSections(network=moved, codec=IdentityCodecSettings(audio_bands=8)))
    assert other.identity == base.identity and other.text_fingerprint() == base.text_fingerprint()
