"""Claim: the search for finished items in other runs takes seconds for 2,000 unit files, and almost no time among unrelated runs.

Three cases, each with a plan of which nothing exists yet: other runs without such a stage; another run whose units have the planned
names (a changed gate); another run whose units have other names (more candidates), so that the ids in every file are read. Wall
seconds, one execution each.

    python benchmarks/reuse.py                  writes benchmarks/reuse.md
    python benchmarks/reuse.py --units 20       another size: prints the result and writes nothing
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

from avpref.datasets.tables import TEXTS, to_arrow
from avpref.storage.local_files import LocalFiles
from avpref.storage.sibling_runs import find, itself_and_siblings, siblings, unit_files
from avpref.storage.unit import Unit

NUM_UNITS, UNIT_ITEMS, NUM_UNRELATED = 2000, 64, 50
RESULT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class TextItem:
    """A row of table ``texts`` as an item of a unit."""

    item_id: str
    text: str


def units(num_items: int, size: int) -> list[Unit]:
    """A plan of ``num_items`` items cut into units of ``size`` items."""
    items = [TextItem(f"t{number:015d}", "a text") for number in range(num_items)]
    return [Unit("stage", 0, "f", tuple(items[start : start + size])) for start in range(0, len(items), size)]


def took_s(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(runs: Path, num_units: int) -> list[tuple[str, int, float]]:
    """(case, items found, seconds) of each case."""
    here = runs / "here"
    here.mkdir()
    for number in range(NUM_UNRELATED):
        (runs / f"other{number}" / "units" / "stage" / "another").mkdir(parents=True)

    def search(planned: list[Unit]) -> tuple[int, float]:
        missing = {unit.name: [item.item_id for item in unit.items] for unit in planned}
        finished: dict[str, object] = {}
        files = unit_files(
            itself_and_siblings(LocalFiles(here), lambda: siblings(LocalFiles(runs), here.name)), "stage", "f"
        )
        seconds = took_s(lambda: finished.update(find(files, "item_id", missing)))
        return len(finished), seconds

    num_items = num_units * UNIT_ITEMS
    planned = units(num_items, UNIT_ITEMS)
    rows = [(f"{NUM_UNRELATED} unrelated neighbours", *search(planned))]
    owner = runs / "neighbour" / "units" / "stage" / "f"
    owner.mkdir(parents=True)
    for unit in planned:  # written without fsync, which is not measured here
        pq.write_table(to_arrow(TEXTS, unit.items), owner / f"{unit.name}.parquet", compression="zstd")
    rows.append((f"{num_units} units named as planned", *search(planned)))
    rows.append((f"{num_units} units named otherwise", *search(units(num_items, UNIT_ITEMS + 1))))
    assert all(count in (0, num_items) for _, count, _ in rows)
    return rows


def main() -> None:
    """Measure in a temporary folder and write the result beside this file, or print that of another size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=NUM_UNITS, help="unit files of the other run")
    num_units = parser.parse_args().units
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), num_units)
    lines = [
        "# Looking for finished items beside a run",
        "",
        f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()}, pyarrow {version('pyarrow')}; a machine",
        f"that others used at the same time. {num_units * UNIT_ITEMS} items, {UNIT_ITEMS} to a unit. Made by `benchmarks/reuse.py`.",
        "",
        "| neighbours | items found | wall s |",
        "|---|---|---|",
        *(f"| {name} | {count} | {seconds:.2f} |" for name, count, seconds in rows),
    ]
    text = "\n".join(lines) + "\n"
    if num_units == NUM_UNITS:
        RESULT.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
