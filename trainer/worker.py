"""One process of a training job: ``python -m avpref.trainer.worker JOB.json``, alone or under ``torchrun --nproc-per-node N -m``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from avpref.errors import AvprefError
from avpref.trainer.job import load_job
from avpref.trainer.parallel import environment_context
from avpref.trainer.run_job import run_job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job file named in ``arguments`` (default: the command line); returns an exit status of :mod:`avpref.errors`."""
    parser = argparse.ArgumentParser(prog="python -m avpref.trainer.worker", description="Train one job.")
    parser.add_argument("job", type=Path, help="a file written by avpref.trainer.job.save_job")
    path = parser.parse_args(arguments).job
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        job = load_job(path)
        with environment_context(job.device) as context:
            run_job(job, context)
    except AvprefError as error:
        logging.getLogger("avpref.trainer").error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
