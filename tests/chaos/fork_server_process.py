"""The process of the fork server: imports the product once, then forks a loop for each order that it reads.

An order is one JSON line: ``root`` of the run, ``log`` to append to, ``kill`` as in AVPREF_KILL, ``jumps`` seconds to add to the
wall clock at successive seals. The log has a line for each unit that is begun and for each fail point that is hit.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avpref.errors import AvprefError
from avpref.execution import pool
from avpref.flows import retrain
from avpref.flows.workers import encode_worker as rendering  # noqa: F401  what a loop imports late
from avpref.flows.workers import generate_worker as generating  # noqa: F401  what a loop imports late
from avpref.flows.workers import score_worker as scoring  # noqa: F401  what a loop imports late
from avpref.storage import failpoints, run_folder
from avpref.storage.failpoints import FailPoint

REAL_TIME = time.time


def jumping_clock(jumps_s: Sequence[float]) -> Callable[[FailPoint], None]:
    """An observer that moves the wall clock by the next of ``jumps_s`` from the real time whenever a table was sealed."""
    offsets = itertools.cycle(jumps_s)

    def jump(point: FailPoint) -> None:
        if point == FailPoint.SEAL_POINTED:
            offset_s = next(offsets)
            time.time = lambda: REAL_TIME() + offset_s
            time.time_ns = lambda: int((REAL_TIME() + offset_s) * 1e9)

    return jump


def live(order: dict[str, Any]) -> None:
    """Run the loop as ordered."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    observers: list[Callable[[FailPoint], None]] = [jumping_clock(order["jumps"])] if order["jumps"] else []
    observers.append(failpoints.KillAt.parse(order["kill"]))

    def observe(point: FailPoint) -> None:
        os.write(log, f"{point}\n".encode())
        for observer in observers:
            observer(point)

    def noted(worker: Any, unit: Any, run_and_catch: Any = pool.run_and_catch) -> Any:
        os.write(log, f"unit {unit.stage}/{unit.fingerprint}/{unit.name}\n".encode())
        return run_and_catch(worker, unit)

    pool.run_and_catch = noted
    failpoints.set_observer(observe)
    retrain.run_loop(run_folder.open_root(Path(order["root"])))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.setsid()
            try:
                live(json.loads(line))
                os._exit(0)
            except BaseException as error:
                traceback.print_exc()
                os._exit(error.exit_code if isinstance(error, AvprefError) else 70)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
