"""OpenSora's VAE with its spatial part, and the T5 encoder, at tiny sizes with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from avpref.errors import InputError
from avpref.models.dual_stream.opensora_vae import OpenSoraSizes, OpenSoraVae, load_opensora_vae
from avpref.models.dual_stream.t5_text import T5TextEncoder, sampled_prompt
from avpref.models.dual_stream.temporal_vae import TemporalVaeConfig

SIZES = OpenSoraSizes(
    TemporalVaeConfig(filters=8, num_res_blocks=1, num_groups=4), widths=(8, 8, 8, 8), num_res_blocks=1, num_groups=4
)


@pytest.fixture
def vae() -> OpenSoraVae:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return OpenSoraVae(SIZES).eval()


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 17, 20])
def test_a_video_keeps_its_shape_through_the_vae(vae: OpenSoraVae, num_frames: int) -> None:
    video = torch.rand(2, 3, num_frames, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    drawn: list[torch.Size] = []

    def normal(shape: torch.Size) -> torch.Tensor:
        drawn.append(shape)
        return torch.zeros(shape)

    latents = vae.encode(video, normal)
    assert latents.shape == (2, 4, {1: 1, 17: 5, 20: 6}[num_frames], 4, 6)
    assert vae.decode(latents, num_frames).shape == video.shape
    assert len(drawn) == -(-2 * num_frames // 4) + -(-num_frames // 17)
    first = vae.encode(video[:1], lambda shape: torch.zeros(shape))
    torch.testing.assert_close(latents[:1], first, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="latent frames for"):
        vae.decode(latents, num_frames + 8)


def test_the_vae_loads_strictly_under_the_released_names(vae: OpenSoraVae) -> None:
    state = dict(vae.state_dict())
    assert {name.split(".")[0] for name in state} == {"spatial_vae", "temporal_vae", "scale", "shift"}
    assert all(name.startswith("spatial_vae.module.") for name in state if name.startswith("spatial"))
    loaded = load_opensora_vae(OpenSoraVae(SIZES), state, "a file")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in state.items())
    with pytest.raises(InputError, match="OpenSora's video VAE"):
        load_opensora_vae(vae, {**state, "more": torch.zeros(1)}, "a file")
    with pytest.raises(InputError, match="scale is"):
        load_opensora_vae(vae, {**state, "scale": state["scale"] * 2}, "a file")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "a", "dog", "barks"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(str(tmp_path))
    sizes: dict[str, Any] = {
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }
    T5EncoderModel(T5Config(vocab_size=len(words), **sizes)).save_pretrained(str(tmp_path))
    return tmp_path


def test_states_of_texts_have_one_length_and_ignore_padding(folder: Path) -> None:
    encoder = T5TextEncoder(folder, length=6, dtype=torch.float32)
    batch = encoder.encode(["a dog barks", "a dog"])
    assert batch.states.shape == (2, 6, 8)
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    short = T5TextEncoder(folder, length=3, dtype=torch.float32).encode(["a dog barks a dog"])
    torch.testing.assert_close(short.states[0], batch.states[0, :3])
    with pytest.raises(InputError, match=r"T5 v1\.1 encoder"):
        T5TextEncoder(folder / "absent")


def test_a_sampled_prompt_ends_with_a_score_once() -> None:
    assert sampled_prompt("  A Dog\n barks ") == "a dog barks aesthetic score: 6.5."
    assert sampled_prompt(sampled_prompt("A dog")) == sampled_prompt("A dog")
