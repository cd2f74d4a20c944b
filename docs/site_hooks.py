"""MkDocs hooks: pages outside ``docs/`` join the site, links follow, and API pages can read packages without ``__init__.py``.

The repository's Markdown is written to be read in the repository: links are relative to the file that holds them. The site has
the README as its first page, the benchmarks, the changelog and the contributing guide; other linked files are copied as they are.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FIRST_PAGE = "README.md"
PAGES = (
    FIRST_PAGE,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(f"benchmarks/{p.name}" for p in ROOT.glob("benchmarks/*.md")),
)
LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\()(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
ROLE = re.compile(r":(?:class|func|data|meth|mod|attr|exc):<code>~?([^<]*)</code>")
ABSOLUTE = re.compile(r"^([a-z]+:|/)")

_sources = tempfile.TemporaryDirectory(prefix="avpref-docs-")


def site_path(path: str) -> str:
    """Where the repository's file ``path`` lies in the site's tree of sources."""
    return "index.md" if path == FIRST_PAGE else path.removeprefix("docs/")


def repository_path(site: str) -> str:
    """The repository's file behind the site's source ``site``; the inverse of :func:`site_path`."""
    if site == "index.md":
        return FIRST_PAGE
    return site if (ROOT / site).exists() else f"docs/{site}"


def linked_files(path: str) -> list[str]:
    """Files outside ``docs/`` that the repository's page ``path`` links to, relative to the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    targets = [_resolved(path, match["target"]) for match in LINK.finditer(text) if _is_relative(match["target"])]
    return [target for target in targets if not target.startswith("docs/") and (ROOT / target).is_file()]


def _is_relative(target: str) -> bool:
    return bool(target) and not ABSOLUTE.match(target)


def _resolved(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the API pages a copy of the package in which every folder has an ``__init__.py``: their reader demands one."""
    copy = Path(_sources.name) / "avpref"
    shutil.copytree(ROOT / "src" / "avpref", copy, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for folder in (path for path in copy.rglob("*") if path.is_dir()):
        (folder / "__init__.py").touch()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_sources.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside ``docs/`` and every file that any page links to."""
    pages = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    wanted = {*PAGES, *(target for page in pages for target in linked_files(page))}
    for path in sorted(wanted):
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links of the repository to links of the site; a link to a folder becomes plain text."""
    source = repository_path(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        if not _is_relative(match["target"]):
            return match[0]
        target = _resolved(source, match["target"])
        if (ROOT / target).is_dir():
            return match["before"][1:-2]
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{match['before']}{posixpath.relpath(site_path(target), start)}{match['anchor'] or ''})"

    return LINK.sub(rewritten, _with_status(markdown, page))


def _with_status(markdown: str, page: Page) -> str:
    """Decision records show the status and date of their header below the title."""
    status, date = page.meta.pop("status", ""), page.meta.get("date", "")
    if not status:
        return markdown
    by = ", ".join(f"decision {number}" for number in page.meta.get("superseded-by", []))
    title, _, body = markdown.lstrip().partition("\n")
    return f"{title}\n\n*{status}{' by ' + by if by else ''}, {date}*\n{body}"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Sphinx roles in docstrings (``:class:`Scorer```) become plain code."""
    return ROLE.sub(r"<code>\1</code>", html)


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the copy of the package."""
    _sources.cleanup()
