"""Templates: whatever is text comes back as that text, and the page's policy admits its own style alone."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from avpref.reports.formatting import data_url, short, signed
from avpref.reports.templates import content_policy, environment

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40)
TABLE = """{% from "report_parts.html.j2" import row, table %}
{% call table(caption, ("one", "two")) %}{% for first, second in rows %}{{ row(first, [second]) }}{% endfor %}{% endcall %}
"""


class Reader(HTMLParser):
    """Texts and attributes of a document."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.cells += [""] if tag in ("td", "th") else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.cells:
            self.cells[-1] += data


def rendered(source: str, **values: object) -> Reader:
    return Reader(environment().from_string(source).render(values))


@given(TEXTS, TEXTS.filter(bool))
def test_texts_and_attributes_survive(text: str, label: str) -> None:
    read = rendered('<p aria-label="{{ label }}">{{ text }}</p>', text=text, label=label)
    assert "".join(read.texts) == text
    assert read.tags == [("p", {"aria-label": label})]


@given(TEXTS, st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=4))
def test_a_table_is_only_a_table(caption: str, rows: list[list[str]]) -> None:
    read = rendered(TABLE, caption=caption, rows=rows)
    assert {tag for tag, _ in read.tags} <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert sum(tag == "tr" for tag, _ in read.tags) == len(rows) + 1
    assert [cell.strip() for cell in read.cells] == ["one", "two", *(text.strip() for row in rows for text in row)]


def test_finished_markup_is_not_escaped_again() -> None:
    source = environment().from_string("<b>{{ markup }}{{ text }}</b>").render(markup=Markup("<i>x</i>"), text="<")
    assert source == "<b><i>x</i>&lt;</b>"


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="missing_name"):
        environment().from_string("{{ missing_name }}").render()


def test_the_policy_names_the_style_and_nothing_else() -> None:
    policy = content_policy("p { color: red }")
    expected = base64.b64encode(hashlib.sha256(b"p { color: red }").digest()).decode()
    assert f"style-src 'sha256-{expected}'" in policy
    assert policy.startswith("default-src 'none'") and "script" not in policy and "http" not in policy


def test_numbers_are_typeset() -> None:
    assert [signed(1), signed(-0.256, 1), signed(float("nan"))] == ["+1.00", "−0.3", "–"]
    assert [short(-0.25651), short(12345.0), short(None), short(float("nan"))] == ["−0.257", "1.23e+04", "–", "–"]


def test_a_data_url_holds_the_bytes() -> None:
    head, _, body = data_url(b"\x00\xffclip", "video/mp4").partition(",")
    assert head == "data:video/mp4;base64" and base64.b64decode(body) == b"\x00\xffclip"
