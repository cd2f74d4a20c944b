"""One process of a training job: ``python -m avpref.trainer.worker JOB.json``, alone or under ``torchrun --nproc-per-node N -m``.

The launcher ``processes`` (:mod:`avpref.trainer.local_processes`) starts it with ``--rank``, ``--world`` and ``--rendezvous``, and
with a pipe as standard input that closes when the launcher's process ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from avpref.errors import AvprefError
from avpref.trainer.job import load_job
from avpref.trainer.parallel import environment_context, joined_context, ready_file
from avpref.trainer.run_job import run_job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job file named in ``arguments`` (default: the command line); returns an exit status of :mod:`avpref.errors`."""
    parser = argparse.ArgumentParser(prog="python -m avpref.trainer.worker", description="Train one job.")
    parser.add_argument("job", type=Path, help="a file written by avpref.trainer.job.save_job")
    parser.add_argument("--rank", type=int, default=0, help="rank of this process, with --rendezvous")
    parser.add_argument("--world", type=int, default=1, help="number of processes, with --rendezvous")
    parser.add_argument("--rendezvous", type=Path, help="file through which the processes of one machine meet")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        job = load_job(options.job)
        if options.rendezvous is None:
            context_of = environment_context(job.device)
        else:
            threading.Thread(target=_end_with_launcher, daemon=True).start()
            ready_file(options.rendezvous, options.rank).touch()
            context_of = joined_context(options.rank, options.world, options.rendezvous, job.device)
        with context_of as context:
            run_job(job, context)
    except AvprefError as error:
        logging.getLogger("avpref.trainer").error("%s", error)
        return error.exit_code
    return 0


def _end_with_launcher() -> None:
    """Wait until standard input closes, which means that the launcher's process has ended; then end this process."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
