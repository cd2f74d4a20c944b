"""Overhead of stages, units and seals: 600,000 candidate-stages with scorers that compute nothing.

    python benchmarks/overhead.py                                       writes benchmarks/overhead.md (minutes)
    python benchmarks/overhead.py --prompts 40 --executors in_process   another size: prints the result, writes nothing

30,000 prompts × 5 candidates; candidates are "made" without media, four scorers "score" each of them (seven metrics), pairs are
selected. Plan, retries, pools, committed units, sealing and pair selection are those of a run; only the workers are stubs. Each case
runs in a process of its own. A candidate-stage is one candidate through one of the four scorers' stages.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import prefect
import pyarrow as pa
import ray

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.rows import ScoreRow
from avpref.domain import METRICS, Candidate, Prompt, ScoreStatus, Split, prompt_id
from avpref.execution.contract import Receipt
from avpref.execution.plan import grouped, plan_stage
from avpref.execution.ray_session import ray_session
from avpref.execution.run_units import run_stage
from avpref.execution.stage_observer import NoObserver
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import plan_candidates, sampler_hash, sampler_parts
from avpref.flows.stages.pair import pair
from avpref.flows.workers.generator import NetworkFiles
from avpref.flows.workers.score_worker import ScoreItem
from avpref.identity import derive_seed, digest
from avpref.observability.run_status import publishing
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.score_files import ScoreFiles
from avpref.storage.table_readers import read_candidates, read_prompts
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
NUM_PROMPTS, NUM_CANDIDATES, UNIT, SHARD = 30_000, 5, 64, 256
EXECUTORS = {"in_process": "{kind: in_process}", "ray": "{kind: ray, num_actors: 2}"}
SCORERS = tuple(tuple(metric.name for metric in METRICS[start:end]) for start, end in ((0, 3), (3, 5), (5, 6), (6, 7)))
MEBI = 2**20
SAMPLE_EVERY_S = 1.0


class TaskRunCounter(NoObserver):
    """Counts the task runs that a Prefect server would show."""

    count = 0

    def shards_running(self, stage: str, first: int, last: int) -> AbstractContextManager[None]:
        self.count += 1
        return super().shards_running(stage, first, last)


OBSERVER = TaskRunCounter()


@dataclass(frozen=True)
class CandidateSpec:
    """Commits candidate rows as the generator does, without a clip."""

    files: UnitFiles
    sampler_hash: str
    sampler: str

    def build(self) -> CandidateSpec:
        return self

    def run(self, unit: Unit) -> Receipt:
        started = time.perf_counter()
        rows = [self._row(item) for item in unit.items]
        self.files.commit(unit, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _row(self, item: Any) -> Candidate:
        sha256 = digest("clip", item.item_id, size=64)
        return Candidate(
            candidate_id=item.item_id,
            prompt_id=item.prompt.prompt_id,
            index=item.index,
            origin=item.origin,
            seed=item.seed,
            checkpoint_hash="0" * 64,
            sampler_hash=self.sampler_hash,
            path=f"clips/{item.item_id[:3]}/{item.item_id}-{sha256[:8]}.mp4",
            sha256=sha256,
            num_frames=81,
            height_px=480,
            width_px=832,
            fps_hz=16.0,
            sample_rate_hz=16000,
            duration_s=5.0625,
            sampler=self.sampler,
            elapsed_s=0.0,
        )


@dataclass(frozen=True)
class ScoreSpec:
    """Commits score rows as a scorer does: numbers derived from the candidate's id."""

    files: ScoreFiles
    metrics: tuple[str, ...]
    scorer: str

    def build(self) -> ScoreSpec:
        return self

    def run(self, unit: Unit) -> Receipt:
        started = time.perf_counter()
        rows = [row for item in unit.items for row in self._rows(item.item_id)]
        for part in self.files.parts(unit):
            self.files.files.commit(part, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _rows(self, candidate: str) -> Iterator[ScoreRow]:
        for metric in self.metrics:
            value = (derive_seed(candidate, metric) % 2**20) / 2**20
            yield ScoreRow(
                *(candidate, metric, value, ScoreStatus.OK, "", self.scorer, self.files.fingerprints[0]),
                *(0.0, 0.0, "Apache-2.0", True, True),
            )


def make_prompts(folder: RunFolder, count: int) -> None:
    """Seal ``count`` training prompts, some sentence long."""
    texts = (f"prompt {number}: " + "something happens somewhere and sounds like it, " * 3 for number in range(count))
    rows = [Prompt(prompt_id(text), text, Split.TRAIN) for text in texts]
    folder.tables.seal(tables.PROMPTS, "benchmark", tables.to_arrow(tables.PROMPTS, rows, "benchmark"))


def make_candidates(folder: RunFolder) -> list[Unit]:
    """Stage ``generate``."""
    network = NetworkFiles(Path("network.safetensors"), "0" * 64)
    plan = plan_candidates(folder, "generate", read_prompts(folder.tables), network)
    files = folder.units(tables.CANDIDATES)
    settings = folder.settings
    spec = CandidateSpec(files, sampler_hash(settings), json.dumps(sampler_parts(settings), sort_keys=True))
    return run_stage(folder, plan, files, lambda: spec, observer=OBSERVER).units


def make_scores(folder: RunFolder) -> list[Unit]:
    """Stage ``score`` in four waves, as :func:`avpref.flows.stages.score.score_items` runs them."""
    text = {prompt.prompt_id: prompt.text for prompt in read_prompts(folder.tables)}
    items = [ScoreItem(candidate, text[candidate.prompt_id]) for candidate in read_candidates(folder.tables)]
    fingerprints = [folder.fingerprint("score", number) for number in range(len(SCORERS))]
    groups = grouped(items, [item.candidate.prompt_id for item in items])
    plan = plan_stage("score", "candidates", folder.fingerprint("score", fingerprints), groups, folder.settings.run)
    for number, (metrics, fingerprint) in enumerate(zip(SCORERS, fingerprints, strict=True)):
        files = ScoreFiles(folder.units(tables.SCORES), (fingerprint,))
        spec = ScoreSpec(files, metrics, f"stub {number}")
        run_stage(folder, replace(plan, name=f"score-{number}"), files, lambda spec=spec: spec, observer=OBSERVER)
    return [replace(unit, fingerprint=fingerprint) for fingerprint in fingerprints for unit in plan.units]


def peak_mib() -> float:
    """Peak resident memory of this process since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@dataclass
class Case:
    """The measured phases of one case, and the fsyncs of this process."""

    phases: list[dict[str, Any]]
    fsyncs: int = 0
    fsync_s: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        tasks, fsyncs, fsync_s = OBSERVER.count, self.fsyncs, self.fsync_s
        Path("/proc/self/clear_refs").write_text("5")  # so that peak_mib() is the peak of this phase
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.phases.append(
            {
                "phase": name,
                "wall_s": time.perf_counter() - wall,
                "driver_cpu_s": time.process_time() - cpu,
                "peak_mib": peak_mib(),
                "task_runs": OBSERVER.count - tasks,
                "fsyncs": self.fsyncs - fsyncs,
                "fsync_s": self.fsync_s - fsync_s,
            }
        )
        print(self.phases[-1], file=sys.stderr, flush=True)

    def count(self) -> None:
        """Count the fsyncs of this process."""
        fsync = os.fsync

        def timed_fsync(handle: int) -> None:
            started = time.perf_counter()
            fsync(handle)
            self.fsyncs += 1
            self.fsync_s += time.perf_counter() - started

        os.fsync = timed_fsync


def run_case(kind: str, root: Path, num_prompts: int) -> None:
    """Run every phase twice (the second time nothing is missing) and print the measurements; for a process of its own."""
    overrides = [f"executor={EXECUTORS[kind]}", f"run.shard_prompts={SHARD}", f"run.unit_candidates={UNIT}"]
    overrides += [f"sampling.num_candidates={NUM_CANDIDATES}", "sampling.ground_truth=false"]
    folder = create(root, load_config(TINY, overrides).settings)
    case = Case([])
    case.count()
    with folder.locked(), ray_session(), publishing(folder):
        make_prompts(folder, num_prompts)
        for again in ("", " again"):
            rounds(case, folder, again)
    files = sum(1 for _ in (folder.root / "units").rglob("*.parquet"))
    events = folder.root / "events.jsonl"
    print(
        json.dumps(
            {
                "phases": case.phases,
                "unit_files": files,
                "events_mib": events.stat().st_size / MEBI if events.exists() else 0.0,
                "pairs": folder.tables.num_rows(tables.PAIRS),
                "scores": folder.tables.num_rows(tables.SCORES),
            }
        )
    )


def rounds(case: Case, folder: RunFolder, again: str) -> None:
    with case.phase("generate" + again):
        units = make_candidates(folder)
    with case.phase("seal candidates" + again):
        folder.tables.seal_units(folder.units(tables.CANDIDATES), units)
    del units
    with case.phase("score" + again):
        units = make_scores(folder)
    with case.phase("seal scores" + again):
        folder.tables.seal_units(folder.units(tables.SCORES), units)
    del units
    with case.phase("pair" + again):
        pair.fn(Run.of(folder))


@dataclass
class Memory:
    """Peaks of the proportional set size (PSS), in MiB: of driver and actors, and of all processes that Ray starts too."""

    own_mib: float = 0.0
    all_mib: float = 0.0

    def watch(self, driver: subprocess.Popen[str]) -> None:
        """Sample until the driver ends."""
        while driver.poll() is None:
            shares = {process: pss_mib(process) for process in descendants(driver.pid)}
            own = [share for process, share in shares.items() if process == driver.pid or is_actor(process)]
            self.own_mib, self.all_mib = max(self.own_mib, sum(own)), max(self.all_mib, sum(shares.values()))
            time.sleep(SAMPLE_EVERY_S)


def descendants(root: int) -> list[int]:
    """The process and all its descendants."""
    processes, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        processes.append(process)
        with suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
    return processes


def pss_mib(process: int) -> float:
    """Proportional set size in MiB; 0 of a process that has ended."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return int(text.split("\nPss:")[1].split()[0]) / 1024
    return 0.0


def is_actor(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().startswith("ray::ActorProcess")
    return False


def measure(kind: str, num_prompts: int) -> dict[str, Any]:
    """One case in a process of its own, and the memory of all its processes."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, __file__, kind, root, str(num_prompts)]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        memory = Memory()
        sampler = threading.Thread(target=memory.watch, args=(driver,))
        sampler.start()
        out, _ = driver.communicate()
        sampler.join()
        assert driver.returncode == 0, f"case {kind} failed"
        return {"kind": kind, **json.loads(out.splitlines()[-1]), **asdict(memory)}


def table(case: dict[str, Any]) -> str:
    rows = [
        f"| {phase['phase']} | {phase['wall_s']:.1f} | {phase['driver_cpu_s']:.1f} | {phase['fsync_s']:.1f} ({phase['fsyncs']}) "
        f"| {phase['peak_mib']:.0f} | {phase['task_runs']} |"
        for phase in case["phases"]
    ]
    head = "| phase | wall s | processor s of the driver | in fsync s (calls) | peak resident MiB of the driver | task runs |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def summary(case: dict[str, Any], num_prompts: int) -> str:
    phases = {phase["phase"]: phase for phase in case["phases"]}
    stages = num_prompts * NUM_CANDIDATES * len(SCORERS)
    score, again = phases["score"], phases["score again"]
    per = {name: 1000 * score[name] / stages for name in ("wall_s", "driver_cpu_s", "fsync_s")}
    once = [phase for phase in case["phases"] if not phase["phase"].endswith("again")]
    where = "the workers' commits are in it" if case["kind"] == "in_process" else "commits are the actors'"
    return f"""* {stages:,} candidate-stages of the four scorers: **{per["wall_s"]:.3f} ms** each by the clock,
  {per["driver_cpu_s"]:.3f} ms of the driver's processor ({where}),
  {per["fsync_s"]:.3f} ms of the driver waiting for fsync. Unchanged, again: {again["wall_s"]:.1f} s in all.
* {sum(phase["task_runs"] for phase in once)} shard task runs for candidates and four scorers' stages over {num_prompts:,} prompts.
* Peak resident memory of the driver {max(phase["peak_mib"] for phase in case["phases"]):.0f} MiB; peak PSS of driver and
  actors {case["own_mib"]:.0f} MiB, with all processes that Ray starts {case["all_mib"]:.0f} MiB.
* {case["unit_files"]:,} unit files; log of events {case["events_mib"]:.1f} MiB.
* Sealing candidates {phases["seal candidates"]["wall_s"]:.1f} s, {case["scores"]:,} score rows
  {phases["seal scores"]["wall_s"]:.1f} s; selecting {case["pairs"]:,} pairs {phases["pair"]["wall_s"]:.1f} s."""


def report(cases: list[dict[str, Any]], num_prompts: int, loads: tuple[str, str]) -> str:
    versions = (
        f"prefect {prefect.__version__}, ray {ray.__version__}, duckdb {duckdb.__version__}, pyarrow {pa.__version__}"
    )
    parts = [f"## {case['kind']}\n\n{summary(case, num_prompts)}\n\n{table(case)}\n" for case in cases]
    return f"""# Overhead of stages, units and seals

{datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}), shared with other work: load average {loads[0]} at the beginning,
{loads[1]} at the end · Python {platform.python_version()}, {versions}

Script: `benchmarks/overhead.py`. {num_prompts:,} prompts × {NUM_CANDIDATES} candidates, units of {UNIT}, shards of {SHARD}
prompts, stub workers that write rows and no media; plan, retries, pools, commits, events, documents, seals and pair selection are real. A
commit is an fsync of the file and one of its folder. "Again" is the same once more, with nothing missing. Wall times grow with what else
the machine does, processor times less so.

{chr(10).join(parts)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=NUM_PROMPTS)
    parser.add_argument("--executors", nargs="+", default=[*EXECUTORS], choices=[*EXECUTORS])
    chosen = parser.parse_args()
    begin = f"{os.getloadavg()[0]:.1f}"
    cases = [measure(kind, chosen.prompts) for kind in chosen.executors]
    loads = begin, f"{os.getloadavg()[0]:.1f}"
    text = report(cases, chosen.prompts, loads)
    if (chosen.prompts, chosen.executors) == (NUM_PROMPTS, [*EXECUTORS]):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in EXECUTORS:
        run_case(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
