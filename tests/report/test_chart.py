"""Curves: the same file each time, a panel for each metric and score, a line for each editor."""

from xml.etree import ElementTree

from liveedit.report.chart import curves_png, curves_svg, panels, styles
from liveedit.report.scores import summary


def test_svg_is_the_same_each_time(run):
    numbers = summary(run(cases=3))
    first = curves_svg(numbers)
    assert first == curves_svg(numbers)
    assert b"<dc:date>" not in first
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


def test_png(run):
    assert curves_png(summary(run(cases=3))).startswith(b"\x89PNG")


def test_a_panel_for_each_score_of_each_metric(run):
    numbers = summary(run(cases=3))
    drawn = panels(numbers)
    assert {(p.score, p.metric) for p in drawn} == {(r["score"], r["metric"]) for r in numbers["rows"]}
    assert [p.metric for p in drawn][:6] == [
        "reliability", "text_generality", "image_generality", "text_locality", "image_locality", "average",
    ]  # fmt: skip


def test_panels_name_their_lines_and_share_no_ids(run):
    drawn = panels(summary(run(cases=3)))
    ids = [part.split('"')[0] for panel in drawn for part in panel.svg.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert all(panel.svg.count('data-editor="liveedit"') == 2 for panel in drawn)
    assert not any("http" in panel.svg for panel in drawn)


def test_editor_names_are_escaped_and_never_read_as_mathematics(record):
    odd = 'a"><script>$x_1$'
    numbers = summary([record(editor=odd, edits=n) for n in (1, 10)])
    svg = panels(numbers)[0].svg
    assert "<script>" not in svg
    assert "a&quot;&gt;&lt;script&gt;$x_1$" in svg
    ElementTree.fromstring(curves_svg(numbers))


def test_one_size_and_no_edits_at_all(record):
    assert "<path" in panels(summary([record(edits=100)]))[0].svg
    unedited = summary([record(edits=0)])
    assert panels(unedited) == []
    assert curves_svg(unedited)


def test_many_editors_look_different(record):
    drawn = styles(summary([record(editor=f"e{i:02}") for i in range(14)]))
    assert len({(s.colour, str(s.dash)) for s in drawn.values()}) == 14
