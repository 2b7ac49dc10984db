"""What the figures show: scores over N, portability over hops, one hop, reliability over the edits
made later.

VLKEB's Figure 3 has portability at one to four hops, its Table 3 that at one hop where the fact one
hop away is edited too; here these are benchmarks with "one-hop" in their names, one with that edit
and one without.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from liveedit.report.chart import Axis, Block, Panel, Point, images_of, styles
from liveedit.report.scores import ScoreRow, Summary
from liveedit.report.table import MAIN, label, score_label, settings, titled

__all__ = ["curves", "figure_files", "forgetting", "hops", "one_hop"]

PAPER_SCORES = ("token_accuracy", "exact_match")
HOP = re.compile(r"portability_(\d)hop")


def curves(summary: Summary) -> list[Block]:
    """Each metric over N: a block a benchmark, protocol and paper's score. N = 0 has no place on a
    logarithmic axis.
    """
    found = []
    for data, protocol in settings(summary):
        for score in PAPER_SCORES:
            rows = [
                row
                for row in summary["rows"]
                if (row["data"], row["protocol"], row["score"]) == (data, protocol, score)
                and row["edits"] > 0
            ]
            metrics = [
                *MAIN,
                *(m for m in dict.fromkeys(row["metric"] for row in rows) if m not in MAIN),
            ]
            panels = [
                _panel(metric, [row for row in rows if row["metric"] == metric])
                for metric in metrics
            ]
            found.append(_block(data, protocol, score, "edits", "over N edits", panels))
    return [block for block in found if block.panels]


def _panel(metric: str, rows: Iterable[ScoreRow]) -> Panel:
    points = [
        Point(row["editor"], row["edits"], row["value"], row["low"], row["high"]) for row in rows
    ]
    return Panel(metric, label(metric), tuple(points))


def _block(
    data: str, protocol: str, score: str, axis: Axis, over: str, panels: Iterable[Panel]
) -> Block:
    heading = f"{data}: {titled(score_label(score), protocol)}, % {over}"
    return Block(
        data, protocol, score, axis, heading, tuple(panel for panel in panels if panel.points)
    )


def hops(summary: Summary) -> list[Block]:
    """Portability over hops, a panel each N, where questions at two distances or more were asked."""
    found = []
    for data, protocol in settings(summary):
        for score in PAPER_SCORES:
            rows = [
                (int(hop[1]), row)
                for row in summary["rows"]
                if (row["data"], row["protocol"], row["score"]) == (data, protocol, score)
                and (hop := HOP.fullmatch(row["metric"]))
            ]
            if len({hop for hop, _ in rows}) > 1:
                sizes = dict.fromkeys(row["edits"] for _, row in rows)
                panels = [_hop_panel(size, rows) for size in sizes]
                found.append(
                    _block(data, protocol, score, "hops", "over hops of portability", panels)
                )
    return found


def _hop_panel(size: int, rows: Sequence[tuple[int, ScoreRow]]) -> Panel:
    points = [
        Point(r["editor"], hop, r["value"], r["low"], r["high"])
        for hop, r in rows
        if r["edits"] == size
    ]
    return Panel("portability", f"Portability, N = {size:,}", tuple(points))


def forgetting(summary: Summary) -> list[Block]:
    """Reliability over the number of edits made later, a panel a score, where a protocol tells."""
    found = []
    for data, protocol in dict.fromkeys(
        (row["data"], row["protocol"]) for row in summary["forgetting"]
    ):
        rows = [
            row
            for row in summary["forgetting"]
            if (row["data"], row["protocol"]) == (data, protocol)
        ]
        panels = []
        for score in dict.fromkeys(row["score"] for row in rows):
            points = [
                Point(r["editor"], r["later"], r["value"], r["low"], r["high"])
                for r in rows
                if r["score"] == score
            ]
            panels.append(Panel("reliability", score_label(score), tuple(points)))
        heading = f"{data}: {titled('reliability', protocol)}, % over edits made later"
        found.append(Block(data, protocol, "forgetting", "later", heading, tuple(panels)))
    return found


def one_hop(summary: Summary) -> list[Block]:
    """Portability at one hop of the benchmarks with "onehop" in their names, side by side, where
    there are several.
    """
    found = []
    for score in PAPER_SCORES:
        rows = [
            row
            for row in summary["rows"]
            if "onehop" in row["data"]
            and (row["metric"], row["score"]) == ("portability_1hop", score)
        ]
        names = list(dict.fromkeys(row["data"] for row in rows))
        panels = [
            _panel("portability_1hop", [row for row in rows if row["data"] == name])
            for name in names
        ]
        panels = [replace(panel, title=name) for panel, name in zip(panels, names, strict=True)]
        if len(names) > 1:
            found.append(
                _block(
                    names[0], rows[0]["protocol"], score, "edits", "at one hop over N edits", panels
                )
            )
    return found


def figure_files(summary: Summary) -> dict[str, bytes]:
    """The figures by file name, as SVG and PNG; all but the curves only if there are any."""
    drawn = styles(summary)
    figures = {
        "hops": hops(summary),
        "one-hop": one_hop(summary),
        "forgetting": forgetting(summary),
    }
    shown = {"curves": curves(summary)} | {
        name: blocks for name, blocks in figures.items() if blocks
    }
    return {
        f"{name}.{format}": content
        for name, blocks in shown.items()
        for format, content in images_of(blocks, drawn).items()
    }
