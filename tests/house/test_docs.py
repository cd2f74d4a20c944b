"""Every path, module, command, flag, setting and make target that README, CONTRIBUTING and docs name exists; the navigation is whole."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from cyclopts import App
from pydantic import BaseModel, JsonValue

from avpref.cli.main import app
from avpref.config.pool.pool_settings import PoolConfig
from avpref.config.schema import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP_FOLDERS = (
    "src",
    "flows",
    "rewards",
    "trainer",
    "datasets",
    "models",
    "notebooks",
    "configs",
    "docs",
    "benchmarks",
    "deploy",
)
FILE_KINDS = ("py", "sql", "md", "yaml", "json", "css", "toml", "lock", "png", "ipynb")
FILES_OF_OTHERS = {"cells.py", "prompt_template.py", "sharpness.py"}
"""Source files that pages name and that belong to other projects or to users."""
ALWAYS_ACCEPTED = {"--help", "--version", "--debug"}

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    rf"(?<![\w./-])(?:{'|'.join(TOP_FOLDERS)})/[\w./{{}},-]*(?:\.(?:{'|'.join(FILE_KINDS)})\b|/(?=[\s`)|,;:]|$))"
)
DOTTED = re.compile(r"(?<![\w./])avpref(?:\.\w+)+")
SETTING = re.compile(r"--set[ =]['\"]?([a-z_]+(?:\.[a-z_]+)*)=")
MAKE_TARGET = re.compile(r"(?:^|[`;&] ?)make ([a-z][a-z-]*)", re.MULTILINE)


@dataclass(frozen=True)
class Mistake:
    """Something that a page names and that does not exist."""

    page: str
    kind: str
    name: str


def pages() -> list[Path]:
    """All Markdown pages but superseded decisions, which describe the past."""
    everything = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    return [page for page in everything if not page.read_text(encoding="utf-8").startswith("---\nstatus: superseded")]


def mistakes_of(text: str, page: str) -> list[Mistake]:
    """Everything in Markdown ``text`` that names nothing; ``page`` is its path relative to the repository."""
    code = "\n".join([*FENCE.findall(text), *SPAN.findall(FENCE.sub("", text))])
    checks = {
        "link": broken_links(text, page),
        "path": [path for path in named_paths(text) if not path_exists(path)],
        "module": [name for name in module_names(text, code) if not name_exists(name)],
        "command": wrong_commands(text),
        "setting": [key for key in SETTING.findall(code) if not setting_exists(Settings | PoolConfig, key.split("."))],
        "make target": [target for target in MAKE_TARGET.findall(code) if target not in make_targets()],
    }
    return [Mistake(page, kind, name) for kind, names in checks.items() for name in names]


# Links and paths


def broken_links(text: str, page: str) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        is_page = file.suffix == ".md" and file.exists()
        if not file.exists() or (anchor and is_page and anchor not in anchors(file.read_text(encoding="utf-8"))):
            yield target


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as the site and code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def named_paths(text: str) -> list[str]:
    """Paths of the repository outside links, without those that hold a placeholder, and names of source files alone."""
    paths = [path for path in REPOSITORY_PATH.findall(LINK.sub("]", text)) if not re.search(r"/[A-Z][A-Z_-]+/", path)]
    names = re.findall(r"`(\w+\.(?:py|sql))`", text)
    return [*paths, *(name for name in names if name not in source_names() | FILES_OF_OTHERS)]


@cache
def source_names() -> frozenset[str]:
    return frozenset(file.name for folder in (*TOP_FOLDERS, "tests") for file in (ROOT / folder).rglob("*.*"))


def path_exists(path: str) -> bool:
    """Whether every file exists that ``path``, possibly with one pair of braces, stands for."""
    before, brace, rest = path.partition("{")
    inside, _, after = rest.partition("}")
    return all((ROOT / f"{before}{part}{after}").exists() for part in (inside.split(",") if brace else [""]))


# Modules and names in them


def module_names(text: str, code: str) -> list[str]:
    """Dotted names that start in a package or module of avpref, and those that Python examples import."""
    imports = [
        f"{match['module']}.{name.strip()}"
        for match in re.finditer(r"^from (?P<module>avpref[\w.]*) import (?P<names>.+)$", code, re.MULTILINE)
        for name in match["names"].split(",")
    ]
    api = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    dotted = [name for name in DOTTED.findall(code) if is_module(".".join(name.split(".")[:2]))]
    return [*imports, *api, *dotted]


def module_path(name: str) -> Path:
    return ROOT / "src" / Path(*name.split("."))


def is_module(name: str) -> bool:
    return module_path(name).is_dir() or module_path(name).with_suffix(".py").exists()


def name_exists(name: str) -> bool:
    """Whether ``name`` is a package, a module, or something that a module defines or imports."""
    if is_module(name):
        return True
    module, _, member = name.rpartition(".")
    file = module_path(module).with_suffix(".py")
    return file.exists() and member in defined_names(file)


@cache
def defined_names(file: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


# Commands, flags, settings, make targets


def wrong_commands(text: str) -> Iterator[str]:
    """Commands that the command line does not know, and flags that their command does not take."""
    for command in commands(text):
        words = command.split()
        for chain in alternatives(words):
            flags = [re.split(r"[=\])]", word)[0] for word in words if re.match(r"--[a-z]", word.lstrip("["))]
            accepted = accepted_flags(chain)
            if accepted is None or not {flag.lstrip("[") for flag in flags} <= accepted | ALWAYS_ACCEPTED:
                yield command


def commands(text: str) -> Iterator[str]:
    """Command lines after ``avpref``: from code blocks and code spans, without comments, pipes and following commands."""
    for block in FENCE.findall(text):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            if match := re.match(r"(?:\$ )?(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) )*(?:\S*/)?avpref( .+|$)", line.strip()):
                yield without_tail(match[1])
    for span in SPAN.findall(FENCE.sub("", text)):
        if match := re.match(r"(?:\S*/)?avpref( .+|$)", span):
            yield without_tail(match[1])
        elif re.match(rf"(?:{'|'.join(nouns())}) [a-z|]+(?: |$)", span):
            yield without_tail(span)


def without_tail(command: str) -> str:
    return re.split(r"\s#|\s&|\s\||;|\s>", command)[0].strip()


def nouns() -> list[str]:
    return [name for name in app if not name.startswith("-")]


def alternatives(words: list[str]) -> list[list[str]]:
    """Command chains that ``runs list|show --json`` stands for."""
    chains: list[list[str]] = [[]]
    for word in words:
        if not re.fullmatch(r"[a-z][a-z-]*(\|[a-z-]+)*", word):
            break
        choices = word.split("|")
        if not all(takes_command(chain) for chain in chains):
            break
        chains = [[*chain, choice] for chain in chains for choice in choices]
    return chains


def takes_command(chain: list[str]) -> bool:
    """Whether another command follows ``chain``. An unknown chain takes none: it is reported as it is."""
    command = command_of(chain)
    return command is not None and not command.default_command


def command_of(chain: list[str]) -> App | None:
    command: App = app
    for word in chain:
        if word not in list(command):
            return None
        command = command[word]
    return command


def accepted_flags(chain: list[str]) -> set[str] | None:
    """Flags of the command ``chain``; None where there is no such command."""
    command = command_of(chain)
    if command is None:
        return None
    if not command.default_command:
        return set()
    return {name for argument in command.assemble_argument_collection() for name in argument.names}


def setting_exists(annotation: Any, keys: list[str]) -> bool:
    """Whether dotted ``keys`` lead to a key of the model ``annotation``, or of any model of a union."""
    if not keys or annotation in (Any, JsonValue):
        return True
    if get_origin(annotation) in (dict, tuple) and keys[1:]:
        keys = keys[1:]  # the name of an entry
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return any(setting_exists(part, keys) for part in getattr(annotation, "__args__", ()))
    field = annotation.model_fields.get(keys[0])
    return field is not None and setting_exists(field.annotation, keys[1:])


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


# Navigation


def navigation(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
        yield from navigation(entry)


def missing_in(navigated: set[str]) -> set[str]:
    """Pages of docs that a navigation leaves out."""
    return {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - navigated


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_exists(page: Path) -> None:
    assert mistakes_of(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("[x](docs/nothing.md)", "link", "docs/nothing.md"),
        ("[x](docs/gate.md#no-such-heading)", "link", "docs/gate.md#no-such-heading"),
        ("see `flows/nothing.py`", "path", "flows/nothing.py"),
        ("see `nothing.py`", "path", "nothing.py"),
        ("see `rewards/nothing/` now", "path", "rewards/nothing/"),
        ("`configs/{tiny,nothing}.yaml`", "path", "configs/{tiny,nothing}.yaml"),
        ("`avpref.flows.retrain.nothing`", "module", "avpref.flows.retrain.nothing"),
        ("```python\nfrom avpref.nothing import x\n```", "module", "avpref.nothing.x"),
        ("::: avpref.rewards.nothing\n", "module", "avpref.rewards.nothing"),
        ("`avpref runs nothing`", "command", "runs nothing"),
        ("`avpref nothing`", "command", "nothing"),
        ("`gate nothing`", "command", "gate nothing"),
        ("`avpref gate list|nothing`", "command", "gate list|nothing"),
        ("```sh\n.venv/bin/avpref runs show --nothing   # x\n```", "command", "runs show --nothing"),
        ("```sh\nA=1 avpref retrain \\\n  --nothing=2\n```", "command", "retrain --nothing=2"),
        ("`--set dpo.loss.nothing=1`", "setting", "dpo.loss.nothing"),
        ("```sh\nmake nothing   # x\n```", "make target", "nothing"),
    ],
)
def test_the_check_finds_what_does_not_exist(text: str, kind: str, name: str) -> None:
    assert mistakes_of(text, "README.md") == [Mistake("README.md", kind, name)]


def test_the_check_lets_pass_what_exists() -> None:
    text = """[gate](docs/gate.md#rules) `flows/stages/` `configs/{tiny,toyworld}.yaml` `avpref.flows.curate.curate` `gate check`
`avpref runs list|show --json` `avpref.gate.passed` `models/STAGE/published.json` `--set dpo.loss.beta_video=1`

```sh
AVPREF_KILL="commit.linked:17" avpref retrain --config configs/tiny.yaml --set 'storage={kind: objects}' | head
make demo
```
"""
    assert mistakes_of(text, "README.md") == []


def test_the_navigation_names_every_page() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    navigated = list(navigation(configuration["nav"]))
    assert len(navigated) == len(set(navigated))
    assert missing_in(set(navigated)) == set()
    assert missing_in(set(navigated) - {"gate.md"}) == {"gate.md"}


def test_the_index_of_decisions_names_each_with_status_and_date() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    records = sorted(DOCS.glob("decisions/0*.md"))
    for record in records:
        text = record.read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        row = next(line for line in index.splitlines() if f"]({record.name})" in line)
        assert str(header["date"]) in row and str(header["status"]) in row, record.name
        for key in ("supersedes", "superseded-by"):
            assert all(list(DOCS.glob(f"decisions/{number:04}-*.md")) for number in header.get(key, [])), record.name


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nobody(tmp_path: Path) -> None:
    folders = [str(Path(sys.executable).parent), str(ROOT / ".venv-docs" / "bin")]
    mkdocs = shutil.which("mkdocs", path=os.pathsep.join(folders))
    if mkdocs is None:
        pytest.skip("mkdocs is not installed: make docs makes its environment")
    command = [mkdocs, "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    requests = re.compile(
        r"<(?:script|img|iframe|source|video)[^>]*\ssrc=\"https?:|<link[^>]*rel=\"?stylesheet[^>]*href=\"https?:"
    )
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > 40
    assert not [page for page in built if requests.search(page.read_text(encoding="utf-8"))]
