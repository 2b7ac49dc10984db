"""Curves of a summary: each metric over the number of edits, one line an editor, with its interval as a band.

Editors keep their colour, marker and dash through all panels; the colours are Paul Tol's "vibrant" ones, which the
colour-blind can tell apart. The same summary gives the same SVG, byte for byte.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from liveedit.report.scores import SCORES, ScoreRow, Summary
from liveedit.report.table import MAIN, label, score_label

__all__ = ["Panel", "Style", "curves_png", "curves_svg", "panels", "styles"]

COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33bbee", "#cc3311", "#8a8a8a")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
INK, RULE = "#5f6570", "#8d939e"
COLUMNS = 3
LEGEND_COLUMNS = 6
PANEL, HEADING = (2.8, 1.95), 0.45
"""Inches: width and height of a panel with its margins, height of a heading above panels."""


class _Margins(NamedTuple):
    left: float = 0.38
    right: float = 0.06
    top: float = 0.27
    bottom: float = 0.28


MARGINS = _Margins()


@dataclass(frozen=True, slots=True)
class Style:
    """How an editor is drawn; ``glyph`` is its marker as a character."""

    colour: str
    marker: str
    glyph: str
    dash: Any


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one metric as an ``<svg>`` element that can stand in a page beside others."""

    data: str
    score: str
    metric: str
    svg: str


def styles(summary: Summary) -> dict[str, Style]:
    """A style for each editor, in the order of their names."""
    editors = sorted({row["editor"] for row in summary["rows"]})
    return {editor: _style(i) for i, editor in enumerate(editors)}


def _style(i: int) -> Style:
    marker, glyph = MARKERS[i % len(MARKERS)]
    return Style(COLOURS[i % len(COLOURS)], marker, glyph, DASHES[i // len(COLOURS) % len(DASHES)])


def curves_svg(summary: Summary) -> bytes:
    """All panels in one figure, three a row, under a heading for each benchmark and score."""
    return _saved(_figure(summary), "svg", fonttype="path")


def curves_png(summary: Summary) -> bytes:
    """The figure of :func:`curves_svg` as pixels, on white."""
    return _saved(_figure(summary), "png")


def panels(summary: Summary) -> list[Panel]:
    """Each metric's curves by themselves: transparent, text as text, each line in a group with ``data-editor``."""
    drawn = styles(summary)
    return [
        Panel(data, score, metric, _panel_svg(f"c{number}", rows, drawn))
        for number, (data, score, metric, rows) in enumerate(_curves(summary))
    ]


_Curve = tuple[str, str, str, list[ScoreRow]]


def _curves(summary: Summary) -> Iterator[_Curve]:
    """(data, score, metric, rows) in the order of the tables. N = 0 has no place on a logarithmic axis."""
    rows = [row for row in summary["rows"] if row["edits"] > 0]
    metrics = [*MAIN, *(m for m in dict.fromkeys(row["metric"] for row in rows) if m not in MAIN)]
    for data in dict.fromkeys(row["data"] for row in rows):
        for score in SCORES:
            for metric in metrics:
                if found := [r for r in rows if (r["data"], r["score"], r["metric"]) == (data, score, metric)]:
                    yield data, score, metric, found


def _figure(summary: Summary) -> Figure:
    """Places are reckoned by hand: matplotlib's layout engine does not give the same last digits each time."""
    drawn = styles(summary)
    blocks = [list(group) for _, group in groupby(_curves(summary), lambda curve: curve[:2])]
    heights = [HEADING + PANEL[1] * ceil(len(curves) / COLUMNS) for curves in blocks]
    legend = 0.2 + 0.2 * ceil(len(drawn) / LEGEND_COLUMNS)
    with _look():
        figure = Figure(figsize=(PANEL[0] * COLUMNS, legend + sum(heights)))
        _legend(figure, drawn)
        for i, curves in enumerate(blocks):
            _draw_block(figure, sum(heights[i:]), curves, drawn)
    return figure


def _draw_block(figure: Figure, top: float, curves: Sequence[_Curve], drawn: dict[str, Style]) -> None:
    """Draw the panels of one benchmark and score below ``top`` (inches from the foot of the figure)."""
    data, score, *_ = curves[0]
    width, height = figure.get_size_inches()
    heading = f"{data}: {score_label(score)}, % over N edits"
    figure.text(MARGINS.left / width, (top - 0.6 * HEADING) / height, heading, fontsize=9.5, fontweight="bold")
    for i, (_, _, metric, rows) in enumerate(curves):
        row, column = divmod(i, COLUMNS)
        axes = _axes(figure, column * PANEL[0], top - HEADING - (row + 1) * PANEL[1])
        axes.set_title(label(metric), loc="left")
        _draw(axes, rows, drawn)


def _axes(figure: Figure, x: float, y: float) -> Any:
    """Axes in a panel whose lower left corner is at ``x``, ``y`` inches."""
    width, height = figure.get_size_inches()
    inner = PANEL[0] - MARGINS.left - MARGINS.right, PANEL[1] - MARGINS.bottom - MARGINS.top
    return figure.add_axes(
        ((x + MARGINS.left) / width, (y + MARGINS.bottom) / height, inner[0] / width, inner[1] / height)
    )


def _legend(figure: Figure, drawn: dict[str, Style]) -> None:
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.dash, markersize=4, label=editor)
        for editor, s in drawn.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=LEGEND_COLUMNS, frameon=False)


