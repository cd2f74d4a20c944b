"""Settings of training reach the trainer: every setting is read, and every field of a job has a stage that sets it."""

from __future__ import annotations

import ast
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


@cache
def trees(*packages: str) -> tuple[ast.Module, ...]:
    paths = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in paths)


def attributes_read() -> set[str]:
    nodes = (node for tree in trees("flows", "trainer", "models") for node in ast.walk(tree))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_is_read(section: type[BaseModel]) -> None:
    assert set(section.model_fields) - attributes_read() - READ_BY_ITS_SECTION <= REFUSED


def fields_set() -> Iterator[str]:
    """Fields that the flows give to a job: where it is made, and where ``replace`` completes it."""
    for tree in trees("flows"):
        for node in ast.walk(tree):
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
