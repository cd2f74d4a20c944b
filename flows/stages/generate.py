"""Stage ``generate``: N candidates per training prompt, ground truth beside them, and the reference's held-out clips."""

from __future__ import annotations

from pathlib import Path

from avpref.datasets import tables
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.candidates import make_candidates
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.sft import sft_network
from avpref.storage.run_folder import open_root

STAGE = "generate"


@reporting.stage("generate")
def generate(run_dir: str) -> int:
    """Make the candidates of the run in ``run_dir`` and seal their table; returns how many there are."""
    folder = open_root(Path(run_dir))
    prompts = read_prompts(folder)
    encode_texts(folder, prompts)
    units = make_candidates(folder, STAGE, prompts, sft_network(folder))
    quarantined = folder.seal_units(tables.CANDIDATES, units)
    folder.write_json("quarantine-generate.json", [vars(row) for row in quarantined])
    return folder.num_rows(tables.CANDIDATES)