def _panel_svg(prefix: str, rows: Sequence[ScoreRow], drawn: dict[str, Style]) -> str:
    with _look():
        figure = Figure(figsize=(PANEL[0], PANEL[1] - MARGINS.top + 0.08))
        _draw(_axes(figure, 0, 0), rows, drawn)
    svg = _saved(figure, "svg", fonttype="none", transparent=True).decode()
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is enough
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|<defs>\s*<style.*?</defs>', "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for i, editor in enumerate(drawn):
        svg = svg.replace(f'id="editor-{i}"', f'data-editor="{escape(editor)}"')
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _draw(axes: Any, rows: Sequence[ScoreRow], drawn: dict[str, Style]) -> None:
    sizes = sorted({row["edits"] for row in rows})
    for i, (editor, style) in enumerate(drawn.items()):
        if line := [row for row in rows if row["editor"] == editor]:
            shift = 1.04 ** (i - (len(drawn) - 1) / 2) if len(sizes) == 1 else 1.0
            _draw_line(axes, line, style, f"editor-{i}", shift=shift, shade=min(0.16, 0.8 / len(drawn)))
    axes.set(xscale="log", ylim=(-4, 104), xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
    axes.xaxis.set(major_locator=FixedLocator(_ticks(sizes)), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1000:g}k" if n >= 1000 else f"{n:g}"))
    axes.set_yticks((0, 25, 50, 75, 100))


def _draw_line(axes: Any, rows: Sequence[ScoreRow], style: Style, name: str, *, shift: float, shade: float) -> None:
    """Draw the band, or bars where a band would have no width, and the line, under one name in the SVG."""
    x = [row["edits"] * shift for row in rows]
    value, low, high = ([100 * row[key] for row in rows] for key in ("value", "low", "high"))
    if len(rows) > 1:
        axes.fill_between(x, low, high, color=style.colour, alpha=shade, linewidth=0, gid=name)
    else:
        axes.vlines(x, low, high, color=style.colour, alpha=0.5, linewidth=2, gid=name)
    axes.plot(x, value, color=style.colour, marker=style.marker, linestyle=style.dash, gid=name)


def _ticks(sizes: Sequence[int]) -> list[int]:
    """The numbers of edits that can be written below the axis without touching one another."""
    least = (sizes[-1] / sizes[0]) ** (1 / 7)
    ticks = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if ticks[-1] / size >= least:
            ticks.append(size)
    return ticks[::-1]


def _look() -> Any:
    """The settings that artists read when they are made."""
    return mpl.rc_context(
        {
            "font.size": 8,
            "axes.titlesize": 8.5,
            "legend.fontsize": 8.5,
            "text.parse_math": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.edgecolor": RULE,
            "axes.linewidth": 0.7,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": RULE,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
            "xtick.color": RULE,
            "xtick.labelcolor": INK,
            "ytick.color": RULE,
            "ytick.labelcolor": INK,
            "ytick.major.size": 0,
            "lines.linewidth": 1.5,
            "lines.markersize": 3.6,
            "lines.markeredgewidth": 0,
        }
    )


def _saved(figure: Figure, format: str, *, fonttype: str = "path", transparent: bool = False) -> bytes:
    nothing: dict[str, None] = dict.fromkeys(
        ("Date", "Creator", "Format", "Type") if format == "svg" else ("Software",)
    )
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "liveedit", "svg.fonttype": fonttype}):
        figure.savefig(out, format=format, dpi=160, transparent=transparent, metadata=nothing)
    return out.getvalue()
