"""The examples in docstrings of the contract of workers and of the test doubles run, and print what they show."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import pytest

from avpref.execution import contract, fakes


@pytest.mark.parametrize("module", [contract, fakes], ids=lambda module: module.__name__)
def test_the_examples_of_a_module_print_what_they_show(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``folder`` in an example is an empty folder."""
    tests = doctest.DocTestFinder().find(module, extraglobs={"folder": tmp_path})
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.tries >= 10
    assert runner.failures == 0, capsys.readouterr().out
