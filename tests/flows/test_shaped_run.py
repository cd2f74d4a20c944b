"""A run of two clip shapes: every stage follows the shape of the prompt, and each shape is that of a run of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.shapes import drawn_shape, settings_of, shape_of_candidate
from avpref.flows.stages.candidate_plan import candidate_requests
from avpref.flows.stages.train import train
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.prompt_sources import shapes_of
from avpref.media.geometry import ClipShape, nearest_shape
from avpref.storage.documents import quarantine_file
from avpref.storage.run_folder import RunFolder, create, run_id
from avpref.storage.table_readers import read_candidates
from avpref.trainer.data.job_data import open_pairs

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SHAPES = (
    "clip.shapes=[{num_frames: 16, height_px: 96, width_px: 96, weight: 2},"
    " {num_frames: 8, height_px: 64, width_px: 128}]"
)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = create(tmp_path_factory.mktemp("shaped"), load_config(TINY, [SHAPES, "sft.audio_steps=2"]).settings)
    run_loop(folder)
    return folder


def test_candidates_and_pairs_have_the_shape_of_their_prompt(shaped: RunFolder) -> None:
    run = Run.of(shaped)
    candidates = {candidate.candidate_id: candidate for candidate in read_candidates(shaped.tables)}
    used = set()
    for candidate in candidates.values():
        shape = run.shape_of(candidate.prompt_id)
        used.add(shape)
        assert (candidate.num_frames, candidate.height_px, candidate.width_px) == (
            *(shape.num_frames, shape.height_px),
            shape.width_px,
        )
    assert used == set(shapes_of(shaped.settings))
    pairs = shaped.tables.read(tables.PAIRS).to_pylist()
    assert pairs and {candidates[pair["chosen"]].prompt_id for pair in pairs} <= set(
        candidate.prompt_id for candidate in candidates.values()
    )
    assert all(candidates[p["chosen"]].num_frames == candidates[p["rejected"]].num_frames for p in pairs)


def test_ids_are_those_of_a_run_of_one_shape(shaped: RunFolder) -> None:
    run, network = Run.of(shaped), Run.of(shaped).sft.hash
    made = {candidate.candidate_id for candidate in read_candidates(shaped.tables)}
    for shape in shapes_of(shaped.settings):
        prompts = [prompt for prompt in run.prompts if run.shape_of(prompt.prompt_id) == shape]
        alone = settings_of(shaped.settings, shape)
        assert not alone.clip.shapes
        assert {request.item_id for request in candidate_requests(prompts, alone, network)} <= made


def test_training_sees_both_shapes_and_the_run_is_complete(shaped: RunFolder) -> None:
    document = json.loads((shaped.root / "result.json").read_text())
    assert document["quarantined"] == 0 and document["pairs"]["kept"] == shaped.tables.num_rows(tables.PAIRS)
    (data,) = shaped.root.glob("models/dpo-*/pairs.json")
    assert json.loads(data.read_text())["kind"] == "pairs"
    again = run_loop(shaped).document()
    assert not again["changed"]


def test_one_shape_leaves_the_id_of_a_run_as_it_was() -> None:
    plain = load_config(TINY).settings
    assert "shapes" not in plain.clip.model_dump() and "max_tokens" not in plain.dpo.loop.model_dump()
    assert run_id(plain) != run_id(load_config(TINY, [SHAPES]).settings)


def test_shapes_are_drawn_by_weight() -> None:
    settings = load_config(TINY, [SHAPES]).settings
    drawn = [drawn_shape(settings, f"p{number}") for number in range(3000)]
    first, _ = shapes_of(settings)
    assert abs(drawn.count(first) / 3000 - 2 / 3) < 0.03
    assert drawn[:50] == [drawn_shape(settings, f"p{number}") for number in range(50)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1080, 1920, 9.0), 1), ((1920, 1080, 9.0), 2), ((240, 432, 2.5), 0), ((500, 500, 4.1), 3), ((240, 432, 1.0), 0)],
)
def test_the_nearest_shape_to_a_recording(size: tuple[int, int, float], expected: int) -> None:
    shapes = [
        ClipShape(*shape, 16.0, 16000) for shape in ((33, 240, 432), (81, 480, 864), (81, 864, 480), (65, 320, 320))
    ]
    assert nearest_shape(shapes, *size) == shapes[expected]


def test_a_pair_that_fits_no_forward_pass_is_a_row_with_its_reason(shaped: RunFolder, tmp_path: Path) -> None:
    """Only pairs of the smaller shape fit; the others are counted as lost, and the training goes on without them."""
    root = tmp_path / shaped.run_id
    shutil.copytree(shaped.root, root)
    tokens = {shape: 2 * base_of(shaped.settings).work(shape).num_tokens for shape in shapes_of(shaped.settings)}
    small, large = sorted(tokens.values())
    settings = load_config(root / "config.yaml", [f"dpo.loop.max_tokens={small}"], {}).settings
    run = Run.of(RunFolder(root, settings))
    candidates = {candidate.candidate_id: shape_of_candidate(candidate) for candidate in read_candidates(run.tables)}
    pairs = {pair["pair_id"]: candidates[pair["chosen"]] for pair in run.tables.read(tables.PAIRS).to_pylist()}
    refused = {pair for pair, shape in pairs.items() if tokens[shape] == large}
    assert refused and refused != set(pairs)
    train.fn(run)
    rows = run.documents.read_quarantine(quarantine_file("train"))
    assert {row.candidate_id for row in rows} == refused
    message = f"{large} tokens of shape 16x96x96, and loop.max_tokens is {small}"
    assert {(row.stage, row.error, row.message) for row in rows} == {("train", "NoBucket", message)}
    assert set(open_pairs(run.training_job).ids) == set(pairs) - refused
    for row in (run.training_job.output / "metrics.jsonl").read_text().splitlines():
        assert json.loads(row)["loss"] > 0
