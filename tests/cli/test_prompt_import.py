"""prompts import: recordings become a run, refused rows are listed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from avpref.media.writing import encode_clip

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")

CLIP_S, FPS_HZ, SAMPLE_RATE_HZ = 2.0, 8.0, 16000


def recording(path, seconds: float, seed: int):
    generator = np.random.Generator(np.random.PCG64(seed))
    frames = generator.integers(0, 255, (round(seconds * FPS_HZ), 32, 32, 3), dtype=np.uint8)
    audio = generator.uniform(-0.5, 0.5, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    path.write_bytes(encode_clip(frames, FPS_HZ, audio, SAMPLE_RATE_HZ))


@pytest.fixture
def clips_config(tmp_path):
    tree = yaml.safe_load(Path(TINY).read_text(encoding="utf-8"))
    tree["prompts"] = {"kind": "clips", "num_evaluation_clips": 3}
    path = tmp_path / "clips.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def clips_csv(tmp_path):
    for number in range(4):
        recording(tmp_path / f"{number}.mp4", 4.2, number)
    rows = [[f"{number}.mp4", f"thing, number {number}"] for number in range(4)]
    return write(tmp_path / "clips.csv", rows)


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["file", "text"], *rows])
    return path


@pytest.fixture
def import_(call, clips_config, tmp_path):
    def run(csv_path, *more):
        return call("prompts", "import", csv_path, "--config", clips_config, "--runs", tmp_path / "runs", *more)

    return run


def test_import_makes_a_run_with_prompts(call, import_, clips_csv, tmp_path):
    answer = import_(clips_csv, "--json")
    assert answer.code == 0
    document = answer.document
    assert document["recordings"] == 4
    train, held_out = document["train"], document["held_out"]
    assert train["recordings"] + held_out["recordings"] == 4 and min(train["recordings"], held_out["recordings"]) >= 1
    assert train["windows"] == 2 * train["recordings"]
    assert held_out["windows"] == min(2 * held_out["recordings"], held_out["prompts"]) and held_out["prompts"] == 3
    assert document["refused"] == []
    assert document["next"] == f"avpref runs resume {document['run_id']} --runs {tmp_path / 'runs'}"
    listed = call("prompts", "list", "--runs", tmp_path / "runs", "--json").document["prompts"]
    assert len(listed) == train["windows"] + held_out["prompts"]
    (row,) = call("runs", "list", "--runs", tmp_path / "runs", "--json").document["runs"]
    assert (row["run_id"], row["state"]) == (document["run_id"], "next: sft")


def test_importing_twice_changes_nothing(import_, clips_csv):
    assert import_(clips_csv, "--json").document == import_(clips_csv, "--json").document


def test_the_seed_is_part_of_the_run(import_, clips_csv):
    first, second = (import_(clips_csv, "--seed", seed, "--json").document for seed in (0, 7))
    assert first["run_id"] != second["run_id"] and "-s7-" in second["run_id"]


def test_refused_rows_are_listed_and_make_the_exit_code_5(import_, clips_csv, tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"not a clip")
    recording(tmp_path / "short.mp4", 1.0, 9)
    with open(clips_csv, "a", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["gone.mp4", "x"], ["noise.mp4", "x"], ["short.mp4", "x"], ["0.mp4", ""], ["1.mp4", "again"]]
        )
    answer = import_(clips_csv, "--json")
    assert answer.code == 5
    reasons = {row["file"]: row["reason"] for row in answer.document["refused"]}
    assert set(reasons) == {"gone.mp4", "noise.mp4", "short.mp4", "0.mp4", "1.mp4"}
    assert reasons["gone.mp4"] == "no such file"
    text = import_(clips_csv)
    assert text.code == 5
    assert "gone.mp4" in text.out and "next: avpref runs resume" in text.out


def test_nothing_usable_is_missing_input(import_, tmp_path):
    answer = import_(write(tmp_path / "bad.csv", [["gone.mp4", "x"], ["away.mp4", "y"]]))
    assert answer.code == 4
    assert "gone.mp4: no such file" in answer.err and "fix:" in answer.err


def test_no_csv_is_missing_input(import_, tmp_path):
    assert import_(tmp_path / "none.csv").code == 4


def test_a_csv_without_the_columns_is_refused(import_, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("path,caption\na,b\n")
    answer = import_(path)
    assert answer.code == 4
    assert "file" in answer.err and "text" in answer.err


def test_a_configuration_of_something_else_is_a_usage_error(call, clips_csv, tmp_path):
    answer = call("prompts", "import", clips_csv, "--config", TINY, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert "toyworld" in answer.err and "configs/clips.yaml" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_path_that_looks_like_yaml_stays_a_path(import_, clips_csv, tmp_path):
    odd = tmp_path / "my: [clips] #1.csv"
    odd.write_bytes(clips_csv.read_bytes())
    assert import_(odd, "--json").document["recordings"] == 4
