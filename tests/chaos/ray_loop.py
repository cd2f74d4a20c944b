"""A loop on Ray whose actors, or whose second node, die: ``ray_loop.py ROOT actors "MOMENT:N,N …" COUNTS`` or ``ray_loop.py ROOT node``.

The driver itself is not armed: it has read its environment when the actors' part of it is set.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from avpref.config.executor_settings import RayExecutor
from avpref.flows import retrain
from avpref.storage import failpoints
from avpref.storage.run_folder import RunFolder, open_root

NUM_ACTORS = 3
UNITS_BEFORE = 4


def on_ray(root: Path, executor: RayExecutor) -> RunFolder:
    """The run as another command with actors would open it."""
    folder = open_root(root)
    return RunFolder(root, folder.settings.model_copy(update={"executor": executor}))


def arm_actors(kill: str, counts: Path) -> None:
    """What is started from now on dies as told, each number once, whichever process comes to it."""
    failpoints.KillAt.parse(kill)
    counts.mkdir(exist_ok=True)
    os.environ[failpoints.KILL_VARIABLE], os.environ[failpoints.COUNTS_VARIABLE] = kill, str(counts)


def lose_a_node(root: Path) -> None:
    """The loop on two raylets; one is killed once some candidates are there."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NUM_ACTORS, "include_dashboard": False})
    other = cluster.add_node(num_cpus=NUM_ACTORS)

    def kill() -> None:
        while len(list(root.glob("units/generate/*/*.parquet"))) < UNITS_BEFORE:
            time.sleep(0.005)
        other.kill_raylet()
        sys.stdout.write("killed\n")

    threading.Thread(target=kill, daemon=True).start()
    try:
        retrain.run_loop(on_ray(root, RayExecutor(num_actors=NUM_ACTORS, address=cluster.address)))
    finally:
        cluster.shutdown()


def main() -> None:
    root, what, *rest = sys.argv[1:]
    if what == "node":
        lose_a_node(Path(root))
        return
    arm_actors(rest[0], Path(rest[1]))
    retrain.run_loop(on_ray(Path(root), RayExecutor(num_actors=NUM_ACTORS)))


if __name__ == "__main__":
    main()
