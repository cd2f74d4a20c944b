"""Kills runs with SIGKILL hundreds of times: ``make chaos``. The checks of tests/chaos follow each kill; a violation ends the script.

    command   the command, at every named moment (at visits drawn from a seed) and at random times; each run is killed many times
    actors    Ray actors while they work on units; visits are counted over all actors
    node      one of two raylets of a cluster, with the actors on it
    server    the Prefect server that a run reports to

The command line names the parts to run; without names all are run. Results are kept by part in chaos.json and written as chaos.md
beside this file. With other numbers than the usual ones, they are printed and nothing is written:

    python benchmarks/chaos.py command --rounds 1 --strikes 0 --random-kills 2
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

HERE = Path(__file__).parent
CHAOS = HERE.parent / "tests" / "chaos"
sys.path.insert(0, str(CHAOS))

from fork_server import PATIENCE_S, ForkServer, open_fork_server  # noqa: E402
from invariants import check_tables, check_whole, same_end, same_results, visible  # noqa: E402
from kill_campaign import KillCampaign  # noqa: E402

from avpref.config.loading import load_config  # noqa: E402
from avpref.identity import derive_seed  # noqa: E402
from avpref.storage.failpoints import FailPoint  # noqa: E402
from avpref.storage.run_folder import RunFolder, create  # noqa: E402

TINY = HERE.parent / "configs" / "tiny.yaml"
RESULTS = HERE / "chaos.json"
PROMISED = 300
LONGEST_S = 2400.0
OFTEN = tuple(
    point for point in FailPoint if point.partition(".")[0] in ("write", "commit", "replace", "media", "unit")
)
"""Moments that occur dozens of times in a tiny run; the others occur once or a few times."""
RARE_STRIKES = 2
ACTOR_KILLS = {
    FailPoint.WRITE_SYNCED: (9, 37, 70),
    FailPoint.COMMIT_LINKED: (21, 50, 84),
    FailPoint.MEDIA_COMMITTED: (14, 29, 43),
    FailPoint.UNIT_COMMITTED: (4, 10, 16, 22),
}
"""Visits counted over all actors. They are so far apart that the second attempt of a unit is not killed."""


@dataclass(frozen=True)
class Deaths:
    """The results of one part: kills by moment, number of runs, units started (``attempts``) and units in all."""

    target: str
    kills: Counter[str]
    runs: int
    attempts: int = 0
    units: int = 0


@dataclass(frozen=True)
class Numbers:
    """Runs of each kind, kills at each moment that occurs often (the others: at most two), and kills at random times per run."""

    rounds: int = 4
    strikes: int = 5
    random_kills: int = 20


@dataclass(frozen=True)
class Campaign:
    """Inputs of every part: folder, fork server, the run without kills that others are compared with, numbers, and seed."""

    folder: Path
    fork_server: ForkServer
    reference: RunFolder
    numbers: Numbers
    seed: int

    @property
    def rounds(self) -> int:
        return self.numbers.rounds

    def run(self, name: str) -> RunFolder:
        """A new run of the tiny configuration; its id is that of the reference."""
        return create(self.folder / name, load_config(TINY, environment={}).settings)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def command(campaign: Campaign) -> Iterator[Deaths]:
    """Kill the command: at named moments first, then at random times."""
    kills: Counter[str] = Counter()
    attempts = units = 0
    for number in range(campaign.rounds):
        generator = np.random.Generator(np.random.PCG64(derive_seed("chaos", campaign.seed, number)))
        killed, strikes = KillCampaign(campaign.fork_server, campaign.run(f"named-{number}")), campaign.numbers.strikes
        visits = {moment: [1] * min(RARE_STRIKES, strikes) for moment in FailPoint}
        visits |= {moment: generator.integers(1, 5, strikes, endpoint=True).tolist() for moment in OFTEN}
        killed.at_failpoints(visits)
        same_end(killed.folder, campaign.reference)
        kills += killed.kills
        attempts, units = attempts + killed.attempts, units + num_units(killed.folder)
        say(f"named moments, run {number}: {killed.kills.total()} kills")
    yield Deaths("command, named moments", kills, campaign.rounds, attempts, units)
    kills, attempts, units = Counter(), 0, 0
    for number in range(campaign.rounds):
        generator = np.random.Generator(np.random.PCG64(derive_seed("chaos at random", campaign.seed, number)))
        killed = KillCampaign(campaign.fork_server, campaign.run(f"random-{number}"))
        while killed.kills.total() < campaign.numbers.random_kills:
            if killed.after(float(generator.uniform(0.05, 0.6) * (1 + killed.lives / 4))) == 0:
                break
        killed.finish()
        same_end(killed.folder, campaign.reference)
        kills += killed.kills
        attempts, units = attempts + killed.attempts, units + num_units(killed.folder)
        say(f"random moments, run {number}: {killed.kills.total()} kills")
    yield Deaths("command, random moments", kills, campaign.rounds, attempts, units)


def num_units(folder: RunFolder) -> int:
    return len(list(folder.root.glob("units/**/*.parquet")))


@contextlib.contextmanager
def program(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program in a process group of its own; the group is killed after the block."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            yield process
            if process.returncode:
                errors.seek(0)
                say(errors.read().decode()[-4000:])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def check_end(folder: RunFolder, reference: RunFolder) -> None:
    """The checks of a run that the fork server did not start."""
    check_whole(folder.root, visible(folder.root))
    check_tables(folder)
    same_results(folder, reference)


def actors(campaign: Campaign) -> Iterator[Deaths]:
    """Kill Ray actors while they work on units; the driver is not killed."""
    kills: Counter[str] = Counter()
    for number in range(campaign.rounds):
        folder, counts = campaign.run(f"actors-{number}"), campaign.folder / f"counts-{number}"
        shift = derive_seed("actors", campaign.seed, number) % 5
        planned = {moment: [visit + shift for visit in visits] for moment, visits in ACTOR_KILLS.items()}
        kill = " ".join(f"{moment}:{','.join(map(str, visits))}" for moment, visits in planned.items())
        with program(str(CHAOS / "ray_loop.py"), str(folder.root), "actors", kill, str(counts)) as process:
            assert process.wait(LONGEST_S) == 0, "the loop on Ray failed"
        check_end(folder, campaign.reference)
        for moment, visits in planned.items():
            num_visits = (counts / moment).stat().st_size
            kills[moment] += sum(visit <= num_visits for visit in visits)
        say(f"actors, run {number}: {kills.total()} kills so far")
    yield Deaths("Ray actor", kills, campaign.rounds)


def node(campaign: Campaign) -> Iterator[Deaths]:
    """Kill one of two raylets."""
    folder = campaign.run("node")
    with program(str(CHAOS / "ray_loop.py"), str(folder.root), "node") as process:
        out, _ = process.communicate(timeout=LONGEST_S)
        assert process.returncode == 0, "the loop on two raylets failed"
    assert b"killed" in out
    check_end(folder, campaign.reference)
    yield Deaths("raylet", Counter({"raylet": 1}), 1)


def server(campaign: Campaign) -> Iterator[Deaths]:
    """Kill the Prefect server while a run reports to it."""
    folder = campaign.run("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, home = f"http://127.0.0.1:{port}/api", str(campaign.folder / "prefect")
    quiet = {"PREFECT_HOME": home, "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    start = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    work = ("-m", "avpref.cli.main", "retrain", "--config", str(TINY), "--runs", str(folder.root.parent))
    with program(*start, **quiet) as serving:
        until(lambda: answers(f"{url}/health"))
        with program(*work, **quiet) as running:
            until(lambda: len(list(folder.root.glob("units/generate/*/*.parquet"))) > 3)
            os.killpg(serving.pid, signal.SIGKILL)
            assert running.wait(LONGEST_S) in (0, 3), "the run ended with its server"
    check_end(folder, campaign.reference)
    yield Deaths("Prefect server", Counter({"server": 1}), 1)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


PARTS = {"command": command, "actors": actors, "node": node, "server": server}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; all if left out")
    parser.add_argument("--rounds", type=int, default=Numbers.rounds, help="runs of each kind")
    parser.add_argument("--strikes", type=int, default=Numbers.strikes, help="kills at each named moment")
    parser.add_argument("--random-kills", type=int, default=Numbers.random_kills, help="kills at random times per run")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and times")
    arguments = parser.parse_args()
    numbers = Numbers(arguments.rounds, arguments.strikes, arguments.random_kills)
    results = {} if numbers != Numbers() or not RESULTS.exists() else json.loads(RESULTS.read_text())
    folder = Path(tempfile.mkdtemp(prefix="avpref-chaos-"))
    try:
        with open_fork_server(folder) as fork_server:
            reference = create(folder / "reference", load_config(TINY, environment={}).settings)
            KillCampaign(fork_server, reference).finish()
            campaign = Campaign(folder, fork_server, reference, numbers, arguments.seed)
            for part in arguments.parts or PARTS:
                started = time.monotonic()
                deaths = list(PARTS[part](campaign))
                results[part] = document(deaths, arguments.seed, time.monotonic() - started)
                if numbers == Numbers():
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say("no violation")
    if numbers == Numbers():
        (HERE / "chaos.md").write_text(report(results), encoding="utf-8")
    else:
        print(report(results))


def document(deaths: list[Deaths], seed: int, took_s: float) -> dict[str, Any]:
    """A part's results, as chaos.json holds them."""
    return {
        "date": str(datetime.date.today()),
        "seed": seed,
        "minutes": round(took_s / 60, 1),
        "deaths": [{**vars(target), "kills": dict(target.kills)} for target in deaths],
    }


