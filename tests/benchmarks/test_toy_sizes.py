"""Every benchmark script runs: at toy size it prints its result, and the dated results stay as they are."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avpref.media.writing import encode_clip
from avpref.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py"))}
QUICK = {
    "explorer": "--pairs 40",
    "frechet": "--rows 60 --dims 8 --rounds 1",
    "gate": "--null 1 --power 1",
    "lineage": "--runs 2 --prompts 40 --pairs 30 --repeats 1",
    "pairing": "--prompts 50 --large 500",
    "reuse": "--units 3",
    "synchformer_trunk": "--depth 1 --dim 24 --repeats 1",
}
LONG = {
    "bench_features": "--clips 1 --height 48 --width 64 --fps 8 --rounds 1",
    "exchange": "--pairs 12",
    "gpu": "--device cpu --size tiny --repeats 1 --rank 4 --clips 1 --eager",
    "latent_store": "--folder latent-store-of-the-test --pairs 40 --stored 8 --steps 6 --step-s 0.001 --divisor 6",
    "synchrony_prior": "--toy-config configs/tiny.yaml --steps 2 --seeds 1",
    "synchronisers": "--seeds 0 1 --prior-clips 16 --prior-steps 2 --repeats 1 --set sft.loop.steps=2 --set prompts.num_sft_clips=32"
    " --set prompts.num_evaluation_clips=4 --set prompts.num_prompts=2 --set network.num_layers=1 --set network.dim=32",
    "chaos": "command --rounds 1 --strikes 1 --random-kills 1",
    "compare_demo": ". . --pairs 1 --config configs/tiny.yaml",
    "curriculum": "--seeds 0 --config configs/tiny.yaml",
    "forward": "--layers 1 --frames 1 --repeats 1 --shapes 1",
    "overhead": "--prompts 20",
    "pool_measures": "--bases 1 --sequences 1 --media none",
    "pool_speed": "--clips 4 --height 48 --actors 0 --decoded 1 --decoded-height 48",
    "rounds": "--seeds 0 --rounds 2 --arms one informative --config configs/tiny.yaml",
    "routed": "--seeds 0 --config configs/tiny.yaml",
    "training_step": "--layers 1 --frames 1 --repeats 1",
    "toyworld": "0 --config configs/tiny.yaml --control configs/tiny.yaml",
    "video_decoding": "--divisor 8 --width 8",
}
ON_A_RUN = {"compare_checkouts", "learned_scorers", "preparation", "readme_images"}
"""Scripts that need input; each has a test of its own below."""
PATIENCE_S = 550.0


def results() -> dict[Path, bytes]:
    """The dated results and the README's images."""
    folders = (ROOT / "benchmarks", ROOT / "docs" / "images")
    paths = [path for folder in folders for path in folder.iterdir() if path.suffix in (".md", ".json", ".png")]
    return {path: path.read_bytes() for path in paths}


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = results()
    yield
    assert results() == before


def output(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(SCRIPTS[script]), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_every_script_has_a_toy_size() -> None:
    assert set(SCRIPTS) == {*QUICK, *LONG, *ON_A_RUN}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_names_that_a_script_imports_exist(script: str) -> None:
    missing = []
    for node in ast.walk(ast.parse(SCRIPTS[script].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avpref"):
            module = importlib.import_module(node.module or "")
            missing += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if not hasattr(module, alias.name) and importlib.util.find_spec(f"{node.module}.{alias.name}") is None
            ]
    assert missing == []


@pytest.mark.parametrize("script", QUICK)
def test_a_quick_script_runs(script: str, unchanged: None) -> None:
    assert output(script, *QUICK[script].split()).strip()


@pytest.mark.slow
@pytest.mark.parametrize("script", LONG)
def test_a_long_script_runs(script: str, unchanged: None) -> None:
    assert "\n# " in "\n" + output(script, *LONG[script].split())


def test_a_run_is_compared_with_its_copy(tiny_run: RunFolder, tmp_path: Path, unchanged: None) -> None:
    copy = tmp_path / tiny_run.run_id
    shutil.copytree(tiny_run.root, copy)
    assert "same run id" in output("compare_checkouts", "runs", tiny_run.root, copy)


def test_learned_scorers_are_measured_on_a_recording(tmp_path: Path, unchanged: None) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (32, 64, 96, 3), dtype=np.uint8)
    sound = np.random.default_rng(1).uniform(-0.1, 0.1, 4 * 16000).astype(np.float32)
    (tmp_path / "clip.mp4").write_bytes(encode_clip(frames, 8.0, sound, 16000))
    text = output("learned_scorers", tmp_path, "--windows", "1")
    assert text.startswith("# Learned scorers") and "1 windows of 3 s" in text


@pytest.mark.slow
def test_preparation_is_compared_on_a_clip(tmp_path: Path, unchanged: None) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (90, 64, 96, 3), dtype=np.uint8)
    clip = encode_clip(frames, 16.0, generator.uniform(-0.1, 0.1, 90_000).astype(np.float32), 16000)
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    assert "| clip.mp4 |" in output("preparation", path, "--repeats", "1")


@pytest.mark.slow
def test_a_pair_of_a_run_is_drawn(tiny_run: RunFolder, tmp_path: Path, unchanged: None) -> None:
    output("readme_images", tiny_run.root, "pair", "--into", tmp_path)
    assert (tmp_path / "pair.png").stat().st_size > 0
