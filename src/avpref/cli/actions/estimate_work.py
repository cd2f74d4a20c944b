"""The work of ``avpref retrain --dry-run``."""

from __future__ import annotations

from avpref.cli.output import print_json, print_table
from avpref.config.schema import Settings
from avpref.console import say
from avpref.flows.dry_run import estimate


def print_estimate(settings: Settings, as_json: bool) -> int:
    """Print items and bytes of each stage; returns exit code 0."""
    document = estimate(settings).document()
    print_json(document) if as_json else print_table(document["stages"], ["name", "items", "unit", "bytes"])
    say(f"at most {document['total_bytes'] / 2**20:,.0f} MiB, score and pair tables not counted")
    return 0
