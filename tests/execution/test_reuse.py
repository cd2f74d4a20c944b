"""A changed configuration adds its own work alone: everything else is reused, and the tables are those of a fresh run."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import METRICS, Origin, Prompt, Split
from avpref.execution import pool
from avpref.execution.contract import UnitOutcome
from avpref.execution.item_counts import ItemCounts
from avpref.flows.run import Run
from avpref.flows.run_stages import STAGES
from avpref.flows.stages import score as score_stage
from avpref.flows.stages import sft as sft_module
from avpref.flows.stages import train as dpo_module
from avpref.flows.stages.candidate_plan import ground_truth_source, plan_candidates
from avpref.flows.workers.scorers import Weightless
from avpref.identity import file_sha256
from avpref.rewards.fake import FakeScorer
from avpref.rewards.protocol import Scorer
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.table_readers import read_prompts
from avpref.storage.unit import Item, Unit
from avpref.storage.unit_files import QUARANTINE_KEY, UnitFiles

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SMALL = (
    *("prompts.num_prompts=7", "prompts.num_evaluation_clips=4", "prompts.num_sft_clips=8", "run.unit_candidates=4"),
    *("run.shard_prompts=5", "sampling.num_candidates=2", "sampling.steps=2", "evaluation.bootstrap_samples=50"),
    "sampling.batch_candidates=1",  # sums of a larger batch depend in their last bits on what else is in it
    *("sft.loop.steps=2", "sft.audio_steps=1", "sft.loop.batch_size=4", "dpo.loop.steps=2", "dpo.loop.batch_size=2"),
)
CHANGES = {
    "more candidates": (("sampling.num_candidates=4",), 1),
    "more prompts": (("prompts.num_prompts=11",), 1),
    "another strategy": (("pairs.strategy=average",), 1),
    "another gate": (("evaluation.gate.min_av_ci_low_sd=-9",), 0),
    "other units": (("run.unit_candidates=9", "run.shard_prompts=3"), 0),
}
"""What changes, and how often AV-DPO is trained for it."""
SEALED = (tables.PROMPTS, tables.CANDIDATES, tables.SCORES, tables.NORMS, tables.PAIRS, tables.EVALUATIONS)
CLOCK = ("elapsed_s", "elapsed_ms", "gpu_s")


@dataclass
class Work:
    """What was attempted: items by stage, and trainings."""

    items: dict[str, list[str]] = field(default_factory=dict)
    trainings: Counter[str] = field(default_factory=Counter)

    def count(self, stage: str) -> int:
        return len(self.items.get(stage, []))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    noted, run_and_catch = Work(), pool.run_and_catch

    def note(worker: object, unit: Unit[Item]) -> UnitOutcome:
        noted.items.setdefault(unit.stage, []).extend(item.item_id for item in unit.items)
        return run_and_catch(worker, unit)  # type: ignore[arg-type]

    def counted(name: str, launch: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            noted.trainings[name] += 1
            return launch(*arguments)

        return call

    monkeypatch.setattr(pool, "run_and_catch", note)
    monkeypatch.setattr(sft_module, "launch_training", counted("sft", sft_module.launch_training))
    monkeypatch.setattr(dpo_module, "launch_training", counted("dpo", dpo_module.launch_training))
    return noted


def opened(runs: Path, *changes: str) -> RunFolder:
    return create(runs, load_config(TINY, [*SMALL, *changes], environment={}).settings)


def finished(folder: RunFolder, stages: Sequence[object] = STAGES) -> list[ItemCounts]:
    run = Run.of(folder)
    return [counts for stage in stages for counts in stage.fn(run).items]  # type: ignore[attr-defined]


def outcome(folder: RunFolder) -> dict[str, list[dict[str, object]]]:
    return outcome_of(folder, SEALED)


def outcome_of(folder: RunFolder, sealed: Sequence[tables.Table]) -> dict[str, list[dict[str, object]]]:
    """Rows of sealed tables without what depends on the clock."""
    found = {}
    for table in sealed:
        rows = folder.tables.read(table)
        found[table.name] = rows.drop_columns([name for name in CLOCK if name in rows.column_names]).to_pylist()
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = opened(tmp_path_factory.mktemp("base"))
    finished(folder)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunFolder]]:
    """``fresh(*changes)`` is a run with these changes in a folder where nothing can be reused."""
    done: dict[tuple[str, ...], RunFolder] = {}

    def make(*changes: str) -> RunFolder:
        if changes not in done:
            done[changes] = opened(tmp_path_factory.mktemp("fresh"), *changes)
            finished(done[changes])
        return done[changes]

    yield make


@pytest.fixture
def beside(base: RunFolder, tmp_path: Path) -> Callable[..., RunFolder]:
    """``beside(*changes)`` opens a changed run beside a copy of the finished one."""
    runs = tmp_path / "runs"
    shutil.copytree(base.root, runs / base.root.name)
    return lambda *changes: opened(runs, *changes)


def ids(folder: RunFolder) -> set[str]:
    return set(folder.tables.read(tables.CANDIDATES)["candidate_id"].to_pylist())


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_does_its_own_work_and_ends_with_the_tables_of_a_fresh_run(
    change: str, base: RunFolder, beside: Callable[..., RunFolder], fresh: Callable[..., RunFolder], work: Work
) -> None:
    changes, trainings = CHANGES[change]
    folder = beside(*changes)
    counts = {stage_counts.stage: stage_counts for stage_counts in finished(folder)}
    new = sorted(ids(folder) - ids(base))
    assert sorted(work.items.get("generate", [])) == sorted(work.items.get("score", [])) == new
    assert work.trainings == Counter({"dpo": trainings} if trainings else {})
    assert not work.count("sft_clips")
    for stage in ("generate", "score"):
        old = len(ids(folder) & ids(base))
        assert (counts[stage].made, counts[stage].reused) == (len(new), {base.run_id: old})
    assert outcome(folder) == outcome(fresh(*changes))


def test_reused_items_are_present_in_a_second_execution(
    beside: Callable[..., RunFolder], work: Work, base: RunFolder
) -> None:
    folder = beside("sampling.num_candidates=3", "prompts.num_prompts=9")
    finished(folder, STAGES[:4])
    assert work.items
    work.items.clear()
    shutil.rmtree(folder.runs / base.run_id)
    names = sorted(path.relative_to(folder.root) for path in (folder.root / "units").rglob("*.parquet"))
    assert not any(stage_counts.is_change for stage_counts in finished(folder, STAGES[:4]))
    assert not work.items
    assert names == sorted(path.relative_to(folder.root) for path in (folder.root / "units").rglob("*.parquet"))
    for row in folder.tables.read(tables.CANDIDATES).to_pylist():
        assert file_sha256(folder.root / row["path"]) == row["sha256"]


def test_a_run_alone_has_the_files_of_its_plan_and_no_others(base: RunFolder) -> None:
    units = make_plan(base)
    assert {path.stem for path in (base.root / "units" / "generate").rglob("*.parquet")} == units


def make_plan(folder: RunFolder) -> set[str]:
    plan = plan_candidates(folder, "generate", read_prompts(folder.tables), Run.of(folder).sft)
    return {unit.name for unit in plan.units}


def new_bytes(path: Path, data: bytes) -> None:
    """Give ``path`` other bytes without touching what other names of the file hold."""
    path.unlink()
    path.write_bytes(data)


def test_a_clip_that_differs_from_its_row_is_made_again(
    base: RunFolder, beside: Callable[..., RunFolder], work: Work
) -> None:
    folder = beside("evaluation.gate.min_av_ci_low_sd=-9")
    rows = base.tables.read(tables.CANDIDATES).to_pylist()
    tampered, gone = rows[1], rows[5]
    sibling = folder.runs / base.run_id
    new_bytes(sibling / tampered["path"], b"not the clip that was committed")
    (sibling / gone["path"]).unlink()
    finished(folder, STAGES[:3])
    assert sorted(work.items["generate"]) == sorted([tampered["candidate_id"], gone["candidate_id"]])
    for row in folder.tables.read(tables.CANDIDATES).to_pylist():
        assert file_sha256(folder.root / row["path"]) == row["sha256"]


def test_items_that_a_sibling_quarantined_are_computed_again(
    base: RunFolder, beside: Callable[..., RunFolder], work: Work
) -> None:
    folder = beside("evaluation.gate.min_av_ci_low_sd=-9")
    sibling = folder.runs / base.run_id
    path = sorted((sibling / "units" / "generate").rglob("*.parquet"))[1]
    rows = pq.ParquetFile(path).read()
    lost = rows["candidate_id"][0].as_py()
    given_up = QuarantineRow(lost, "generate", "MediaError", "was broken then", 2)
    metadata = {**rows.schema.metadata, QUARANTINE_KEY: json.dumps([vars(given_up)])}
    buffer = io.BytesIO()
    pq.write_table(rows.slice(1).replace_schema_metadata(metadata), buffer)
    new_bytes(path, buffer.getvalue())
    finished(folder, STAGES[:3])
    assert work.items["generate"] == [lost]
    assert lost in ids(folder) and folder.documents.read("quarantine-generate.json") == []


def test_unfinished_and_damaged_files_of_a_sibling_are_skipped(
    base: RunFolder, beside: Callable[..., RunFolder], work: Work
) -> None:
    """Truncated and temporary files of a sibling are not reused; its other files are."""
    folder = beside("evaluation.gate.min_av_ci_low_sd=-9")
    sibling = folder.runs / base.run_id
    first, second, *_ = sorted((sibling / "units" / "generate").rglob("*.parquet"))
    truncated = {
        path: pq.ParquetFile(path).read(["candidate_id"])["candidate_id"].to_pylist() for path in (first, second)
    }
    new_bytes(first, first.read_bytes()[:-9])
    second.rename(second.with_name(f"{TEMPORARY_PREFIX}host-1-1-{second.name}"))
    (sibling / "units" / "score").rename(sibling / "units" / "elsewhere")
    finished(folder, STAGES[:4])
    assert sorted(work.items["generate"]) == sorted(item for items in truncated.values() for item in items)
    assert set(work.items["score"]) == ids(folder)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stage", ["generate", "score"])
@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_run_that_is_killed_while_it_reuses_items_can_go_on(
    stage: str, after: int, beside: Callable[..., RunFolder], fresh: Callable[..., RunFolder],
    work: Work, base: RunFolder, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = beside("sampling.num_candidates=4")
    commit, left = UnitFiles.commit_rows, [after]

    def dying(self: UnitFiles, unit: Unit, rows: pa.Table, lost: Sequence[QuarantineRow]) -> bool:
        if unit.stage == stage:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return commit(self, unit, rows, lost)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(UnitFiles, "commit_rows", dying)
        finished(folder, STAGES[:4])
    shutil.rmtree(folder.runs / base.run_id / "units" / "encode")
    finished(folder, STAGES[:4])
    assert len(work.items["generate"]) == len(set(work.items["generate"])) == len(ids(folder) - ids(base))
    expected = outcome_of(fresh("sampling.num_candidates=4"), SEALED[:3])
    assert outcome_of(folder, SEALED[:3]) == expected


def scored_by(monkeypatch: pytest.MonkeyPatch, *salts: str) -> list[str]:
    """Fake scorers in place of the configured ones, a metric each; returns a list that names those that are opened."""
    opened_: list[str] = []

    @dataclass(frozen=True)
    class Noted(Weightless):
        salt: str = ""

        def open(self, device: str) -> Scorer:
            opened_.append(self.salt)
            return super().open(device)

    found = [Noted(FakeScorer(METRICS[n : n + 1], salt), salt=salt) for n, salt in enumerate(salts)]
    monkeypatch.setattr(score_stage, "sources", lambda *_: found)
    return opened_


@pytest.mark.parametrize("changes", [(), ("prompts.num_prompts=11",)])
def test_a_new_scorer_computes_its_own_column_alone(
    changes: tuple[str, ...], beside: Callable[..., RunFolder], fresh: Callable[..., RunFolder],
    base: RunFolder, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scored_by(monkeypatch, "old", "older")
    older = beside("scoring.canary_tolerance=0.1")
    finished(older, STAGES[:4])
    opened_ = scored_by(monkeypatch, "old", "older", "new")
    folder = beside("scoring.canary_tolerance=0.2", *changes)
    counts = {stage_counts.stage: stage_counts for stage_counts in finished(folder, STAGES[:4])}
    new = ids(folder) - ids(older)
    assert counts["score"].made == len(ids(folder)) + 2 * len(new)
    assert counts["score"].reused == {older.run_id: 2 * len(ids(older))}
    assert opened_ == (["old", "older", "new"] if new else ["new"])
    (folder.runs / base.run_id).rename(folder.runs.parent / "away")
    (older.root).rename(folder.runs.parent / "away too")
    expected = opened(folder.runs.parent / "fresh", "scoring.canary_tolerance=0.2", *changes)
    finished(expected, STAGES[:4])
    assert outcome_of(folder, (tables.SCORES,)) == outcome_of(expected, (tables.SCORES,))


# given weights, lists of texts


def listed(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("text\n" + "".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


TEXTS = [f"a {colour} ball number {n}" for n in range(6) for colour in ("red", "green")]
NUM_FIRST = 8
"""Texts of the list before it grows: enough that one is held out by its own hash, and not for want of another."""


def test_a_list_that_grows_adds_its_new_prompts_to_the_same_run(base: RunFolder, tmp_path: Path, work: Work) -> None:
    network = Run.of(base).sft.checkpoint
    csv = listed(tmp_path / "prompts.csv", TEXTS[:NUM_FIRST])
    weights = f"sft={{kind: weights, network: {network}, dtype: float32}}"
    given = (weights, f"prompts={{kind: texts, prompts: {csv}, held_out_share: 0.5}}")
    folder = grown = texts_run(tmp_path / "runs", *given)
    finished(folder, STAGES[:4])
    before, splits = ids(folder), {prompt.text: prompt.split for prompt in read_prompts(folder.tables)}
    assert Split.HELD_OUT in splits.values()
    work.items.clear()
    listed(csv, ["a blue ball", *TEXTS])
    grown = texts_run(tmp_path / "runs", *given)
    assert grown.root == folder.root
    counts = {stage_counts.stage: stage_counts for stage_counts in finished(grown, STAGES[:4])}
    assert before < ids(grown)
    assert sorted(work.items["generate"]) == sorted(work.items["score"]) == sorted(ids(grown) - before)
    assert splits.items() <= {prompt.text: prompt.split for prompt in read_prompts(grown.tables)}.items()
    assert (counts["prompts"].made, counts["prompts"].present) == (len(TEXTS) - NUM_FIRST + 1, NUM_FIRST)
    assert file_sha256(csv)[:12] in counts["prompts"].because
    elsewhere = texts_run(tmp_path / "others", *given)
    finished(elsewhere, STAGES[:4])
    assert outcome_of(grown, SEALED[:3]) == outcome_of(elsewhere, SEALED[:3])


def texts_run(runs: Path, *given: str) -> RunFolder:
    small = [each for each in SMALL if not each.startswith(("prompts.", "sft."))]
    tree = load_config(TINY, small, {}).settings.model_dump(mode="json")
    tree |= {"sft": yaml.safe_load(given[0].partition("=")[2]), "prompts": yaml.safe_load(given[1].partition("=")[2])}
    return create(runs, Settings.model_validate(tree))


def test_a_new_checkpoint_reuses_the_ground_truth_and_its_scores_alone(
    base: RunFolder, beside: Callable[..., RunFolder], work: Work
) -> None:
    other = beside("sft.loop.steps=3")
    counts = {stage_counts.stage: stage_counts for stage_counts in finished(other, STAGES[:4])}
    assert work.trainings == Counter({"sft": 1}) and not work.count("sft_clips")
    rows = other.tables.read(tables.CANDIDATES).to_pylist()
    truth = {row["candidate_id"] for row in rows if row["origin"] == Origin.GROUND_TRUTH}
    assert truth and truth == ids(other) & ids(base)
    assert set(work.items["generate"]) == set(work.items["score"]) == ids(other) - truth
    assert counts["generate"].reused == counts["score"].reused == {base.run_id: len(truth)}


def test_ground_truth_of_another_seed_is_not_reused() -> None:
    prompt = Prompt("p", "text", Split.TRAIN)
    recorded = replace(prompt, ground_truth_sha256="ab", ground_truth_start_s=1.0)
    seeds = [load_config(TINY, [f"run.seed={seed}"], {}).settings for seed in (0, 1)]
    assert len({ground_truth_source(prompt, settings) for settings in seeds}) == 2
    assert len({ground_truth_source(recorded, settings) for settings in seeds}) == 1
    assert ground_truth_source(recorded, seeds[0]) != ground_truth_source(
        replace(recorded, ground_truth_sha256="cd"), seeds[0]
    )
