"""Numeric parity with the original prior estimator: priors, embeddings, losses and gradients; and with the temporal VAE."""

from __future__ import annotations

import pytest
import torch
from dual_stream_vectors import V01, arrays, config_from
from golden_tensors import made_tensors
from torch import Tensor

from avpref.models.dual_stream.opensora_vae import decode_windows, encode_windows, num_latent_frames
from avpref.models.dual_stream.prior_losses import KINDS, ClipBatch, clip_embeddings, prior_loss
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.dual_stream.temporal_vae import TemporalVae, TemporalVaeConfig

pytestmark = pytest.mark.golden
TOLERANCE = 5e-5


def close(actual: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == wanted.shape
    assert (actual - wanted).abs().max().item() <= tolerance


@pytest.fixture(scope="module")
def io(v01: V01) -> dict[str, Tensor]:
    return arrays(v01.folder / "prior_io.npz")


@pytest.fixture
def estimator(v01: V01) -> SynchronyPrior:
    network = SynchronyPrior(config_from(PriorConfig, v01.config["prior"]))
    entries = v01.document("prior_names.json")
    state = network.state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in state.items()] == [(e["name"], e["shape"]) for e in entries]
    network.load_state_dict(made_tensors(entries, v01.config["seed"], "prior."))
    return network


def clips(v01: V01, io: dict[str, Tensor], case: str) -> ClipBatch:
    data = v01.config["prior_data"]
    negatives = {
        track: {kind: io[name] for kind in KINDS if (name := f"in.{case}.neg_{track}.{kind}") in io}
        for track in ("video", "audio")
    }
    size_px = float(data["height"]), float(data["width"])
    return ClipBatch(io["in.video"], io["in.audio"], size_px, negatives["video"], negatives["audio"])


def test_priors_of_texts(estimator: SynchronyPrior, io: dict[str, Tensor]) -> None:
    priors = estimator(io["in.text_hidden"], io["in.eps"])
    close(estimator.prior_extractor.encoder(estimator.in_proj(io["in.text_hidden"])), io["out.encoder"])
    assert priors.log_variance is not None
    close(torch.cat([priors.mean, priors.log_variance], dim=-1), io["out.moments"])
    close(priors.spatial, io["out.spatial_prior"])
    close(priors.temporal, io["out.temporal_prior"])
    with torch.no_grad():
        close(estimator.eval()(io["in.text_hidden"], io["in.eps"]).spatial, io["out.spatial_prior"])


@torch.no_grad()
def test_tokens_of_clips(v01: V01, estimator: SynchronyPrior, io: dict[str, Tensor]) -> None:
    batch = clips(v01, io, "one_each")
    tracks = {"video": estimator.embed_video(batch.video, batch.size_px), "audio": estimator.embed_audio(batch.audio)}
    for track, tokens in tracks.items():
        for kind, value in zip(KINDS, tokens, strict=True):
            close(value, io[f"out.{track}_{kind}"])


@pytest.mark.parametrize("case", ["one_each", "uneven"])
def test_losses_and_gradients(v01: V01, estimator: SynchronyPrior, io: dict[str, Tensor], case: str) -> None:
    batch = clips(v01, io, case)
    for kind in KINDS:
        close(clip_embeddings(estimator, batch, kind), io[f"out.{case}.{kind}_embed"])
    loss = prior_loss(estimator, estimator(io["in.text_hidden"], io["in.eps"]), batch)
    close(loss.total, io[f"out.{case}.loss"].reshape(()))
    for name, wanted in v01.config["prior_measured"][f"terms_{case}"].items():
        assert loss.terms[name].item() == pytest.approx(wanted, abs=TOLERANCE), name
    loss.total.backward()
    gradients = {name: parameter.grad for name, parameter in estimator.named_parameters()}
    prefix = f"grad.{case}."
    names = [name.removeprefix(prefix) for name in io if name.startswith(prefix)]
    assert names
    for name in names:
        gradient, wanted = gradients[name], io[prefix + name]
        assert gradient is not None
        close(gradient, wanted, 1e-4 * wanted.abs().max().item())


def test_a_kind_without_negatives_is_refused(v01: V01, estimator: SynchronyPrior, io: dict[str, Tensor]) -> None:
    batch = clips(v01, io, "one_each")
    alone = ClipBatch(batch.video, batch.audio, batch.size_px)
    with pytest.raises(ValueError, match="no spatial negative"):
        prior_loss(estimator, estimator(io["in.text_hidden"], io["in.eps"]), alone)


@torch.no_grad()
def test_the_temporal_vae(v01: V01) -> None:
    vectors, sizes = arrays(v01.folder / "vae_io.npz"), v01.config["vae"]
    vae = TemporalVae(config_from(TemporalVaeConfig, sizes))
    entries = v01.document("vae_names.json")
    assert [(name, list(t.shape)) for name, t in vae.state_dict().items()] == [(e["name"], e["shape"]) for e in entries]
    vae.load_state_dict(made_tensors(entries, v01.config["seed"], "vae."))
    noises = [vectors[f"window{number}.eps"] for number in range(2)]
    for number, window in enumerate(vectors["in.frames"].split(17, dim=2)):
        close(torch.cat(vae.moments(window), dim=1), vectors[f"window{number}.moments"])
    latent = encode_windows(vae, vectors["in.frames"], lambda shape: noises.pop(0))
    close(latent, vectors["out.latent"])
    close(decode_windows(vae, vectors["out.latent"], sizes["frames"]), vectors["out.decoded"])
    for frames, latents in v01.config["vae_measured"]["latent_frames"].items():
        assert num_latent_frames(int(frames)) == latents
