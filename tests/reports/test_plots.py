"""Pictures of a run: valid, repeatable, without references to other files, for a light and for a dark page."""

from __future__ import annotations

import re
import struct
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from avpref.domain import Dimension, Origin
from avpref.reports.figures import NORMALISED, NamedValues, distribution, margin_panels, origin_panels
from avpref.reports.plots import INK, LIGHT_INK, Panel, png, svg


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=count)


def panel(count: int = 50, other: int = 40, name: str = "one < two & “three”") -> Panel:
    return distribution(
        name, NamedValues("old", normal(count)), NamedValues("new", normal(other, 1)), Dimension.AV, NORMALISED
    )


def test_png_has_room_for_every_panel() -> None:
    sizes = [struct.unpack(">II", png([panel()] * count, 2)[16:24]) for count in (1, 2, 3)]
    assert all(picture.startswith(b"\x89PNG") for picture in [png([panel()], 1)])
    assert sizes[0] == sizes[1] and sizes[2] == (sizes[0][0], 2 * sizes[0][1])


def test_equal_panels_give_equal_bytes() -> None:
    assert png([panel()], 1) == png([panel()], 1)
    assert svg(panel()) == svg(panel())
    assert svg(panel()) != svg(panel(60))


def test_svg_needs_no_other_file_and_runs_nothing() -> None:
    for document in (svg(panel()).light, svg(panel()).dark):
        root = ElementTree.fromstring(document)
        assert root.tag.endswith("}svg") and "viewBox" in root.attrib
        assert not [node for node in root.iter() if node.tag.endswith(("script", "image", "foreignObject"))]
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids))
        names = [node.get("{http://www.w3.org/1999/xlink}href") or node.get("href") for node in root.iter()]
        names += [match for node in root.iter() for match in re.findall(r"url\((.*?)\)", str(node.attrib))]
        links = [name for name in names if name]
        assert links and all(link.startswith("#") and link[1:] in ids for link in links)


def test_the_dark_drawing_is_the_light_one_with_another_ink() -> None:
    drawings = svg(panel())
    assert drawings.light.count(INK.encode()) > 10 and LIGHT_INK.encode() not in drawings.light
    assert INK.encode() not in drawings.dark
    assert drawings.dark.replace(LIGHT_INK.encode(), INK.encode()) == drawings.light


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 3), (1, 0), (2, 500)])
def test_few_or_no_numbers_are_drawn_too(count: int, other: int) -> None:
    drawn = panel(count, other)
    assert f"n = {count}" in drawn.alt_text and f"n = {other}" in drawn.alt_text
    assert len(png([drawn], 1)) > 1000


def test_constant_numbers_are_drawn() -> None:
    same = NamedValues("same", np.zeros(20))
    assert png([distribution("constant", same, same, Dimension.VIDEO, NORMALISED)], 1)


def test_the_alt_text_says_what_the_picture_shows() -> None:
    rewards = pd.DataFrame(
        {str(each): [0.5, 1.5, None] for each in Dimension} | {"origin": [str(Origin.GENERATED)] * 3}
    )
    alt_text = origin_panels(rewards, NORMALISED)[0].alt_text
    assert "generated, mean +1.00, n = 2" in alt_text and "ground truth, none, n = 0" in alt_text
    margins = pd.DataFrame({f"margin_{each}": [0.25, 0.75] for each in Dimension})
    assert [each.title for each in margin_panels(margins, NORMALISED)] == [
        "Video margin",
        "Audio margin",
        "Sync margin",
    ]
