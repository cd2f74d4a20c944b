"""The video VAE against diffusers' own class, small and with random weights; tiles; files of all layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from avpref.errors import ConfigError, InputError
from avpref.models.codecs.video_vae import CELL_PX, MEAN, STD, Tiling, VideoVae, load_video_vae

WIDTH = 4
WHOLE = Tiling()


def make_network(seed: int = 0, width: int = WIDTH):
    from diffusers.models import AutoencoderKLWan

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the class draws its own values from the global generator
        network = AutoencoderKLWan(base_dim=width).eval().requires_grad_(False)
    for parameter in network.parameters():
        scale = 1 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.ndim == 5 else 0.05
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae")
    network.save_pretrained(path)
    return path


def draw_frames(num_frames: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def draw_latent(num_latent: int, height: int, width: int, seed: int = 2) -> Tensor:
    return torch.randn(16, num_latent, height, width, generator=torch.Generator().manual_seed(seed))


def of_channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)


@pytest.mark.parametrize(("num_frames", "height", "width"), [(9, 32, 48), (1, 16, 16), (5, 16, 32)])
def test_latents_are_normalised_means(network, num_frames: int, height: int, width: int) -> None:
    frames = draw_frames(num_frames, height, width)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 255 * 2 - 1
    expected = (network.encode(pixels).latent_dist.mode() - of_channels(MEAN)) / of_channels(STD)
    actual = VideoVae(network, WHOLE).encode(frames)
    assert actual.shape == (16, (num_frames - 1) // 4 + 1, height // 8, width // 8) and actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected[0], rtol=1e-5, atol=1e-5)


def test_the_constants_are_those_of_the_published_configuration(network) -> None:
    assert (list(MEAN), list(STD)) == (network.config.latents_mean, network.config.latents_std)


@pytest.mark.parametrize(("num_latent", "height", "width"), [(3, 4, 6), (1, 2, 2)])
def test_frames_are_clamped_and_rounded_half_up(network, num_latent: int, height: int, width: int) -> None:
    latent = draw_latent(num_latent, height, width)
    values = network.decode(latent[None] * of_channels(STD) + of_channels(MEAN)).sample[0].double().numpy()
    levels = np.floor((values.transpose(1, 2, 3, 0) + 1) * 127.5 + 0.5)
    actual = VideoVae(network, WHOLE).decode(latent)
    assert actual.shape == (4 * num_latent - 3, 8 * height, 8 * width, 3) and actual.dtype == np.uint8
    difference = np.abs(levels - actual)
    assert difference.max() <= 1 and difference.mean() < 1e-3
    assert len(np.unique(actual)) > 50


def test_where_frames_are_kept_changes_nothing(network) -> None:
    latent, tiling = draw_latent(2, 6, 8), Tiling(32, 16)
    streamed, gathered = (VideoVae(network, tiling, stream_frames=way).decode(latent) for way in (True, False))
    np.testing.assert_array_equal(streamed, gathered)


def test_frames_depend_on_nothing_that_comes_later(network) -> None:
    vae, latent = VideoVae(network, WHOLE), draw_latent(3, 4, 4)
    np.testing.assert_array_equal(vae.decode(latent)[:5], vae.decode(latent[:, :2]))


@pytest.mark.parametrize("tiling", [Tiling(48, 16), Tiling(64, 0), Tiling(512, 64)])
def test_one_tile_is_the_whole(network, tiling: Tiling) -> None:
    latent = draw_latent(2, 4, 6)
    np.testing.assert_array_equal(VideoVae(network, tiling).decode(latent), VideoVae(network, WHOLE).decode(latent))


def test_inside_a_tile_everything_is_as_in_the_whole_where_nothing_attends(network) -> None:
    """Without the layer that attends, a tile knows all that its inner pixels depend on: 8 × 18 cells around them."""
    local = make_network()
    local.decoder.mid_block.attentions[0].proj.weight.zero_()
    latent, tiling = draw_latent(2, 2, 96), Tiling(480, 192)
    (_, first), (_, last) = tiling.along(96)
    whole, tiled = (VideoVae(local, way).decode(latent).astype(int) for way in (WHOLE, tiling))
    alone = torch.cat([first, torch.zeros(96 * CELL_PX - len(first))]).numpy() == 1
    alone |= torch.cat([torch.zeros(96 * CELL_PX - len(last)), last]).numpy() == 1
    assert 0.6 < alone.mean() < 0.9
    difference = np.abs(whole - tiled)
    assert difference[:, :, alone].max() <= 1 and difference[:, :, alone].mean() < 1e-3
    assert difference.mean() < 0.2


def test_tiles_come_close_to_the_whole(network) -> None:
    """Tiles of 256 px with 64 px in common: over six draws of weights 1.6 to 2.8 % of the picture's spread from the whole, and a
    tenth of what hard edges between small tiles leave."""
    latent = draw_latent(1, 4, 48)
    whole, tiled, hard = (
        VideoVae(network, way).decode(latent).astype(int) for way in (WHOLE, Tiling(256, 64), Tiling(64, 0))
    )
    assert np.abs(whole - tiled).mean() < 0.05 * whole.std()
    assert np.abs(whole - tiled).mean() < 0.2 * np.abs(whole - hard).mean()
    assert np.abs(whole - hard).mean() > 0.1 * whole.std()
    assert np.percentile(np.abs(whole - tiled), 99) < 20


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 11))
def test_tiles_cover_an_axis_once(num_cells: int, tile: int, overlap: int) -> None:
    tiling = Tiling(8 * tile, 8 * (overlap % tile))
    total, tiles = torch.zeros(8 * num_cells), tiling.along(num_cells)
    for cells, weights in tiles:
        assert len(weights) == 8 * (cells.stop - cells.start) and cells.stop - cells.start <= max(tile, 1)
        assert (weights >= 0).all()
        total[8 * cells.start : 8 * cells.stop] += weights
    torch.testing.assert_close(total, torch.ones(8 * num_cells))
    assert len(tiles) == 1 or tile < num_cells


@pytest.mark.parametrize(("tile", "overlap"), [(100, 16), (64, 12), (64, 64), (32, 64)])
def test_tiles_that_are_no_whole_cells(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="tile_px") as caught:
        Tiling(tile, overlap)
    assert caught.value.fix.startswith("--set")


def wan_name(name: str) -> str:
    """The name of a tensor in Wan2.1_VAE.pth, from diffusers' name: modules numbered as in the original's lists."""
    name = name.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.").replace(".conv_in.", ".conv1.")
    name = name.replace(".norm_out.", ".head.0.").replace(".conv_out.", ".head.2.")
    name = name.replace("mid_block.resnets.0", "middle.0").replace("mid_block.resnets.1", "middle.2")
    name = name.replace("mid_block.attentions.0", "middle.1").replace("down_blocks.", "downsamples.")
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
    if "middle.1" in name or ".resample." in name or ".time_conv." in name:
        return name
    parts = {".norm1.": ".residual.0.", ".conv1.": ".residual.2.", ".norm2.": ".residual.3.", ".conv2.": ".residual.6."}
    inside = any(part in name for part in (".middle.", ".downsamples.", ".upsamples."))
    for new, old in {**parts, ".conv_shortcut.": ".shortcut."}.items():
        name = name.replace(new, old) if inside else name
    return name


def test_wans_own_file(network, tmp_path: Path) -> None:
    state = {wan_name(name): tensor for name, tensor in network.state_dict().items()}
    assert {"encoder.conv1.weight", "decoder.head.2.bias", "decoder.upsamples.14.residual.6.weight"} <= state.keys()
    assert {
        "encoder.downsamples.2.resample.1.weight",
        "decoder.upsamples.4.shortcut.weight",
        "conv2.bias",
    } <= state.keys()
    path = tmp_path / "Wan2.1_VAE.pth"
    torch.save(state, path)
    assert_equal_networks(load_video_vae(path), network)


def assert_equal_networks(actual, expected) -> None:
    for (name, tensor), (other, same) in zip(actual.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other and torch.equal(tensor, same), name


def test_a_folder_of_diffusers(network, folder: Path, tmp_path: Path) -> None:
    assert_equal_networks(load_video_vae(folder), network)
    network.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal_networks(load_video_vae(tmp_path), network)


def test_weights_are_rounded_and_arithmetic_is_not(network, folder: Path) -> None:
    rounded = load_video_vae(folder, dtype=torch.bfloat16)
    for actual, original in zip(rounded.parameters(), network.parameters(), strict=True):
        assert actual.dtype == torch.float32 and torch.equal(actual, original.bfloat16().float())
    assert VideoVae(rounded, WHOLE).encode(draw_frames(1, 16, 16)).dtype == torch.float32


def drop(state: dict[str, Tensor]) -> None:
    del state["decoder.conv_in.bias"]


def add(state: dict[str, Tensor]) -> None:
    state["decoder.conv_in.scale"] = torch.ones(2)


def reshape(state: dict[str, Tensor]) -> None:
    state["decoder.conv_in.bias"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [(drop, "1 missing"), (add, "1 unexpected"), (reshape, "of another shape")],
    ids=["-", "+", "x"],
)
def test_files_that_do_not_fit(folder: Path, tmp_path: Path, change: Callable, message: str) -> None:
    file = "diffusion_pytorch_model.safetensors"
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = load_file(folder / file)
    change(state)
    save_file(state, tmp_path / file)
    with pytest.raises(InputError, match=message) as caught:
        load_video_vae(tmp_path)
    assert "decoder.conv_in" in caught.value.found


def test_files_that_are_something_else(folder: Path, tmp_path: Path) -> None:
    from diffusers.models import AutoencoderKLWan

    whole = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_video_vae(tmp_path / "half.safetensors")
    with pytest.raises(InputError, match="absent"):
        load_video_vae(tmp_path / "nothing")
    AutoencoderKLWan(base_dim=WIDTH, z_dim=48).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="z_dim is 48"):
        load_video_vae(tmp_path / "other")
    torch.save({"blocks.0.weight": torch.ones(2)}, tmp_path / "stranger.pth")
    with pytest.raises(InputError, match="missing"):
        load_video_vae(tmp_path / "stranger.pth")
