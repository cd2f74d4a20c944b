"""A scorer package that is written from the guide in an empty folder and installed with pip works without a change of the product."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from outside_modules import GUIDE, guide_scorer, write_module

from avpref.datasets import tables
from avpref.media.writing import encode_clip
from avpref.rewards.outside.sample_clips import sample_clips
from avpref.storage.run_folder import open_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
METRICS = "visual_quality, motion_quality, text_video, audio_quality, text_audio, audio_video, desync, sharpness"


def package(folder: Path) -> Path:
    """The package of the guide: its scorer, and its entry point."""
    entry_point = next(
        line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("sharpness = ")
    )
    write_module(folder / "my_package", "__init__", "")
    write_module(folder / "my_package", "sharpness", guide_scorer())
    project = f"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "my-package"
version = "0.1"

[project.entry-points."avpref.scorers"]
{entry_point}

[tool.setuptools]
packages = ["my_package"]
"""
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that sees the product's packages, with the package installed by pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    base = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", base))
    paths = [sysconfig.get_path("purelib"), str(ROOT / "src")]
    (packages / "product.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    source = package(tmp_path_factory.mktemp("package"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


def run(python: Path, folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [str(python), "-m", "avpref.cli.main", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_clips_are_scored_with_the_name_of_the_entry_point(python: Path, tmp_path: Path) -> None:
    lines = ["file,text"]
    for index, sample in enumerate(sample_clips()):
        assert sample.clip.frames is not None and sample.clip.audio is not None
        clip = encode_clip(sample.clip.frames, sample.clip.fps_hz, sample.clip.audio, sample.clip.sample_rate_hz)
        (tmp_path / f"{index}.mp4").write_bytes(clip)
        lines.append(f"{index}.mp4,clip {index}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(python, tmp_path, ["candidates", "score", "--clips", "clips.csv", "--scorers", "signal,sharpness"])
    assert done.returncode == 0, done.stderr
    assert "sharpness (Apache-2.0)" in done.stdout
    listed = run(python, tmp_path, ["scorers", "list"])
    assert "my-package 0.1" in listed.stdout


def test_a_whole_run_selects_its_pairs_with_the_metric(python: Path, tmp_path: Path) -> None:
    overrides = ["scoring.scorers=[fake, {use: sharpness, settings: {num_frames: 2}}]", f"scoring.metrics=[{METRICS}]"]
    words = ["retrain", "--config", str(ROOT / "configs" / "tiny.yaml"), "--runs", str(tmp_path / "runs")]
    done = run(python, tmp_path, [*words, *(word for value in overrides for word in ("--set", value))])
    assert done.returncode in (0, 3), done.stderr
    folder = open_run(tmp_path / "runs", "")
    assert "sharpness" in set(folder.tables.read(tables.NORMS).to_pandas().metric)
    scores = folder.tables.read(tables.SCORES).to_pandas()
    assert (scores[scores.metric == "sharpness"].scorer == "sharpness").all() and folder.tables.num_rows(tables.PAIRS)