def report(results: dict[str, Any]) -> str:
    """The page about the results of all parts."""
    targets_and_parts = [
        (Deaths(**{**row, "kills": Counter(row["kills"])}), part) for part in results.values() for row in part["deaths"]
    ]
    total = sum(deaths.kills.total() for deaths, _ in targets_and_parts)
    targets = "\n".join(
        f"| {deaths.target} | {deaths.kills.total()} | {deaths.runs} | {again(deaths)} | 0 | {part['seed']} | {part['date']} |"
        for deaths, part in targets_and_parts
    )
    named = [deaths for deaths, _ in targets_and_parts if set(deaths.kills) & set(FailPoint)]
    rows = "\n".join(
        f"| `{point}` | " + " | ".join(str(deaths.kills[point]) for deaths in named) + " |" for point in FailPoint
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "prefect", "pyarrow", "torch"))
    versions = f"Python {platform.python_version()}, {versions}"
    return f"""# Kills

{datetime.date.today()} · {os.cpu_count()} processors, {platform.machine()}, {platform.system()} · {versions}

`make chaos`: **{total} kills** with SIGKILL (promised: {PROMISED}) of runs of configs/tiny.yaml.
After each kill of the command: no file under a final name is incomplete, every manifest verifies, nothing that was finished has been
written again or is computed again by the next execution, no row is twice in a sealed table. At the end of each run: tables, clips,
network, adapter and result equal those of a run without kills, except for columns of durations. A violation ends the script without
a result.

| target | kills | runs | units begun / units there are | violations | seed | date |
|---|---|---|---|---|---|---|
{targets}

## By moment (`src/avpref/storage/failpoints.py`)

| moment | {" | ".join(deaths.target for deaths in named)} |
|---|{"---|" * len(named)}
{rows}
"""


def again(deaths: Deaths) -> str:
    """Units started and units in all: the work that kills repeated."""
    return f"{deaths.attempts} / {deaths.units}" if deaths.units else "–"


if __name__ == "__main__":
    main()
