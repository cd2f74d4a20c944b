"""The work of ``avpref retrain --dry-run``."""

from __future__ import annotations

from avpref.cli.output import print_json, print_table
from avpref.config.schema import Settings
from avpref.console import say
from avpref.flows.dry_run import estimate

PLACEMENT_COLUMNS = ["stage", "device", "processes", "dtype"]


def print_estimate(settings: Settings, as_json: bool) -> int:
    """Print items and bytes of each stage, and where each runs; returns exit code 0."""
    document = estimate(settings).document()
    if as_json:
        print_json(document)
    else:
        print_table(document["stages"], ["name", "items", "unit", "bytes"])
        print_table(document["placements"], PLACEMENT_COLUMNS)
    if settings.rounds.count > 1:
        say(
            f"of each of {settings.rounds.count} rounds; later ones reuse prompts, SFT network and the reference's clips"
        )
    say(f"at most {document['total_bytes'] / 2**20:,.0f} MiB, score and pair tables not counted")
    return 0
