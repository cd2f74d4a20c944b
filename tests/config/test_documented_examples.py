"""Every ``--set`` of a command in the documentation is accepted by the configuration that the command names."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.flows.workers.run_metrics import checked_metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
COMMAND = re.compile(r"avpref (?:retrain|config)\b[^`\n]*")
INLINE = re.compile(r"`--set ([^`]+)`")
OF_READERS = re.compile(r"[A-Z]{3,}|\.\.\.|…|^/|scoring\.scorers\.\w+\.|\w+\.\w+:\w+")
"""Placeholders, folders and scorers that only a reader has."""


def examples() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(page, configuration, overrides) of every command and of every override that stands alone, without those of :data:`OF_READERS`."""
    for page in PAGES:
        if "decisions" in page.parts:
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        name = page.relative_to(ROOT).as_posix()
        for command in COMMAND.findall(text):
            words = shlex.split(command, comments=True)
            sets = tuple(value for flag, value in itertools.pairwise(words) if flag == "--set")
            config = dict(itertools.pairwise(words)).get("--config", "configs/toyworld.yaml")
            if sets and not any(OF_READERS.search(word) for word in (config, *sets)):
                yield name, config, sets
        for override in INLINE.findall(text):
            words = shlex.split(override)
            if len(words) == 1 and "scoring." in words[0] and not OF_READERS.search(override):
                yield name, "configs/toyworld.yaml", (words[0],)


EXAMPLES = list(examples())


def test_there_are_examples_of_metrics() -> None:
    overrides = [override for _, _, sets in EXAMPLES for override in sets]
    assert sum(override.startswith("scoring.metrics=") for override in overrides) >= 2
    assert any(override.startswith("scoring.weights=") for override in overrides)


@pytest.mark.parametrize(
    ("page", "config", "overrides"), EXAMPLES, ids=lambda value: " ".join([value] if isinstance(value, str) else value)
)
def test_it_is_a_valid_configuration(page: str, config: str, overrides: tuple[str, ...]) -> None:
    checked_metrics(load_config(ROOT / config, overrides, environment={}).settings)
