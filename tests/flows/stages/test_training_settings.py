"""Settings of training reach the trainer: every setting is read, and every field of a job has a stage that sets it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from avpref.config.training.monitoring_settings import AlarmSettings, PreviewSettings
from avpref.config.training.preference_settings import PreferenceLossSettings
from avpref.config.training_settings import (
    AdapterSettings,
    DpoSettings,
    LoopSettings,
    OptimiserSettings,
    SftSettings,
    TimestepSettings,
)
from avpref.trainer.job import TrainingJob

ROOT = Path(__file__).parents[3]
SECTIONS = (
    *(SftSettings, DpoSettings, LoopSettings, OptimiserSettings, TimestepSettings, AdapterSettings),
    *(PreferenceLossSettings, AlarmSettings, PreviewSettings),
)
READ_BY_ITS_SECTION = {"kind", "checkpointing_by_tokens"}
"""The key that selects the class, and what `LoopSettings.checkpointing` answers from."""
REFUSED = {"dropout"}
"""Settings with one possible value, which the configuration itself checks."""


def sources(*packages: str) -> Iterator[str]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


@cache
def attributes_read() -> frozenset[str]:
    """Names that follow a dot in the packages that train."""
    return frozenset(
        name for source in sources("flows", "trainer", "models") for name in re.findall(r"\.(\w+)", source)
    )


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_is_read(section: type[BaseModel]) -> None:
    assert set(section.model_fields) - attributes_read() - READ_BY_ITS_SECTION <= REFUSED


def fields_set() -> Iterator[str]:
    """Fields that the flows give to a job: where it is made, and where ``replace`` completes it."""
    for source in sources("flows"):
        for node in ast.walk(ast.parse(source) if "TrainingJob" in source else ast.Module([], [])):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            completes = node.func.id == "replace" and ast.unparse(node.args[0]) in (
                "job",
                "_job(run, settings, output)",
            )
            if node.func.id == "TrainingJob" or completes:
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def test_every_field_of_a_job_has_a_setter() -> None:
    assert {field.name for field in fields(TrainingJob)} == set(fields_set())
