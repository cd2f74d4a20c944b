"""Scorer classes by reference: where modules are looked for, and errors that quote the module's own traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from outside_modules import write_module

from avpref.errors import ConfigError
from avpref.outside.class_loading import SCORER, load_class
from avpref.outside.source_version import source_version


def refusal(reference: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_class(SCORER, "mine", reference)
    assert "scorer mine" in caught.value.found and caught.value.expected and caught.value.fix
    return caught.value


def test_a_module_of_the_working_directory_is_importable(workplace: Path) -> None:
    write_module(workplace, "wd_alone", "class Box:\n    class Inner: pass\n")
    write_module(workplace / "wd_package", "__init__", "")
    write_module(workplace / "wd_package", "inner", "class Thing: pass\n")
    assert load_class(SCORER, "mine", "wd_alone:Box.Inner").__qualname__ == "Box.Inner"
    assert load_class(SCORER, "mine", "wd_package.inner:Thing").__module__ == "wd_package.inner"


def test_an_installed_module_wins_over_one_of_the_working_directory(workplace: Path) -> None:
    write_module(workplace, "json", "raise RuntimeError('shadowed')\n")
    write_module(workplace, "numpy", "raise RuntimeError('shadowed')\n")
    assert load_class(SCORER, "mine", "json:JSONDecoder").__module__ == "json.decoder"
    assert str(workplace) not in sys.path


def test_a_module_that_does_not_import_is_an_error_with_its_traceback(workplace: Path) -> None:
    write_module(workplace, "wd_broken", "def half(x):\n    return 1 / x\n\nhalf(0)\n\n\nclass A: pass\n")
    found = refusal("wd_broken:A").found
    assert "ZeroDivisionError" in found and "line 2, in half" in found and "  | " in found
    assert "importlib" not in found and "class_loading" not in found


def test_a_module_whose_own_import_is_missing_is_not_called_absent(workplace: Path) -> None:
    write_module(workplace, "wd_needs", "import no_such_package_at_all\n\nclass A: pass\n")
    error = refusal("wd_needs:A")
    assert (
        "No module named 'no_such_package_at_all'" in error.found and "there is no module wd_needs" not in error.found
    )


@pytest.mark.parametrize("reference", ["wd_nowhere:A", "json.nowhere:A"])
def test_an_absent_module_names_the_folder_that_was_searched(workplace: Path, reference: str) -> None:
    error = refusal(reference)
    assert "there is no module" in error.found and str(workplace) in error.expected


@pytest.mark.parametrize("reference", ["json:Nothing", "json:dumps"])
def test_a_reference_that_is_no_class_is_refused(reference: str) -> None:
    refusal(reference)


def test_the_version_of_a_class_is_that_of_all_sources_of_its_package(workplace: Path) -> None:
    for name in ("one", "two"):
        folder = workplace / name
        write_module(folder / f"wd_{name}", "__init__", "")
        write_module(folder / f"wd_{name}", "scorer", "class A: pass\n")
        write_module(folder / f"wd_{name}", "constants", f"VALUE = {len(name)}\n")
        sys.path.append(str(folder))
    first, second = (
        source_version(SCORER, "mine", load_class(SCORER, "mine", f"wd_{name}.scorer:A")) for name in ("one", "two")
    )
    assert first != second
    write_module(workplace, "wd_single", "class A: pass\n")
    write_module(workplace, "wd_neighbour", "pass\n")
    single = source_version(SCORER, "mine", load_class(SCORER, "mine", "wd_single:A"))
    (workplace / "wd_neighbour.py").write_text("raise\n", encoding="utf-8")
    assert source_version(SCORER, "mine", load_class(SCORER, "mine", "wd_single:A")) == single


def test_a_class_without_a_source_needs_a_fingerprint() -> None:
    with pytest.raises(ConfigError, match="fingerprint"):
        source_version(SCORER, "mine", int)
