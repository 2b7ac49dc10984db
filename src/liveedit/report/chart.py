"""How curves look: panels in rows under headings, one line an editor, its interval as a band.

Editors keep their colour, marker and dash through all panels; the colours are Paul Tol's "vibrant"
ones, which the colour-blind can tell apart. Pinpoint's line is thick, blue and above all others.
Where many editors share a panel, only its has a band. The same numbers give the same SVG, byte for
byte.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from liveedit.report.columns import OURS
from liveedit.report.scores import Summary

__all__ = ["Axis", "Block", "Panel", "Point", "Style", "images_of", "panel_svg", "styles"]

COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33bbee", "#cc3311", "#8a8a8a")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
INK, RULE = "#5f6570", "#8d939e"
COLUMNS = 3
LEGEND_COLUMNS = 7
WITH_BANDS = 4
"""Up to so many editors have a band each."""
PANEL, HEADING = (2.8, 1.95), 0.45
"""Inches: width and height of a panel with its margins, height of a heading above panels."""

Axis = Literal["edits", "later", "hops"]
"""What runs along x: N on a logarithmic axis, edits made later (0 has a place), hops."""


class _Margins(NamedTuple):
    left: float = 0.38
    right: float = 0.06
    top: float = 0.27
    bottom: float = 0.28


MARGINS = _Margins()


class Point(NamedTuple):
    """A number of an editor with its interval, all in 0..1."""

    editor: str
    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of ``name`` under its ``title``."""

    name: str
    title: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Panels under one heading: what was scored how, of a benchmark and protocol."""

    data: str
    protocol: str
    score: str
    axis: Axis
    heading: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """How an editor is drawn; ``glyph`` is its marker as a character."""

    colour: str
    marker: str
    glyph: str
    dash: Any
    width: float


def styles(summary: Summary) -> dict[str, Style]:
    """A style for each editor: pinpoint first, then the others in the order of their names."""
    editors = sorted({row["editor"] for row in summary["rows"]} - {OURS})
    first = {OURS: _style(0, 2.4)} if any(row["editor"] == OURS for row in summary["rows"]) else {}
    return first | {editor: _style(i, 1.3) for i, editor in enumerate(editors, start=1)}


def _style(i: int, width: float) -> Style:
    """The i-th: colours run fastest, the blue of the first is not used again."""
    turn, colour = divmod(i - 1, len(COLOURS) - 1) if i else (0, -1)
    marker, glyph = MARKERS[(colour + 1 + 2 * turn) % len(MARKERS)]
    return Style(COLOURS[colour + 1], marker, glyph, DASHES[turn % len(DASHES)], width)


def images_of(blocks: Sequence[Block], drawn: dict[str, Style]) -> dict[str, bytes]:
    """All blocks below one another in one figure, three panels a row, as "svg" and as "png"."""
    figure = _figure(blocks, drawn)
    return {format: _saved(figure, format) for format in ("svg", "png")}


def panel_svg(prefix: str, panel: Panel, axis: Axis, drawn: dict[str, Style]) -> str:
    """One panel as an ``<svg>`` element that can stand in a page beside others.

    It is transparent, its text is text, each line is a group with ``data-editor``; ``prefix`` keeps
    its ids apart.
    """
    with _look():
        figure = Figure(figsize=(PANEL[0], PANEL[1] - MARGINS.top + 0.08))
        _draw(_axes(figure, 0, 0), panel.points, axis, drawn)
    svg = _saved(figure, "svg", fonttype="none", transparent=True).decode()
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is enough
    svg = re.sub(
        r' xmlns(:\w+)?="[^"]*"|<defs>\s*<style.*?</defs>',
        "",
        svg[svg.index("<svg") :],
        flags=re.DOTALL,
    )
    for i, editor in enumerate(drawn):
        svg = svg.replace(f'id="editor-{i}"', f'data-editor="{escape(editor)}"')
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _figure(blocks: Sequence[Block], drawn: dict[str, Style]) -> Figure:
    """Places are reckoned by hand: matplotlib's layout engine does not give the same last digits
    each time.
    """
    heights = [HEADING + PANEL[1] * ceil(len(block.panels) / COLUMNS) for block in blocks]
    legend = 0.2 + 0.2 * ceil(len(drawn) / LEGEND_COLUMNS)
    with _look():
        figure = Figure(figsize=(PANEL[0] * COLUMNS, legend + sum(heights)))
        _legend(figure, drawn)
        for i, block in enumerate(blocks):
            _draw_block(figure, sum(heights[i:]), block, drawn)
    return figure


def _draw_block(figure: Figure, top: float, block: Block, drawn: dict[str, Style]) -> None:
    """Draw a block below ``top`` (inches from the foot of the figure)."""
    width, height = figure.get_size_inches()
    at = MARGINS.left / width, (top - 0.6 * HEADING) / height
    figure.text(*at, block.heading, fontsize=9.5, fontweight="bold")
    for i, panel in enumerate(block.panels):
        row, column = divmod(i, COLUMNS)
        axes = _axes(figure, column * PANEL[0], top - HEADING - (row + 1) * PANEL[1])
        axes.set_title(panel.title, loc="left")
        _draw(axes, panel.points, block.axis, drawn)


def _axes(figure: Figure, x: float, y: float) -> Any:
    """Axes in a panel whose lower left corner is at ``x``, ``y`` inches."""
    width, height = figure.get_size_inches()
    inner = PANEL[0] - MARGINS.left - MARGINS.right, PANEL[1] - MARGINS.bottom - MARGINS.top
    return figure.add_axes(
        (
            (x + MARGINS.left) / width,
            (y + MARGINS.bottom) / height,
            inner[0] / width,
            inner[1] / height,
        )
    )


def _legend(figure: Figure, drawn: dict[str, Style]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=s.colour,
            marker=s.marker,
            linestyle=s.dash,
            linewidth=s.width,
            markersize=4,
            label=editor,
        )
        for editor, s in drawn.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=LEGEND_COLUMNS, frameon=False)


def _draw(axes: Any, points: Sequence[Point], axis: Axis, drawn: dict[str, Style]) -> None:
    places = sorted({point.x for point in points})
    shown = [editor for editor in drawn if any(point.editor == editor for point in points)]
    for i, editor in enumerate(drawn):
        if line := sorted(
            (point for point in points if point.editor == editor), key=lambda point: point.x
        ):
            shift = (
                1.04 ** (i - (len(drawn) - 1) / 2) if len(places) == 1 and axis == "edits" else 1.0
            )
            band = editor == OURS or len(shown) <= WITH_BANDS
            _draw_line(axes, line, drawn[editor], f"editor-{i}", shift=shift, band=band)
    axes.set(ylim=(-4, 104), yticks=(0, 25, 50, 75, 100))
    _set_x(axes, axis, places)


def _set_x(axes: Any, axis: Axis, places: Sequence[float]) -> None:
    if axis == "hops":
        axes.set(xlim=(places[0] - 0.3, places[-1] + 0.3), xticks=places)
        return
    if axis == "later":
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(-0.3, max(1, places[-1]) * 1.3)
    else:
        axes.set(xscale="log", xlim=(places[0] / 1.3, places[-1] * 1.3))
    axes.xaxis.set(major_locator=FixedLocator(_ticks(places)), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda n, _: f"{n / 1000:.3g}k" if n >= 1000 else f"{n:.0f}")
    )


def _draw_line(
    axes: Any, points: Sequence[Point], style: Style, name: str, *, shift: float, band: bool
) -> None:
    """Draw the band, or bars where a band would have no width, and the line, under one name in the
    SVG.
    """
    x = [point.x * shift for point in points]
    value, low, high = (
        [100 * number for number in row] for row in list(zip(*points, strict=True))[2:]
    )
    above = 4 if style.width > 2 else 3
    if len(points) == 1:
        axes.vlines(x, low, high, color=style.colour, alpha=0.5, linewidth=2, gid=name)
    elif band:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0, gid=name)
    axes.plot(
        x, value, color=style.colour, marker=style.marker, linestyle=style.dash, linewidth=style.width, zorder=above,
        gid=name,
    )  # fmt: skip


def _ticks(places: Sequence[float]) -> list[float]:
    """The places that can be written below the axis without touching one another; 0 is always
    apart.
    """
    least = (places[-1] / max(places[0], 1)) ** (1 / 7)
    ticks = [places[-1]]
    for place in reversed(places[:-1]):
        if place == 0 or ticks[-1] / place >= least:
            ticks.append(place)
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
            "lines.markersize": 3.6,
            "lines.markeredgewidth": 0,
        }
    )


def _saved(
    figure: Figure, format: str, *, fonttype: str = "path", transparent: bool = False
) -> bytes:
    nothing: dict[str, None] = dict.fromkeys(
        ("Date", "Creator", "Format", "Type") if format == "svg" else ("Software",)
    )
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "liveedit", "svg.fonttype": fonttype}):
        figure.savefig(out, format=format, dpi=160, transparent=transparent, metadata=nothing)
    return out.getvalue()
