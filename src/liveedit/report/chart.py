"""The look of curves: panels in rows under headings, one line per editor, its interval as a band.

Editors keep their colour, marker and dash through all panels; the colours are Paul Tol's "vibrant"
ones, which colour-blind readers can distinguish. The line of the editor in front is thick, blue and
drawn on top of all others. Where many editors share a panel, only that line has a band. The same
numbers give the same SVG, byte for byte.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

__all__ = ["Axis", "Block", "Panel", "Point", "Style", "images_of", "panel_svg", "styles"]

COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33bbee", "#cc3311", "#8a8a8a")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
INK = "#5f6570"
RULE = "#8d939e"
COLUMNS = 3
LEGEND_COLUMNS = 7
WITH_BANDS = 4
"""Largest number of editors in a panel for which every editor gets a band."""
PANEL = (2.8, 1.95)
"""Width and height of a panel with its margins, in inches."""
HEADING = 0.45
"""Height of a heading above panels, in inches."""

Axis = Literal["edits", "later", "hops"]
"""The quantity along x: N on a logarithmic axis, edits made later (from 0 on), hops."""


class _Margins(NamedTuple):
    """Margins of a panel, in inches."""

    left: float = 0.38
    right: float = 0.06
    top: float = 0.27
    bottom: float = 0.28


MARGINS = _Margins()


class Point(NamedTuple):
    """A number of an editor with its interval, all three between 0 and 1."""

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
    """Panels under one heading.

    Arguments:
        data: Name of the benchmark in whose section of the page they are.
        protocol: Name of the protocol.
        score: Name of the score.
        axis: The quantity along x.
        heading: The heading.
        panels: The panels in their order.
    """

    data: str
    protocol: str
    score: str
    axis: Axis
    heading: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """The look of an editor's line.

    Arguments:
        colour: Colour of line, marker and band.
        marker: Marker, by matplotlib's name.
        glyph: The marker as a character.
        dash: Line style of matplotlib.
        front: Whether the line is thick and above all others.
    """

    colour: str
    marker: str
    glyph: str
    dash: Any
    front: bool = False

    @property
    def width(self) -> float:
        """Line width in points."""
        return 2.4 if self.front else 1.3


def styles(editors: Iterable[str], front: str = "") -> dict[str, Style]:
    """A style for each editor: first the one in front, if any, then the others by name."""
    names = set(editors)
    found = {}
    if front in names:
        marker, glyph = MARKERS[0]
        found[front] = Style(COLOURS[0], marker, glyph, DASHES[0], front=True)
    for number, editor in enumerate(sorted(names - {front})):
        found[editor] = _style(number)
    return found


def _style(number: int) -> Style:
    """The style of one of the editors that are not in front.

    Colours change fastest; the first one is not used.
    """
    turn, colour = divmod(number, len(COLOURS) - 1)
    marker, glyph = MARKERS[(colour + 1 + 2 * turn) % len(MARKERS)]
    return Style(COLOURS[colour + 1], marker, glyph, DASHES[turn % len(DASHES)])


def images_of(blocks: Sequence[Block], drawn: dict[str, Style]) -> dict[str, bytes]:
    """All blocks below one another in one figure, three panels per row, as "svg" and as "png"."""
    figure = _figure(blocks, drawn)
    return {format: _saved(figure, format) for format in ("svg", "png")}


def panel_svg(prefix: str, panel: Panel, axis: Axis, drawn: dict[str, Style]) -> str:
    """One panel as an ``<svg>`` element for a page.

    It is transparent, its text is text, each line is a group with ``data-editor``. Its ids begin
    with ``prefix``, so that they differ from those of other panels.
    """
    with _look():
        figure = Figure(figsize=(PANEL[0], PANEL[1] - MARGINS.top + 0.08))
        _draw(_axes(figure, 0, 0), panel.points, axis, drawn)
    svg = _saved(figure, "svg", fonttype="none", transparent=True).decode()
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is enough
    unused = r' xmlns(:\w+)?="[^"]*"|<defs>\s*<style.*?</defs>'
    svg = re.sub(unused, "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for i, editor in enumerate(drawn):
        svg = svg.replace(f'id="editor-{i}"', f'data-editor="{escape(editor)}"')
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _figure(blocks: Sequence[Block], drawn: dict[str, Style]) -> Figure:
    """All blocks in one figure.

    Positions are computed here, because matplotlib's layout engine does not give the same last
    digits each time.
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
    """Draw a block below ``top`` (inches from the bottom of the figure)."""
    width, height = figure.get_size_inches()
    x = MARGINS.left / width
    y = (top - 0.6 * HEADING) / height
    figure.text(x, y, block.heading, fontsize=9.5, fontweight="bold")
    for i, panel in enumerate(block.panels):
        row, column = divmod(i, COLUMNS)
        axes = _axes(figure, column * PANEL[0], top - HEADING - (row + 1) * PANEL[1])
        axes.set_title(panel.title, loc="left")
        _draw(axes, panel.points, block.axis, drawn)


