"""configs/javisdit-sft.yaml at tiny size: from a file of Wan 2.1's names through both stages of SFT, with the released codecs."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_codecs import save_tiny_codecs

from avpref.config.loading import load_config
from avpref.errors import InputError
from avpref.flows.run import Run
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import sft
from avpref.media.writing import encode_clip
from avpref.storage.run_folder import create
from avpref.trainer.adapter_files import read_adapter_config, read_adapter_weights

CONFIG = Path(__file__).parents[3] / "configs" / "javisdit-sft.yaml"
DIM, FFN, FREQ, TEXT, LAYERS, RANK = 24, 32, 16, 16, 2, 2
AUDIO_STEPS, STEPS = 3, 4
RATE_HZ = 16000


def wan_tensors() -> dict[str, torch.Tensor]:
    """All tensors of Wan 2.1 T2V under its names, at tiny size; random values."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (DIM, 16, 1, 2, 2),
        "patch_embedding.bias": (DIM,),
        "head.head.weight": (64, DIM),
        "head.head.bias": (64,),
        "head.modulation": (1, 2, DIM),
    }
    linear = {"text_embedding.0": (DIM, TEXT), "text_embedding.2": (DIM, DIM), "time_embedding.0": (DIM, FREQ)}
    linear |= {"time_embedding.2": (DIM, DIM), "time_projection.1": (6 * DIM, DIM)}
    for block in (f"blocks.{number}" for number in range(LAYERS)):
        linear |= {f"{block}.ffn.0": (FFN, DIM), f"{block}.ffn.2": (DIM, FFN)}
        for attention in ("self_attn", "cross_attn"):
            linear |= {f"{block}.{attention}.{name}": (DIM, DIM) for name in "qkvo"}
            shapes |= {f"{block}.{attention}.norm_{name}.weight": (DIM,) for name in "qk"}
        shapes |= {f"{block}.norm3.{name}": (DIM,) for name in ("weight", "bias")}
        shapes[f"{block}.modulation"] = (1, 6, DIM)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert len(shapes) == 15 + 27 * LAYERS
    draw = torch.Generator().manual_seed(1)
    return {name: 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


AUDIO_NAMES = {
    *(f"audio_{name}.{kind}" for name in ("patch_embedding", "time_projection.1") for kind in ("weight", "bias")),
    *("audio_head.head.weight", "audio_head.head.bias", "audio_head.modulation"),
    *(f"blocks.{block}.audio_modulation.param" for block in range(LAYERS)),
    *(
        f"blocks.{block}.audio_ffn.{layer}.{kind}"
        for block in range(LAYERS)
        for layer in (0, 2)
        for kind in ("weight", "bias")
    ),
}
ADAPTED = {
    f"blocks.{block}.{name}"
    for block in range(LAYERS)
    for name in (
        *(f"{attention}.{projection}" for attention in ("self_attn", "cross_attn") for projection in "qkvo"),
        *(f"{network}.{layer}" for network in ("ffn", "audio_ffn") for layer in (0, 2)),
    )
}


def write_recordings(folder: Path) -> tuple[Path, Path]:
    """Lists of four short clips, and of three recordings of sound alone."""
    draw = np.random.default_rng(2)
    rows, sounds = ["file,text"], ["file,text"]
    for number in range(4):
        frames = draw.integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
        sound = draw.uniform(-0.3, 0.3, 20 * RATE_HZ // 16).astype(np.float32)
        (folder / f"clip{number}.mp4").write_bytes(encode_clip(frames, 16.0, sound, RATE_HZ))
        rows.append(f"clip{number}.mp4,clip number {number}")
    for number in range(3):
        with wave.open(str(folder / f"sound{number}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(RATE_HZ)
            stream.writeframes((draw.uniform(-0.3, 0.3, 20000) * 32767).astype("<i2").tobytes())
        sounds.append(f"sound{number}.wav,sound number {number}")
    paths = folder / "clips.csv", folder / "sounds.csv"
    for path, lines in zip(paths, (rows, sounds), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def write_wan(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A folder like that of Wan 2.1: the network beside files of text encoder and VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": DIM, "num_heads": 2, "text_len": 8}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth"):
        (folder / name).write_bytes(b"not read")
    return folder


def open_wan_run(folder: Path, wan: Path) -> Run:
    """A run of the file with sizes, paths and steps changed, its prompts sealed."""
    clips, sounds = write_recordings(folder)
    codecs = ", ".join(f"{key}: {path}" for key, path in save_tiny_codecs(folder / "codecs", 5).items())
    sizes = f"dim: {DIM}, ffn_dim: {FFN}, freq_dim: {FREQ}, text_dim: {TEXT}, text_len: 8, num_heads: 2, num_layers: {LAYERS}"
    loop = {"steps": STEPS, "batch_size": 2, "num_threads": 1, "log_every": 1, "max_tokens": 2000}
    overrides = [
        f"prompts={{kind: clips, clips: {clips}, held_out_share: 0.25, num_evaluation_clips: 1}}",
        "clip={num_frames: 17, height_px: 48, width_px: 64, fps_hz: 16.0}",
        f"codec={{kind: javisdit, {codecs}}}",
        *("text={kind: words}", "executor={kind: in_process}"),
        f"network={{{sizes}, in_dim: 16, audio_in_dim: 8, audio_pe_type: interleave_offset, dual_ffn: true}}",
        *(
            f"sft.network={wan}",
            f"sft.audio_clips={sounds}",
            f"sft.audio_steps={AUDIO_STEPS}",
            "sft.audio_batch_size=3",
        ),
        *(f"sft.loop.{key}={value}" for key, value in loop.items()),
        *("sft.optimiser.lr=0.01", "sft.optimiser.warmup_steps=0", f"sft.adapter.rank={RANK}", "sft.adapter.alpha=1.0"),
        *("sft.audio_optimiser.lr=0.01", "sft.audio_optimiser.warmup_steps=0"),
    ]
    run = Run.of(create(folder / "runs", load_config(CONFIG, overrides, {}).settings))
    prompts.fn(run)
    return run


def checkpoint(folder: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "checkpoints" / f"step_{step:08d}" / "tensors.safetensors")
    return {name.removeprefix("parameter/"): value for name, value in tensors.items() if name.startswith("parameter/")}


def test_from_wan_through_both_stages(tmp_path: Path) -> None:
    wan = wan_tensors()
    run = open_wan_run(tmp_path, write_wan(tmp_path / "Wan2.1-T2V-1.3B", wan))
    counts = sft.fn(run)
    output = run.sft_output
    made = {(count.stage, count.items): count.made for count in counts.items}
    assert made["sft_sound", "clips"] == 3, made

    stage_1 = checkpoint(output / "audio_stage", AUDIO_STEPS)
    assert stage_1.keys() == AUDIO_NAMES and len(AUDIO_NAMES) == 7 + 5 * LAYERS
    started = {"blocks.0.audio_ffn.0.weight": wan["blocks.0.ffn.0.weight"]}
    started["audio_time_projection.1.weight"] = wan["time_projection.1.weight"][3 * DIM :]
    started["blocks.1.audio_modulation.param"] = wan["blocks.1.modulation"][:, 3:]
    for name, start in started.items():
        moved = (stage_1[name] - start).abs()
        assert 0 < float(moved.max()) < 0.1, name
    assert len((output / "audio_stage" / "metrics.jsonl").read_text().splitlines()) == AUDIO_STEPS

    stage_2 = checkpoint(output, STEPS)
    factors = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in stage_2}
    assert factors == ADAPTED and len(stage_2) == 2 * 12 * LAYERS
    adapter, scale = read_adapter_weights(output / "adapter"), read_adapter_config(output / "adapter").scale
    assert adapter.keys() == ADAPTED and scale == 0.5

    result = load_file(run.sft.checkpoint)
    assert result.keys() == wan.keys() | AUDIO_NAMES
    for name, value in result.items():
        base = (stage_1 if name in AUDIO_NAMES else wan)[name].bfloat16().float()
        layer = name.removesuffix(".weight")
        if layer in ADAPTED and name.endswith(".weight"):
            down, up = adapter[layer]
            assert up.abs().max() > 0, name
            base = base + scale * up @ down
        torch.testing.assert_close(value, base, rtol=1e-6, atol=1e-6, msg=name)
    again = sft.fn(run)
    assert {(count.items, count.present) for count in again.items} == {("networks", 1)}


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_a_video_network_with_other_tensors_is_refused_by_name(tmp_path: Path, change: str) -> None:
    tensors = wan_tensors()
    name = "blocks.1.cross_attn.norm_k.weight"
    if change == "missing":
        del tensors[name]
    else:
        name = "blocks.1.cross_attn.k_img.weight"  # of image-to-video networks
        tensors[name] = torch.zeros(DIM, DIM)
    run = open_wan_run(tmp_path, write_wan(tmp_path / "wan", tensors))
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        sft.fn(run)
    assert not run.sft_output.joinpath("network.safetensors").exists()
