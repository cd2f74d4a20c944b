"""Claim: the demo takes at most half of the wall time of an earlier commit. Two checkouts run it in turns, in the same hour.

    python benchmarks/compare_demo.py BEFORE AFTER [--pairs 3] [--seed 0] [--config configs/toyworld.yaml] [--output FILE]

BEFORE and AFTER are folders of checkouts. Every pair runs both, the order changes from pair to pair, and every run starts in an empty
folder of runs. Wall time is from the command to its end. CPU seconds are those of all processes that the command started, and memory
is the proportional set size of all of them together; times are sampled from /proc four times a second, memory once (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
PARENT, USER, SYSTEM, START_TIME = 1, 11, 12, 19
"""Fields of ``/proc/PID/stat``, counted from the state, which follows the name."""
SAMPLE_S = 0.25
MEMORY_EVERY = 4
REFUSED = 3
Document = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One run: seconds by the clock, processor seconds of all its processes, peak bytes, exit status, and the document it printed."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    exit_code: int
    document: Document

    def stages(self) -> str:
        times = {stage["name"]: stage["seconds"] for stage in self.document["stages"]}
        return ", ".join(f"{name} {seconds:.0f}" for name, seconds in times.items())

    def gains(self) -> str:
        return ", ".join(f"{name} {row['delta_sd']:+.3f}" for name, row in self.document["evaluation"].items())


def measure(checkout: Path, config: str, seed: int, changes: list[str]) -> Measured:
    """Run the whole loop with the code of ``checkout`` in a new folder. Raises SystemExit where it neither promotes nor refuses."""
    command = [sys.executable, "-m", "avpref.cli.main", "retrain", "--config", config, "--seed", str(seed), "--json"]
    command += [word for change in changes for word in ("--set", change)]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryFile() as log:
        started, usage = time.monotonic(), Usage()
        child = subprocess.Popen(
            [*command, "--runs", runs], cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=log
        )
        watcher = threading.Thread(target=watch, args=(child, usage))
        watcher.start()
        output = child.communicate()[0]
        wall_s = time.monotonic() - started
        watcher.join()
        reap_orphans()
        if child.returncode not in (0, REFUSED):
            log.seek(0)
            raise SystemExit(f"{checkout}: exit status {child.returncode}\n{log.read().decode()[-3000:]}")
        return Measured(wall_s, usage.cpu_s, usage.peak_bytes, child.returncode, json.loads(output))


@dataclass
class Usage:
    """Processor seconds of every process of a command, and the largest memory of all of them together."""

    peak_bytes: int = 0
    ticks: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        return sum(self.ticks.values()) / os.sysconf("SC_CLK_TCK")

    def sample(self, is_memory_due: bool) -> None:
        family = descendants(os.getpid())
        self.ticks |= {(pid, stat[START_TIME]): int(stat[USER]) + int(stat[SYSTEM]) for pid, stat in family.items()}
        if is_memory_due:
            self.peak_bytes = max(self.peak_bytes, sum(own_bytes(pid) for pid in family))


def watch(child: subprocess.Popen[bytes], usage: Usage) -> None:
    """Sample until the command ends. Ray's processes reap their children unseen, so times are read while processes run."""
    for number in itertools.count():
        if child.poll() is not None:
            return
        usage.sample(is_memory_due=number % MEMORY_EVERY == 0)
        time.sleep(SAMPLE_S)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they stay among the descendants."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Wait until every descendant has ended."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def descendants(root: int) -> dict[int, list[str]]:
    """The fields of ``/proc/PID/stat`` after the name, for all processes that ``root`` started, directly or not."""
    stats: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    family = {root}
    while children := {pid for pid, stat in stats.items() if int(stat[PARENT]) in family} - family:
        family |= children
    return {pid: stats[pid] for pid in family - {root} if pid in stats}


def own_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def in_turns(checkouts: list[Path], pairs: int, arguments: tuple[str, int, list[str]]) -> list[list[Measured]]:
    """``pairs`` rows of [before, after]; every second pair is run in the other order."""
    rows: list[list[Measured]] = []
    for pair in range(pairs):
        order = [0, 1] if pair % 2 == 0 else [1, 0]
        row = {index: measure(checkouts[index], *arguments) for index in order}
        rows.append([row[0], row[1]])
        print(f"pair {pair + 1}: {row[0].wall_s:.0f} s before, {row[1].wall_s:.0f} s after", file=sys.stderr)
    return rows


def page(rows: list[list[Measured]], commits: list[str], options: argparse.Namespace) -> str:
    """The result as Markdown."""
    head = ["pair", "commit", "wall s", "CPU s", "peak GiB", "verdict", "gains (sd)", "seconds per stage"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for number, row in enumerate(rows, 1):
        for commit, run in zip(commits, row, strict=True):
            cells = [f"{number}", commit, f"{run.wall_s:.0f}", f"{run.cpu_s:.0f}", f"{run.peak_bytes / 2**30:.2f}"]
            cells += [run.document["gate"]["verdict"], run.gains(), run.stages()]
            lines.append("| " + " | ".join(cells) + " |")
    ratios = [after.wall_s / before.wall_s for before, after in rows]
    cpu = [after.cpu_s / before.cpu_s for before, after in rows]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# The demo of two commits, in turns

{datetime.date.today().isoformat()} · {os.cpu_count()} cores, {platform.machine()}, load at the end {load} · Python
{platform.python_version()} · `{options.config}`, seed {options.seed}

{chr(10).join(lines)}

Wall time after / before: median {statistics.median(ratios):.2f} ({", ".join(f"{ratio:.2f}" for ratio in ratios)}).
CPU seconds after / before: median {statistics.median(cpu):.2f}. Peak: proportional set size of all processes of the command.
"""


def commit_of(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or checkout.name


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="configs/toyworld.yaml")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--output", type=Path, help="write the result to this file, too")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    adopt_orphans()
    checkouts = [options.before.resolve(), options.after.resolve()]
    rows = in_turns(checkouts, options.pairs, (options.config, options.seed, options.changes))
    text = page(rows, [commit_of(checkout) for checkout in checkouts], options)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
