"""The training stage of the synchrony prior: its file, its negatives, resume after a kill, and refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pool_clips import Encoding, write_video
from safetensors.torch import load_file

import avpref.datasets.prompts.toyworld as toyworld
from avpref.config.data_settings import ClipPrompts
from avpref.config.loading import identity_hash, load_config
from avpref.datasets.latents import AUDIO, NEGATIVE_KINDS, VIDEO, negative_part
from avpref.domain import Prompt, Split
from avpref.errors import AvprefError, ConfigError, InputError
from avpref.flows.run import Run
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.train_prior import DATA_FILE, prior_output, train_prior
from avpref.flows.workers.generator import open_codec
from avpref.flows.workers.prior.prior_cuts import read_prompt_cut
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.identity import file_sha256
from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip
from avpref.models.dual_stream.dual_loading import read_prior
from avpref.models.dual_stream.prior_files import prior_fingerprint
from avpref.storage.failpoints import KILL_VARIABLE, FailPoint
from avpref.storage.latents.latent_reader import LatentReader
from avpref.storage.latents.training_set import read_training_set
from avpref.storage.run_folder import create
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.prior.run_prior import PRIOR_FILE, prior_config

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
SECTION = (
    "prior={loop: {steps: 4, batch_size: 4, checkpoint_every: 2, num_threads: 1}, num_negatives: 2, "
    "optimiser: {lr: 1.0e-3, eps: 1.0e-8}, text: {kind: imagebind, preset: tiny}, network: {spatial_tokens: 4, temporal_tokens: 4, "
    "token_dim: 8, hidden_dim: 16, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}}"
)
SMALL = (SECTION, "prompts.num_prompts=6", "prompts.num_evaluation_clips=2")


def run_in(runs: Path, *overrides: str) -> Run:
    return Run.of(create(runs, load_config(TINY, [*SMALL, *overrides], environment={}).settings))


def trained(runs: Path, *overrides: str) -> Run:
    run = run_in(runs, *overrides)
    prompts.fn(run)
    train_prior.fn(run)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs"))


def test_the_file_has_the_released_names_and_is_what_the_base_model_loads(finished: Run) -> None:
    path = prior_output(finished) / PRIOR_FILE
    data = read_training_set(path.with_name(DATA_FILE), "priors")
    assert (data.header.text_len, data.header.text_dim) == (77, 16)
    assert finished.settings.prior is not None
    config = prior_config(finished.settings.prior.network, 16, open_codec(finished.settings).encoded_shapes())
    whole, inference = read_prior(path, config), read_prior(path, replace(config, encode_va=False))
    assert set(load_file(path)) == set(whole.state_dict())
    assert len(prior_fingerprint(path)) == 64
    text = torch.randn(2, 77, 16)
    with torch.no_grad():
        assert torch.equal(whole(text).temporal, inference(text).temporal)
    loss = [
        float(row.split('"loss": ')[1].split(",")[0]) for row in (path.parent / METRICS_FILE).read_text().splitlines()
    ]
    assert len(loss) == 4 and all(np.isfinite(loss)) and loss[0] != loss[-1]


def test_a_cut_has_the_sound_around_the_ground_truth(finished: Run, tmp_path: Path) -> None:
    prompt = finished.prompts[0]
    cut = read_prompt_cut(prompt, finished.settings)
    _, frames, audio = toyworld.ground_truth(prompt, 0, clip_shape(finished.settings))
    assert cut.clip.audio is not None and np.array_equal(cut.clip.audio, audio)
    assert np.array_equal(cut.frames, frames)
    assert cut.first == len(audio) and cut.sound.shape == (1, 3 * len(audio))

    seconds, rate = np.arange(5 * 48000) / 48000, finished.settings.clip.sample_rate_hz
    sound = (0.1 + 0.1 * np.floor(seconds)) * np.sin(2 * np.pi * 440 * seconds)
    path = tmp_path / "recording.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (120, 96, 96, 3), np.uint8)
    write_video(path, frames, sound.astype(np.float32), Encoding(fps_hz=24.0, rate_hz=48000))
    table = tmp_path / "clips.csv"
    table.write_text("file,text\n" + f"{path},a tone\n", encoding="utf-8")
    settings = finished.settings.model_copy(update={"prompts": ClipPrompts(clips=str(table))})
    recorded = Prompt("p", "a tone", Split.TRAIN, str(path), "", str(path), 1.5, file_sha256(path))
    cut = read_prompt_cut(recorded, settings)
    assert cut.first == round(1.5 * rate) and abs(cut.sound.shape[1] - 5 * rate) <= rate // 10
    whole = read_clip(path, ClipShape(40, 96, 96, 8.0, rate)).audio
    assert whole is not None and np.allclose(cut.sound[0], whole[: cut.sound.shape[1]], atol=1e-3)
    assert np.array_equal(cut.channels[0], cut.sound[0, cut.first : cut.first + 2 * rate])
    moved, again, other = (read_prompt_cut(recorded, settings, window) for window in (1, 1, 2))
    assert moved.first != cut.first and np.array_equal(moved.channels, again.channels)
    assert not np.array_equal(moved.channels, cut.channels) and not np.array_equal(moved.channels, other.channels)


def test_negatives_differ_from_their_clip_and_from_each_other(finished: Run) -> None:
    data = read_training_set(prior_output(finished) / DATA_FILE, "priors")
    reader = LatentReader(data.index, data.root)
    for clip in data.samples["chosen"].to_pylist():
        for track in (VIDEO, AUDIO):
            own = reader.read(clip, track)
            made = [reader.read(clip, negative_part(track, kind)) for kind in NEGATIVE_KINDS]
            for negative in (several[index] for several in made for index in range(2)):
                assert negative.shape == own.shape and not np.array_equal(negative, own)
            assert not np.array_equal(made[0][0], made[1][0])


def test_a_finished_prior_is_not_trained_again_and_another_run_takes_it_over(finished: Run) -> None:
    path = prior_output(finished) / PRIOR_FILE
    before = path.stat().st_mtime_ns
    assert train_prior.fn(Run.of(finished)).of("prior")[0].present == 1
    assert path.stat().st_mtime_ns == before
    other = trained(finished.runs, "run.name=other")
    assert prior_output(other).joinpath(PRIOR_FILE).read_bytes() == path.read_bytes()
    assert train_prior.fn(other).of("prior")[0].present == 1


def test_a_training_that_is_killed_ends_like_one_that_was_not(finished: Run, tmp_path: Path) -> None:
    words = [word for override in SMALL for word in ("--set", override)]
    command = [sys.executable, "-m", "avpref.cli.main", "train", "prior", "--config", str(TINY), *words]
    killed = subprocess.run(
        [*command, "--runs", str(tmp_path)],
        env={**os.environ, KILL_VARIABLE: f"{FailPoint.CHECKPOINT_DONE}:1"},
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    run = run_in(tmp_path)
    output = prior_output(run)
    assert [path.name for path in (output / "checkpoints").glob("step_*")] == ["step_00000002"]
    train_prior.fn(run)
    for name in (PRIOR_FILE, METRICS_FILE):
        assert (output / name).read_bytes() == (prior_output(finished) / name).read_bytes(), name


def test_a_configuration_without_the_section_is_refused_and_keeps_its_identity(tmp_path: Path) -> None:
    plain, with_prior = (load_config(TINY, changes, environment={}).settings for changes in ((), SMALL[:1]))
    assert identity_hash(plain) == identity_hash(plain.model_copy(update={"prior": None})) != identity_hash(with_prior)
    run = Run.of(create(tmp_path, plain))
    prompts.fn(run)
    with pytest.raises(ConfigError, match="no section prior"):
        train_prior.fn(run)


def test_prompts_without_clips_are_refused(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text\na red ball\na blue ball\na green ball\na small ball\n", encoding="utf-8")
    sft = "sft={kind: weights, network: 'shipped:toyworld'}"
    run = run_in(tmp_path / "runs", f"prompts={{kind: texts, prompts: {texts}}}", sft)
    prompts.fn(run)
    with pytest.raises(InputError, match="has a clip of its own"):
        train_prior.fn(run)


def test_clips_without_sound_are_refused_with_one_reason(tmp_path: Path, silent: Callable[[int], Path]) -> None:
    rows = "".join(f"a red ball {number},{silent(number)}\n" for number in range(4))
    table = tmp_path / "texts.csv"
    table.write_text(f"text,file\n{rows}", encoding="utf-8")
    sft = "sft={kind: weights, network: 'shipped:toyworld'}"
    run = run_in(tmp_path / "runs", f"prompts={{kind: texts, prompts: {table}}}", sft)
    with pytest.raises(AvprefError, match="no sound"):
        prompts.fn(run)
        train_prior.fn(run)


def test_a_clip_without_a_negative_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """Three of eight recordings have a picture that never changes, so that it cannot be out of time."""
    random, rows = np.random.default_rng(1), ""
    for number in range(8):
        frames = random.integers(0, 255, (18, 96, 96, 3), np.uint8)
        sound = 0.1 * random.standard_normal(round(2.25 * 48000)).astype(np.float32)
        shown = np.full_like(frames, 60 * number) if number < 3 else frames
        path = write_video(tmp_path / f"{number}.mp4", shown, sound, Encoding(fps_hz=8.0, rate_hz=48000))
        rows += f"{path},recording {number}\n"
    table = tmp_path / "clips.csv"
    table.write_text(f"file,text\n{rows}", encoding="utf-8")
    clips = f"prompts={{kind: clips, clips: {table}, num_evaluation_clips: 2}}"
    run = run_in(tmp_path / "runs", clips, "run.max_quarantined_share=0.9", "prior.num_windows=2")
    prompts.fn(run)
    train_prior.fn(run)
    left_out = run.documents.quarantined()
    assert left_out and {row.error for row in left_out} == {"NoNegative"}
    assert all("no video_temporal negative: changes nothing in this clip" in row.message for row in left_out)
    data = read_training_set(prior_output(run) / DATA_FILE, "priors")
    num_train = sum(prompt.split == Split.TRAIN for prompt in run.prompts)
    assert len(data.samples) + len(left_out) == 2 * num_train


@pytest.mark.slow
def test_two_processes_train_what_one_trains(finished: Run, tmp_path: Path) -> None:
    run = trained(tmp_path, "prior.loop.num_processes=2", "prior.loop.launcher=processes")
    first, second = (load_file(prior_output(of) / PRIOR_FILE) for of in (finished, run))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


@pytest.fixture
def silent(tmp_path: Path) -> Callable[[int], Path]:
    """Recordings without a track of sound."""

    def write(number: int) -> Path:
        frames = np.random.default_rng(number).integers(0, 255, (16, 96, 96, 3), np.uint8)
        path = tmp_path / f"silent{number}.mp4"
        return write_video(path, frames, None)

    return write


def test_weights_of_another_width_are_refused(finished: Run) -> None:
    assert finished.settings.prior is not None

    config = prior_config(finished.settings.prior.network, 16, open_codec(finished.settings).encoded_shapes())
    path = prior_output(finished) / PRIOR_FILE
    with pytest.raises(InputError, match="of another shape"):
        read_prior(path, replace(config, hidden_size=32))
    with pytest.raises(InputError, match="1 of another shape"):
        read_prior(path, replace(config, spatial_token_num=5))
    with pytest.raises(InputError, match="missing"):
        read_prior(path, replace(config, num_encoder_layers=2))


@pytest.mark.parametrize("key", ["sharding: fsdp2", "compile_blocks: true", "max_tokens: 100"])
def test_settings_that_the_training_does_not_use_are_refused(key: str) -> None:
    section = SECTION.replace("num_threads: 1", f"num_threads: 1, {key}")
    with pytest.raises(ConfigError, match="does not use"):
        load_config(TINY, [section], environment={})
