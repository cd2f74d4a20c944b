"""Pictures of a run: valid, repeatable, and fit to stand inside a page with a strict policy."""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from avpref.domain import Dimension, Origin
from avpref.reports.figures import NORMALISED, Sample, distribution, margin_panels, origin_panels
from avpref.reports.plots import INK, Panel, png, svg


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=count)


def panel(count: int = 50, other: int = 40, name: str = "one < two & “three”") -> Panel:
    return distribution(name, Sample("old", normal(count)), Sample("new", normal(other, 1)), Dimension.AV, NORMALISED)


def tree(drawn: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg(drawn)))


def test_png_has_room_for_every_panel() -> None:
    sizes = [struct.unpack(">II", png([panel()] * count, 2)[16:24]) for count in (1, 2, 3)]
    assert all(picture.startswith(b"\x89PNG") for picture in [png([panel()], 1)])
    assert sizes[0] == sizes[1] and sizes[2] == (sizes[0][0], 2 * sizes[0][1])


def test_equal_panels_give_equal_bytes() -> None:
    assert png([panel()], 1) == png([panel()], 1)
    assert str(svg(panel())) == str(svg(panel()))


def test_svg_needs_no_styles_and_follows_the_ink_of_its_page() -> None:
    root = tree(panel())
    assert root.get("role") == "img" and "one < two & “three”" in (root.get("aria-label") or "")
    assert not [node for node in root.iter() if node.get("style") or node.tag.endswith(("style", "script", "metadata"))]
    source = str(svg(panel()))
    assert "currentColor" in source and INK not in source and "xlink" not in source


def test_ids_of_two_drawings_do_not_meet_and_every_reference_is_answered() -> None:
    seen: set[str] = set()
    for drawn in (panel(), panel(60), panel(name="another")):
        root = tree(drawn)
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        seen |= {each for each in ids if each}
        used = {node.get("href", "#")[1:] for node in root.iter() if node.tag.endswith("use")}
        used |= {node.get("clip-path", "url(#)")[5:-1] for node in root.iter() if node.get("clip-path")}
        assert used <= set(ids)


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 3), (1, 0), (2, 500)])
def test_few_or_no_numbers_are_drawn_too(count: int, other: int) -> None:
    drawn = panel(count, other)
    assert f"n = {count}" in drawn.words and f"n = {other}" in drawn.words
    assert len(png([drawn], 1)) > 1000


def test_constant_numbers_are_drawn() -> None:
    same = Sample("same", np.zeros(20))
    assert png([distribution("constant", same, same, Dimension.VIDEO, NORMALISED)], 1)


def test_words_say_what_the_picture_shows() -> None:
    rewards = pd.DataFrame(
        {str(each): [0.5, 1.5, None] for each in Dimension} | {"origin": [str(Origin.GENERATED)] * 3}
    )
    words = origin_panels(rewards, NORMALISED)[0].words
    assert "generated, mean +1.00, n = 2" in words and "ground truth, none, n = 0" in words
    margins = pd.DataFrame({f"margin_{each}": [0.25, 0.75] for each in Dimension})
    assert [each.title for each in margin_panels(margins, NORMALISED)] == [
        "Video margin",
        "Audio margin",
        "Sync margin",
    ]
