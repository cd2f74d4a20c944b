"""The example in the docstring of ``Scorer`` runs and prints what it says."""

from __future__ import annotations

import doctest

from avpref.rewards import protocol


def test_the_example_scorer_runs_as_printed() -> None:
    results = doctest.testmod(protocol)
    assert results.attempted >= 8 and results.failed == 0