def _axes(figure: Figure, x: float, y: float) -> Any:
    """Axes in a panel whose lower left corner is at ``x``, ``y`` inches."""
    width, height = figure.get_size_inches()
    inner_width = PANEL[0] - MARGINS.left - MARGINS.right
    inner_height = PANEL[1] - MARGINS.bottom - MARGINS.top
    return figure.add_axes(
        (
            (x + MARGINS.left) / width,
            (y + MARGINS.bottom) / height,
            inner_width / width,
            inner_height / height,
        )
    )


def _legend(figure: Figure, drawn: dict[str, Style]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=style.colour,
            marker=style.marker,
            linestyle=style.dash,
            linewidth=style.width,
            markersize=4,
            label=editor,
        )
        for editor, style in drawn.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=LEGEND_COLUMNS, frameon=False)


def _draw(axes: Any, points: Sequence[Point], axis: Axis, drawn: dict[str, Style]) -> None:
    """Draw the line of each editor, and the axes."""
    places = sorted({point.x for point in points})
    shown = {point.editor for point in points}
    for number, (editor, style) in enumerate(drawn.items()):
        line = [point for point in points if point.editor == editor]
        if not line:
            continue
        line.sort(key=lambda point: point.x)
        alone = len(places) == 1 and axis == "edits"
        shift = _shift(number, len(drawn)) if alone else 1.0
        band = style.front or len(shown) <= WITH_BANDS
        _draw_line(axes, line, style, f"editor-{number}", shift=shift, band=band)
    axes.set(ylim=(-4, 104), yticks=(0, 25, 50, 75, 100))
    _set_x(axes, axis, places)


def _shift(number: int, count: int) -> float:
    """Factor by which the single point of an editor is moved along x, away from the others."""
    return float(1.04 ** (number - (count - 1) / 2))


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
    axes.xaxis.set_major_formatter(FuncFormatter(_tick_label))


def _tick_label(n: float, _position: int) -> str:
    return f"{n / 1000:.3g}k" if n >= 1000 else f"{n:.0f}"


def _draw_line(
    axes: Any, points: Sequence[Point], style: Style, name: str, *, shift: float, band: bool
) -> None:
    """Draw the line and its band, under one name in the SVG; a single point has a bar as band."""
    x = [point.x * shift for point in points]
    low = [100 * point.low for point in points]
    high = [100 * point.high for point in points]
    if len(points) == 1:
        axes.vlines(x, low, high, color=style.colour, alpha=0.5, linewidth=2, gid=name)
    elif band:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0, gid=name)
    axes.plot(
        x,
        [100 * point.value for point in points],
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        linewidth=style.width,
        zorder=4 if style.front else 3,
        gid=name,
    )


def _ticks(places: Sequence[float]) -> list[float]:
    """The places with enough room for their labels; 0 always has it."""
    least = (places[-1] / max(places[0], 1)) ** (1 / 7)
    ticks = [places[-1]]
    for place in reversed(places[:-1]):
        if place == 0 or ticks[-1] / place >= least:
            ticks.append(place)
    return ticks[::-1]


def _look() -> Any:
    """The settings that matplotlib's artists read when they are created."""
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
    changing = ("Date", "Creator", "Format", "Type") if format == "svg" else ("Software",)
    nothing: dict[str, None] = dict.fromkeys(changing)
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "liveedit", "svg.fonttype": fonttype}):
        figure.savefig(out, format=format, dpi=160, transparent=transparent, metadata=nothing)
    return out.getvalue()
