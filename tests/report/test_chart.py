"""Curves: the same file each time, a line for each editor."""

import re
from itertools import product
from xml.etree import ElementTree

import pytest

from liveedit.report.chart import Block, Panel, Point, images_of, panel_svg, styles


def drawn(*editors):
    return styles(editors, front="pinpoint")


def panel(editors=("ft", "pinpoint"), places=(1, 10, 100)):
    points = [Point(editor, x, 0.5, 0.4, 0.6) for editor, x in product(editors, places)]
    return Panel("reliability", "Rel", tuple(points))


def block(axis="edits", **changes):
    return Block(
        "emblem", "windows", "exact_match", axis, "emblem: exact match", (panel(**changes),)
    )


def test_images_are_the_same_each_time():
    first, again = (images_of([block()], drawn("ft", "pinpoint")) for _ in range(2))
    assert first == again
    assert first["png"].startswith(b"\x89PNG")
    assert b"<dc:date>" not in first["svg"]
    assert ElementTree.fromstring(first["svg"]).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_figure_of_nothing():
    assert images_of([], styles([]))["svg"]


def test_panels_name_their_lines_and_share_no_ids():
    svgs = [panel_svg(f"c{i}", panel(), "edits", drawn("ft", "pinpoint")) for i in range(2)]
    ids = re.findall(r' id="(.*?)"', "".join(svgs))
    assert len(ids) == len(set(ids))
    assert all(svg.count('data-editor="pinpoint"') == 2 for svg in svgs)  # band and line
    assert not any("http" in svg for svg in svgs)


def test_among_many_editors_only_the_one_in_front_has_a_band():
    editors = ["pinpoint", *(f"e{i}" for i in range(13))]
    svg = panel_svg("c", panel(editors), "edits", drawn(*editors))
    assert svg.count('data-editor="pinpoint"') == 2
    assert svg.count('data-editor="e7"') == 1


@pytest.mark.parametrize(("others", "bands"), [(3, True), (4, False)])
def test_up_to_four_editors_have_a_band_each(others, bands):
    editors = ["liveedit", *(f"e{i}" for i in range(others))]
    svg = panel_svg("c", panel(editors), "edits", drawn(*editors))
    assert all(
        svg.count(f'data-editor="{editor}"') == (2 if bands else 1) for editor in editors[1:]
    )


def test_editor_names_are_escaped_and_never_read_as_mathematics():
    odd = 'a"><script>$x_1$'
    svg = panel_svg("c", panel([odd]), "edits", drawn(odd))
    assert "<script>" not in svg
    assert "a&quot;&gt;&lt;script&gt;$x_1$" in svg
    ElementTree.fromstring(images_of([block(editors=[odd])], drawn(odd))["svg"])


@pytest.mark.parametrize("axis", ["edits", "hops", "later"])
@pytest.mark.parametrize("places", [(1,), (1, 2, 4), (1, 10, 20, 50, 100, 1000)])
def test_every_axis_takes_one_place_and_many(axis, places):
    assert "<path" in panel_svg("c", panel(places=places), axis, drawn("ft", "pinpoint"))


def test_no_later_edit_has_a_place_on_the_axis():
    svg = panel_svg("c", panel(places=(0, 10, 100)), "later", drawn("ft", "pinpoint"))
    assert all(f">{place}</text>" in svg for place in (0, 10, 100))


def test_many_editors_look_different():
    shown = drawn("pinpoint", *(f"e{i:02}" for i in range(14)))
    assert len({(s.colour, str(s.dash)) for s in shown.values()}) == 15


def test_the_editor_in_front_is_first_thicker_and_alone_in_blue():
    shown = drawn("ft", "wise", "pinpoint", *(f"e{i}" for i in range(9)))
    assert next(iter(shown)) == "pinpoint"
    others = [style for name, style in shown.items() if name != "pinpoint"]
    assert all(
        s.width < shown["pinpoint"].width and s.colour != shown["pinpoint"].colour for s in others
    )
    assert drawn("ft")["ft"] == drawn("ft", "pinpoint")["ft"]


def test_without_an_editor_in_front_all_lines_are_alike():
    shown = styles(["pinpoint", "ft"])
    assert list(shown) == ["ft", "pinpoint"]
    assert {style.width for style in shown.values()} == {1.3}
