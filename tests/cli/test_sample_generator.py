"""``avpref candidates sample`` over the released generator's classes, small and with random weights, in the layouts they come in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from present import present
from safetensors.torch import load_file, save_file
from tiny_codecs import save_tiny_codecs

from avpref.config.network_settings import NetworkSettings
from avpref.flows.workers.canary import canary_clip
from avpref.media.writing import encode_clip
from avpref.models.dit import ModelType, NetworkConfig
from avpref.models.initialisation import create_network

CONFIG = Path(__file__).parents[2] / "configs" / "javisdit.yaml"
NETWORK = dict(dim=24, ffn_dim=40, freq_dim=16, text_dim=16, text_len=512, num_heads=2, num_layers=2)
TARGETS = ("self_attn.q", "cross_attn.v", "ffn.0", "audio_ffn.0")
RANK = 2
WORDS = ["<pad>", "</s>", "<unk>", "▁A", "▁dog", "▁barks", "▁"]


@dataclass(frozen=True)
class Release:
    """Folders of everything that a release consists of."""

    root: Path

    def overrides(self, height: int, width: int, frames: int, **more: object) -> list[str]:
        values: dict[str, object] = {
            **{f"network.{name}": value for name, value in NETWORK.items()},
            **{"clip.height_px": height, "clip.width_px": width, "clip.num_frames": frames},
            **{"codec.video_vae": self.root / "video_vae", "codec.audio_vae": self.root / "audio_vae"},
            **{"codec.vocoder": self.root / "vocoder", "text.encoder": self.root / "text_encoder"},
            **{"text.tokenizer": self.root / "tokenizer", "sft.network": self.root / "JavisDiT-v1.0"},
            **{"sampling.steps": 2, "sampling.num_candidates": 2, "sft.dtype": "float32", "sampling.dtype": "float32"},
            **{"text.dtype": "float32", "executor": "{kind: in_process}", **more},
        }
        return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def _text(root: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=20, d_model=16, d_kv=6, d_ff=40, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(root / "text_encoder")
    tokenizer = Tokenizer(models.Unigram([(word, -float(rank)) for rank, word in enumerate(WORDS)], unk_id=2))
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))


def _network(root: Path) -> None:
    """JavisDiT-v1.0 as it is published: ``model/`` in two shards of pickles, the un-merged base; ``lora/`` in peft format."""
    config = NetworkConfig.from_settings(NetworkSettings.model_validate({**NETWORK, "in_dim": 16, "audio_in_dim": 8}))
    generator = torch.Generator().manual_seed(3)
    network = create_network(config, ModelType.T2AV, generator)
    state = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.state_dict().items()
    }
    model, lora = root / "JavisDiT-v1.0" / "model", root / "JavisDiT-v1.0" / "lora"
    model.mkdir(parents=True)
    lora.mkdir()
    names = sorted(state)
    halves = {f"pytorch_model-{k:05d}-of-00002.bin": names[(k - 1) :: 2] for k in (1, 2)}
    for file, held in halves.items():
        torch.save({name: state[name] for name in held}, model / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    factors = {}
    for name in names:
        module = name.removesuffix(".weight")
        if name.startswith("blocks.") and name.endswith(".weight") and module.split(".", 2)[2] in TARGETS:
            out, into = state[name].shape
            factors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, into, generator=generator)
            factors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    save_file(factors, lora / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "r": RANK, "lora_alpha": 1, "target_modules": list(TARGETS), "bias": "none"}
    (lora / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("release")
    save_tiny_codecs(root, seed=11)
    _text(root)
    _network(root)
    return Release(root)


def prompts(folder: Path, *texts: str) -> Path:
    path = folder / "prompts.csv"
    quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
    path.write_text("\n".join(["text", *quoted]) + "\n", encoding="utf-8")
    return path


def sampled(
    call: Callable[..., Any], release: Release, folder: Path, listed: Path, *more: str, size=(48, 64, 17)
) -> Any:
    return call(
        *("candidates", "sample", "--config", CONFIG, "--prompts", listed, "--runs", folder / "runs", "--json"),
        *release.overrides(*size),
        *more,
    )


def streams(path: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds of picture and of sound, and what the file says of them: by ffprobe where it is installed."""
    if shutil.which("ffprobe"):
        command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["streams"]
        video, audio = (next(one for one in found if one["codec_type"] == kind) for kind in ("video", "audio"))
        said: dict[str, Any] = {
            "codecs": (video["codec_name"], audio["codec_name"]),
            "size": (video["height"], video["width"]),
        }
        said |= {"rate": int(audio["sample_rate"]), "channels": audio["channels"], "fps": video["r_frame_rate"]}
        return float(video["duration"]), float(audio["duration"]), said
    with av.open(str(path)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        said = {
            "codecs": (picture.codec_context.name, sound.codec_context.name),
            "size": (picture.height, picture.width),
        }
        said |= {"rate": sound.sample_rate, "channels": sound.channels, "fps": f"{picture.average_rate}/1"}
        seconds = [float(present(stream.duration) * present(stream.time_base)) for stream in (picture, sound)]
        return seconds[0], seconds[1], said


def require_playable(path: Path, height: int, width: int, frames: int) -> None:
    picture_s, sound_s, said = streams(path)
    assert said == {"codecs": ("h264", "aac"), "size": (height, width), "rate": 16000, "channels": 2, "fps": "16/1"}
    assert picture_s == pytest.approx(frames / 16, abs=0.01)
    assert sound_s == pytest.approx(
        frames / 16, abs=0.15
    )  # AAC comes in blocks of 64 ms, and one of them before the first


def test_prompts_become_clips_once(call: Callable[..., Any], release: Release, tmp_path: Path) -> None:
    listed = prompts(tmp_path, "A dog barks", 'a{b}|0| "quoted", 犬', "A dog " * 2000, "A dog barks")
    given = ("--set", "sampling.store_latents=true", "--set", "prompts.held_out_share=0")
    answer = sampled(call, release, tmp_path, listed, *given)
    assert answer.code == 5, answer.err  # the doubled prompt was refused, with its reason
    document = json.loads(answer.out)
    assert document["candidates"] == 6 and document["clips_per_hour"] > 0
    assert ["same text as line 2" in row["message"] for row in document["quarantined"]] == [True]
    rows = call("candidates", "list", "--runs", tmp_path / "runs", "--json").document["candidates"]
    assert len({row["seed"] for row in rows}) == 6 and len({row["sha256"] for row in rows}) == 6
    root = Path(document["run_dir"])
    for row in rows:
        require_playable(root / row["path"], 48, 64, 17)
        assert json.loads(row["sampler"])["steps"] == 2 and row["checkpoint_hash"] and row["elapsed_s"] > 0
        latents = load_file(root / row["latents_path"])
        assert latents["video"].shape[0] == 16 and latents["audio"].shape[0] == 8

    clips = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    again = sampled(call, release, tmp_path, listed, *given)
    assert json.loads(again.out)["candidates"] == 6
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == clips
    texts = list((tmp_path / "runs" / "texts").rglob("*.safetensors"))
    assert len(texts) == 4  # three prompts and the negative one, each once


def test_the_adapter_in_the_release_is_part_of_the_network(
    call: Callable[..., Any], release: Release, tmp_path: Path
) -> None:
    listed = prompts(tmp_path, "A dog barks")
    with_lora = json.loads(sampled(call, release, tmp_path, listed).out)["run_dir"]
    base = release.root / "JavisDiT-v1.0" / "model"
    without = json.loads(sampled(call, release, tmp_path, listed, "--set", f"sft.network={base}").out)["run_dir"]
    assert len(list((tmp_path / "runs" / "networks").iterdir())) == 2
    clips = [{path.read_bytes() for path in Path(run).rglob("*.mp4")} for run in (with_lora, without)]
    assert not clips[0] & clips[1]


@pytest.mark.parametrize("through_codec", [True, False])
def test_recordings_join_as_ground_truth_of_the_same_shape(
    call: Callable[..., Any], release: Release, tmp_path: Path, through_codec: bool
) -> None:
    clip = canary_clip().clip
    assert clip.frames is not None and clip.audio is not None
    frames, audio = np.tile(clip.frames, (3, 1, 1, 1)), np.tile(clip.audio, 3)
    (tmp_path / "dog.mp4").write_bytes(encode_clip(frames, clip.fps_hz, audio, clip.sample_rate_hz))
    listed = tmp_path / "prompts.csv"
    listed.write_text("text,file\nA dog barks,dog.mp4\nA dog,\nA bark,gone.mp4\n", encoding="utf-8")
    answer = sampled(
        *(call, release, tmp_path, listed, "--set", "prompts.held_out_share=0"),
        *("--set", f"sampling.ground_truth_through_codec={str(through_codec).lower()}"),
    )
    document = json.loads(answer.out)
    assert answer.code == 5 and "no such file" in document["quarantined"][0]["message"]
    rows = call("candidates", "list", "--runs", tmp_path / "runs", "--json").document["candidates"]
    (truth,) = [row for row in rows if row["origin"] == "ground_truth"]
    assert len(rows) == 5
    for row in rows:
        require_playable(Path(document["run_dir"]) / row["path"], 48, 64, 17)
    assert truth["checkpoint_hash"] == "" and truth["num_frames"] == 17


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "frames"), [(240, 432, 33), (432, 240, 49), (320, 320, 65), (480, 864, 81)], ids=str
)
def test_published_sizes(
    call: Callable[..., Any], release: Release, tmp_path: Path, height: int, width: int, frames: int
) -> None:
    answer = sampled(
        *(call, release, tmp_path, prompts(tmp_path, "A dog barks"), "--set", "sampling.num_candidates=1"),
        *("--set", "sampling.steps=1"),
        size=(height, width, frames),
    )
    assert answer.code == 0, answer.err
    (clip,) = Path(json.loads(answer.out)["run_dir"]).rglob("*.mp4")
    require_playable(clip, height, width, frames)


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["clip.height_px=50"], 2, "64"),
        (["clip.num_frames=18"], 2, "17"),
        (["sft.network="], 2, "sft.network"),
        (["sft.network=nowhere"], 4, "nowhere"),
        (["network.ffn_dim=48"], 4, "ffn"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_error(
    call: Callable[..., Any], release: Release, tmp_path: Path, overrides: list[str], code: int, said: str
) -> None:
    given = [part for override in overrides for part in ("--set", override)]
    answer = sampled(call, release, tmp_path, prompts(tmp_path, "A dog barks"), *given)
    assert answer.code == code and said in answer.err, answer.err


def test_a_half_written_checkpoint_is_told(call: Callable[..., Any], release: Release, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(release.root / "JavisDiT-v1.0", broken)
    shard = next((broken / "model").glob("*00001*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    answer = sampled(call, release, tmp_path, prompts(tmp_path, "A dog barks"), "--set", f"sft.network={broken}")
    assert answer.code == 4 and shard.name in answer.err


def test_an_empty_list_is_told(call: Callable[..., Any], release: Release, tmp_path: Path) -> None:
    answer = sampled(call, release, tmp_path, prompts(tmp_path))
    assert answer.code == 4 and "no prompt" in answer.err


def test_a_dry_run_needs_no_weights_and_makes_nothing(call: Callable[..., Any], tmp_path: Path) -> None:
    listed = prompts(tmp_path, "one", "two")
    answer = call(
        *("candidates", "sample", "--config", CONFIG, "--prompts", listed, "--runs", tmp_path / "runs"),
        *("--dry-run", "--json"),
    )
    assert answer.document["candidates"] == 6 and answer.document["tokens"] == 6885 + 416
    assert answer.document["gpu_hours"] == pytest.approx(6 * answer.document["flop_per_candidate"] / 2e14 / 3600)
    assert not (tmp_path / "runs").exists()
