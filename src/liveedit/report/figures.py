"""The figures: scores over N, portability over hops and at one hop, reliability over later edits.

VLKEB's Figure 3 shows portability at one to four hops, its Table 3 portability at one hop with and
without an edit of the fact that is one hop away, which are two benchmarks here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from liveedit.measures.metrics import ONE_HOP, hops, label
from liveedit.measures.protocols import titled
from liveedit.measures.scores import HEADLINES, score_heading
from liveedit.report.chart import Axis, Block, Panel, Point, Style, images_of
from liveedit.report.scores import ScoreRow, Summary
from liveedit.report.table import MAIN, settings

__all__ = ["curves", "figure_files", "figures", "forgetting", "one_hop", "over_hops"]


def figures(summary: Summary) -> dict[str, list[Block]]:
    """The figures by name: ``curves`` always, the others if there is anything to show."""
    found = {
        "hops": over_hops(summary),
        "one-hop": one_hop(summary),
        "forgetting": forgetting(summary),
    }
    shown = {name: blocks for name, blocks in found.items() if blocks}
    return {"curves": curves(summary), **shown}


def figure_files(made: Mapping[str, Sequence[Block]], drawn: dict[str, Style]) -> dict[str, bytes]:
    """The figures by file name, as SVG and PNG."""
    contents = {}
    for name, blocks in made.items():
        for format, content in images_of(blocks, drawn).items():
            contents[f"{name}.{format}"] = content
    return contents


def curves(summary: Summary) -> list[Block]:
    """Each metric over N: one block per benchmark, protocol and headline score.

    N = 0 is left out, since the axis is logarithmic.
    """
    found = []
    for data, protocol in settings(summary):
        for score in HEADLINES:
            rows = _rows(summary, data, protocol, score.name)
            rows = [row for row in rows if row["edits"] > 0]
            others = dict.fromkeys(row["metric"] for row in rows if row["metric"] not in MAIN)
            panels = [_panel(metric, rows) for metric in (*MAIN, *others)]
            found.append(_block(data, protocol, score.name, "edits", "over N edits", panels))
    return [block for block in found if block.panels]


def over_hops(summary: Summary) -> list[Block]:
    """Portability over hops, one panel per N, if there are questions with different hops."""
    found = []
    for data, protocol in settings(summary):
        for score in HEADLINES:
            rows = _rows(summary, data, protocol, score.name)
            rows = [row for row in rows if hops(row["metric"])]
            if len({hops(row["metric"]) for row in rows}) < 2:
                continue
            sizes = dict.fromkeys(row["edits"] for row in rows)
            panels = [_hop_panel(size, rows) for size in sizes]
            over = "over hops of portability"
            found.append(_block(data, protocol, score.name, "hops", over, panels))
    return found


def one_hop(summary: Summary) -> list[Block]:
    """Portability at one hop over N, the benchmarks that have it side by side.

    There is one block per protocol and headline score, in the section of its first benchmark.
    """
    found = []
    for protocol in dict.fromkeys(protocol for _, protocol in settings(summary)):
        benchmarks = [data for data, other in settings(summary) if other == protocol]
        for score in HEADLINES:
            panels = {}
            for data in benchmarks:
                rows = _rows(summary, data, protocol, score.name)
                rows = [row for row in rows if row["edits"] > 0]
                panels[data] = replace(_panel(ONE_HOP, rows), title=data)
            shown = {data: panel for data, panel in panels.items() if panel.points}
            if shown:
                heading = titled(f"Portability at one hop: {score.heading}", protocol)
                heading = f"{heading}, % over N edits"
                first = next(iter(shown))
                made = tuple(shown.values())
                found.append(Block(first, protocol, score.name, "edits", heading, made))
    return found


def forgetting(summary: Summary) -> list[Block]:
    """Reliability over the number of later edits, one panel per score."""
    rows_of: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in summary["forgetting"]:
        rows_of.setdefault((row["data"], row["protocol"]), []).append(row)
    found = []
    for (data, protocol), rows in rows_of.items():
        panels = []
        for score in dict.fromkeys(row["score"] for row in rows):
            points = [_point(row, row["later"]) for row in rows if row["score"] == score]
            panels.append(Panel("reliability", score_heading(score), tuple(points)))
        heading = f"{data}: {titled('reliability', protocol)}, % over edits made later"
        found.append(Block(data, protocol, "forgetting", "later", heading, tuple(panels)))
    return found


def _rows(summary: Summary, data: str, protocol: str, score: str) -> list[ScoreRow]:
    """The rows of a benchmark and protocol in one score."""
    key = (data, protocol, score)
    return [row for row in summary["rows"] if (row["data"], row["protocol"], row["score"]) == key]


def _panel(metric: str, rows: Iterable[ScoreRow]) -> Panel:
    """A metric over N."""
    points = [_point(row, row["edits"]) for row in rows if row["metric"] == metric]
    return Panel(metric, label(metric), tuple(points))


def _hop_panel(size: int, rows: Iterable[ScoreRow]) -> Panel:
    """Portability over hops at one N."""
    points = [_point(row, hops(row["metric"])) for row in rows if row["edits"] == size]
    return Panel("portability", f"Portability, N = {size:,}", tuple(points))


def _point(row: Mapping[str, Any], x: float) -> Point:
    return Point(row["editor"], x, row["value"], row["low"], row["high"])


def _block(
    data: str, protocol: str, score: str, axis: Axis, over: str, panels: Iterable[Panel]
) -> Block:
    """A block without its empty panels."""
    heading = f"{data}: {titled(score_heading(score), protocol)}, % {over}"
    shown = tuple(panel for panel in panels if panel.points)
    return Block(data, protocol, score, axis, heading, shown)
