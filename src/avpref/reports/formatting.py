"""Building blocks of an HTML page that needs nothing from outside: every text is escaped where it becomes markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Html:
    """A piece of finished markup. Whatever is not one of these is text, and is escaped."""

    source: str

    def __str__(self) -> str:
        return self.source


Content = str | int | Html
"""What may stand inside an element."""


def join(parts: Iterable[Content]) -> Html:
    """Pieces one after the other."""
    return Html("".join(_source(part) for part in parts))


def element(name: str, /, *content: Content, **attributes: str) -> Html:
    """``<name …>content</name>``; ``class_`` and ``for_`` stand for the words that Python keeps to itself."""
    return Html(f"<{name}{_attributes(attributes)}>{join(content)}</{name}>")


def void(name: str, /, **attributes: str) -> Html:
    """An element without content, such as ``<meta …>``."""
    return Html(f"<{name}{_attributes(attributes)}>")


def section(anchor: str, title: str, *content: Content) -> Html:
    """A titled section that links lead to; screen readers announce it by its title."""
    heading = element("h2", title, id=f"{anchor}-title")
    return element("section", heading, *content, id=anchor, aria_labelledby=f"{anchor}-title")


def table(caption: Content, header: Sequence[Content], rows: Iterable[Sequence[Content]], kind: str = "") -> Html:
    """A table with caption; the first cell of each row is its heading. It scrolls in its own box where it is too wide."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    content = (element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", element("table", *content, class_=kind), class_="wide", tabindex="0")


def figure(drawing: Html, caption: Content) -> Html:
    """A drawing and its caption."""
    return element("figure", drawing, element("figcaption", caption))


def data_url(data: bytes, media_type: str) -> str:
    """Bytes as the address of themselves."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def page(title: str, style: str, *body: Content) -> str:
    """A whole document. Its content security policy allows its own style sheet and embedded media, and nothing else."""
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; media-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    head = (
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        void("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(style)),
    )
    return f"<!doctype html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, the minus as typeset; a dash where there is none."""
    return "–" if value != value else f"{value:+.{digits}f}".replace("-", "−")


def _source(part: Content) -> str:
    return part.source if isinstance(part, Html) else escape(str(part))


def _attributes(attributes: dict[str, str]) -> str:
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    return "".join(
        f' {name}="{escape(value)}"' if value else f" {name}" for name, value in named if _is_set(name, value)
    )


def _is_set(name: str, value: str) -> bool:
    """An empty class says nothing; other empty attributes are switches, such as ``controls``."""
    return bool(value) or name != "class"
