"""Imports point downwards, without circles, and folders and files stay small; see docs/architecture.md."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "avpref"
LINKED = ("models", "datasets", "rewards", "trainer", "flows")
"""Packages that are folders at the top of the repository, linked into the package."""

LAYERS = (
    ("domain", "errors", "identity", "console", "__init__"),
    ("config", "media", "devices", "outside"),
    ("datasets",),
    ("storage",),
    ("models", "observability"),
    ("execution", "registry", "reports", "trainer", "rewards"),
    ("bench",),
    ("exchange", "explorer", "flows", "validation"),
    ("pool",),
    ("cli",),
)
"""From the bottom up. A package imports packages of lower layers and its own; those of one layer do not import each other."""
BESIDE = {"domain": {"identity"}, "errors": set(), "console": set(), "identity": set(), "__init__": set()}
"""Imports that are allowed within the lowest layer."""
NEVER = {("trainer", "rewards")}

OUTSIDERS = {
    "torch": {
        *("devices", "media", "storage", "models", "rewards", "trainer", "flows", "execution", "bench"),
        *("exchange",),
    },
    "prefect": {"flows"},
    "duckdb": {"datasets", "storage", "registry", "explorer", "flows", "pool", "cli"},
    "ray": {"execution", "trainer"},
    "peft": {"trainer"},
    "starlette": {"explorer", "pool"},
    "uvicorn": {"explorer"},
}
OUTSIDER_FILES = {
    "prefect": "flows/prefect/",
    "ray": (
        "execution/environment_calls.py",
        "execution/ray_actor.py",
        "execution/ray_pool.py",
        "execution/ray_session.py",
        "trainer/launch.py",
    ),
    "torch": {"media": ("media/spectra.py",), "storage": ("storage/weight_files.py",), "execution": ()},
}
HEAVY = ("torch", "prefect", "ray", "duckdb", "pandas", "pyarrow", "numpy", "av", "starlette", "uvicorn")
MOST_FILES_IN_A_FOLDER = 20


def sources() -> list[tuple[str, Path]]:
    """Every module of the product with its dotted path below the package: ``flows.stages.train``."""
    folders = [(PACKAGE, path) for path in sorted(PACKAGE.iterdir()) if path.name not in LINKED]
    folders += [(ROOT, ROOT / name) for name in LINKED]
    modules = []
    for base, folder in folders:
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder] if folder.suffix == ".py" else []
        modules += [(".".join(path.relative_to(base).with_suffix("").parts), path) for path in files]
    return modules


SOURCES = dict(sources())
LAYER_OF = {package: number for number, packages in enumerate(LAYERS) for package in packages}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {
    module: {name.removeprefix("avpref.") for name in imported(path)} & set(SOURCES) - {module}
    for module, path in SOURCES.items()
}
"""Which modules of the product each module imports, wherever the statement stands."""


def test_every_package_has_a_layer() -> None:
    assert {module.split(".")[0] for module in SOURCES} == set(LAYER_OF)
    assert len(SOURCES) > 200


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards(module: str) -> None:
    package = module.split(".")[0]
    for name in IMPORTS[module]:
        other = name.split(".")[0]
        is_lower = LAYER_OF[other] < LAYER_OF[package]
        assert other == package or is_lower or other in BESIDE.get(package, set()), f"{module} imports {name}"
        assert (package, other) not in NEVER, f"{module} imports {name}"


def test_there_is_no_circle_of_imports() -> None:
    open_modules: list[str] = []
    finished: set[str] = set()

    def visit(module: str) -> None:
        assert module not in open_modules, " → ".join([*open_modules[open_modules.index(module) :], module])
        if module in finished:
            return
        open_modules.append(module)
        for name in sorted(IMPORTS[module]):
            visit(name)
        open_modules.pop()
        finished.add(module)

    for module in SOURCES:
        visit(module)


@pytest.mark.parametrize("module", SOURCES)
def test_other_packages_are_imported_only_where_they_belong(module: str) -> None:
    package, file = module.split(".")[0], module.replace(".", "/") + ".py"
    for name in imported(SOURCES[module]):
        top = name.split(".")[0]
        if top not in OUTSIDERS:
            continue
        assert package in OUTSIDERS[top], f"{module} imports {name}"
        match OUTSIDER_FILES.get(top):
            case str(prefix):
                assert file.startswith(prefix), f"{module} imports {name}"
            case tuple(files):
                assert file in files, f"{module} imports {name}"
            case dict(by_package) if package in by_package:
                assert file in by_package[package], f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "__init__"])
def test_every_module_imports(module: str) -> None:
    importlib.import_module(f"avpref.{module}")


def test_no_package_shadows_another() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()
    for name in LINKED:
        assert (PACKAGE / name).is_symlink() and (PACKAGE / name).resolve() == ROOT / name
    assert {path.name for path in PACKAGE.iterdir() if path.is_symlink()} == set(LINKED)


def test_no_folder_holds_too_many_files() -> None:
    counts = Counter(path.parent for path in SOURCES.values())
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES_IN_A_FOLDER} == {}


def test_no_two_files_share_a_name() -> None:
    stems = Counter(path.stem for path in SOURCES.values() if path.stem != "__init__")
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, avpref.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"


def test_names_say_something() -> None:
    empty = {"utils", "util", "helpers", "common", "misc"}
    standard = {"select", "queue", "types", "profile", "copy", "statistics", "signal", "token"}
    assert not {path.stem for path in SOURCES.values()} & (empty | standard)


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_stay_small(module: str) -> None:
    text = SOURCES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, f"{module}:{node.name}"
