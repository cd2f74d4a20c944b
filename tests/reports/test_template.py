"""Markup: whatever is text comes back as that text, and the page's policy admits its own style alone."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from avpref.reports.formatting import Html, element, page, signed, table

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40)


class Reader(HTMLParser):
    """Texts and attributes of a document."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(TEXTS, TEXTS.filter(bool))
def test_texts_and_attributes_survive(text: str, label: str) -> None:
    read = Reader(str(element("p", text, aria_label=label)))
    assert "".join(read.texts) == text
    assert read.tags == [("p", {"aria-label": label})]


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=4))
def test_a_table_is_only_a_table(rows: list[list[str]]) -> None:
    read = Reader(str(table("rows", ("one", "two"), rows)))
    assert {tag for tag, _ in read.tags} <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert sum(tag == "tr" for tag, _ in read.tags) == len(rows) + 1


def test_finished_markup_is_not_escaped_again() -> None:
    assert str(element("b", Html("<i>x</i>"), "<")) == "<b><i>x</i>&lt;</b>"


def test_the_policy_names_the_style_and_nothing_else() -> None:
    source = page("t & t", "p { color: red }", element("p", "x"))
    policy = next(attrs["content"] for tag, attrs in Reader(source).tags if "http-equiv" in attrs) or ""
    expected = base64.b64encode(hashlib.sha256(b"p { color: red }").digest()).decode()
    assert f"style-src 'sha256-{expected}'" in policy
    assert policy.startswith("default-src 'none'") and "script" not in policy and "http" not in policy
    assert "<title>t &amp; t</title>" in source


def test_numbers_are_typeset() -> None:
    assert [signed(1), signed(-0.256, 1), signed(float("nan"))] == ["+1.00", "−0.3", "–"]
