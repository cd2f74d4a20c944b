"""Optical flow by a network: sampling, size and unit with a network whose flow is known, identity, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stand_in_library import SHIFT_NETWORK, absent, installed

from avpref.config.pool.pool_loading import load_pool
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import ConfigError, InputError
from avpref.flows.workers.scorers import resolve
from avpref.media.reading import DecodedClip
from avpref.pool.measure.measurers import measurers
from avpref.rewards.libraries.flow_networks import raft_fields, unimatch_fields
from avpref.rewards.libraries.optical_flow import OpticalFlow
from avpref.rewards.outside.scorer_contract import Contract
from avpref.rewards.protocol import ScorableClip

CONFIG = Path(__file__).parents[3] / "configs" / "pool.yaml"


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    save_file({"scale": torch.ones(1)}, tmp_path / "shift.safetensors")
    with installed(tmp_path / "packages", "ptlflow", SHIFT_NETWORK):
        yield tmp_path / "shift.safetensors"


def moving(right: int, down: int, number: int = 40, height: int = 320, width: int = 576) -> np.ndarray:
    """A periodic pattern that moves by so many pixels from frame to frame."""
    pattern = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    frame = pattern.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(frame, (down * index, right * index), axis=(0, 1)) for index in range(number)])


def loaded(weights: Path) -> OpticalFlow:
    scorer = OpticalFlow(OpticalFlow.Settings(weights=str(weights)))
    scorer.load("cpu")
    return scorer


def value(scorer: OpticalFlow, frames: np.ndarray | None) -> float | str | None:
    (row,) = scorer.score([ScorableClip("a", "", DecodedClip(frames, 16.0, None, 0, 2.0))])
    return row[0].reason if row[0].value is None else row[0].value


def test_the_number_is_the_mean_of_both_components_between_frames_ten_apart(weights: Path) -> None:
    scorer = loaded(weights)
    assert value(scorer, moving(1, 0)) == pytest.approx(5.0)
    assert value(scorer, moving(-2, 1)) == pytest.approx(15.0)
    assert value(scorer, moving(0, 0)) == pytest.approx(0.0)
    assert value(scorer, moving(1, 0, number=11)) == pytest.approx(5.0)


def test_motion_after_frame_30_has_no_influence_and_each_pair_counts_alike(weights: Path) -> None:
    frames = np.concatenate([moving(1, 0, number=11), moving(0, 0, number=20), moving(9, 9, number=30)])
    frames[11:31] = frames[10]
    assert value(loaded(weights), frames) == pytest.approx(5.0 / 3)


def test_pixels_are_those_of_320_by_576_and_upright_pictures_are_transposed(weights: Path) -> None:
    scorer = loaded(weights)
    assert value(scorer, moving(2, 0, height=640, width=1152)) == pytest.approx(5.0)
    assert value(scorer, moving(0, 1, height=576, width=320)) == pytest.approx(5.0)


def test_clips_without_two_of_the_frames_have_a_reason(weights: Path) -> None:
    scorer = loaded(weights)
    assert value(scorer, moving(1, 0, number=10)) == "fewer than 11 frames"
    assert value(scorer, None) == "no video track"


def test_pictures_enter_in_the_order_and_range_of_each_library() -> None:
    frames = torch.zeros(1, 3, 320, 576)
    frames[:, 0] = 255.0
    entered: list[torch.Tensor] = []

    def ptlflow(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        entered.append(inputs["images"])
        return {"flows": torch.zeros(1, 1, 2, 320, 576)}

    def torchvision(first: torch.Tensor, second: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        entered.extend([first, second])
        return [torch.ones(1, 2, 320, 576), torch.zeros(1, 2, 320, 576)]

    assert unimatch_fields(ptlflow, frames, 0 * frames).shape == (1, 2, 320, 576)
    assert entered.pop().mean((3, 4)).tolist() == [[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]
    assert float(raft_fields(torchvision, frames, 0 * frames).sum()) == 0.0
    assert [picture.mean((2, 3)).tolist() for picture in entered] == [[[1.0, -1.0, -1.0]], [[-1.0, -1.0, -1.0]]]


def test_it_is_found_by_its_name_keeps_the_contract_and_is_a_measurer_beside_farneback(weights: Path) -> None:
    (source,) = resolve([ScorerUse(use="optical_flow", settings={"weights": str(weights)})], ScoringSettings())
    clips = [ScorableClip(name, "", DecodedClip(moving(1, 0), 16.0, None, 0, 2.0)) for name in ("a", "b")]
    findings = list(Contract(source.open("cpu"), clips).findings())
    assert all(finding.is_passed for finding in findings), findings
    entry = f"measure.scorers=[flow_measures, {{use: optical_flow, settings: {{weights: {weights}}}}}]"
    config = load_pool(CONFIG, [entry], environment={})
    names = [metric.name for source in measurers(config.measure, config.executor) for metric in source.metrics]
    assert names == ["flow_px", "network_flow_px"]


def test_the_identity_follows_the_bytes_of_the_file_the_network_and_the_version_of_the_library(
    weights: Path, tmp_path: Path
) -> None:
    def fingerprint(path: Path, model: str = "unimatch") -> str:
        use = ScorerUse(use="optical_flow", settings={"weights": str(path), "model": model})
        return resolve([use], ScoringSettings())[0].fingerprint

    first = fingerprint(weights)
    (tmp_path / "copy.safetensors").write_bytes(weights.read_bytes())
    assert fingerprint(tmp_path / "copy.safetensors") == first
    save_file({"scale": torch.zeros(1)}, tmp_path / "copy.safetensors")
    assert fingerprint(tmp_path / "copy.safetensors") != first
    with installed(tmp_path / "newer", "ptlflow", SHIFT_NETWORK, "9.1"):
        assert fingerprint(weights) != first


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "weights"), ({"weights": "x", "model": "flownet"}, "unimatch"), ({"weights": "x", "clip": "y"}, "clip")],
)
def test_wrong_settings_are_errors_before_anything_runs(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve([ScorerUse(use="optical_flow", settings={**settings})], ScoringSettings())


def test_absent_files_and_libraries_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"flow\.none"):
        OpticalFlow(OpticalFlow.Settings(weights="flow.none"))
    (tmp_path / "weights.pth").touch()
    settings = OpticalFlow.Settings(weights=str(tmp_path / "weights.pth"))
    with absent("ptlflow"), pytest.raises(InputError, match="ptlflow is not installed") as absence:
        OpticalFlow(settings)
    assert absence.value.fix.startswith("pip install torch torchvision ptlflow==")


@pytest.mark.parametrize(
    "error", ["OSError('libtorch_cuda.so: cannot open')", "RuntimeError('operator torchvision::nms does not exist')"]
)
def test_a_library_that_does_not_import_is_an_error_with_its_cause_and_the_command(
    weights: Path, tmp_path: Path, error: str
) -> None:
    scorer = OpticalFlow(OpticalFlow.Settings(weights=str(weights)))
    with installed(tmp_path / "broken", "ptlflow", f"raise {error}"), pytest.raises(InputError) as failure:
        scorer.load("cpu")
    assert error.split("'")[1] in failure.value.found
    assert "belong together" in failure.value.expected
    assert "pip install" in failure.value.fix
