"""The report as one HTML page that needs nothing else: tables, curves, and the answers to single
cases side by side.
"""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from liveedit.errors import LiveEditError
from liveedit.report.cases import cases_json, shortened
from liveedit.report.chart import Block, panel_svg, styles
from liveedit.report.columns import Columns, distinct
from liveedit.report.figures import PAPER_SCORES, curves, forgetting, hops, one_hop
from liveedit.report.files import Reading
from liveedit.report.scores import Summary, metric_order
from liveedit.report.table import (
    MAIN,
    MEANING,
    SCORE_MEANING,
    Table,
    label,
    score_label,
    setting_label,
    settings,
    tables,
    titled,
)

__all__ = ["Images", "render"]

Images = Callable[[str], Image.Image | None]
"""Finds the picture that a record names, or tells by ``None`` that there is none."""

PICTURE_BYTES = 2_000_000
PICTURE_SIZES = (112, 96, 80, 64, 48)


def render(reading: Reading, table: Columns, summary: Summary, images: Images) -> str:
    """The whole page. ``images`` finds the pictures; one that it cannot find becomes a placeholder.

    ``table`` is that of the last pass over ``reading``, ``summary`` that of ``table``.
    """
    drawn, shown = styles(summary), {row["metric"] for row in summary["rows"]}
    cases, names = cases_json(reading, table, list(drawn))
    found = _pictures(names, images)
    cases["pictures"] = [(shortened(name), found.get(name, "")) for name in names]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["label"] = label
    environment.globals["setting"] = setting_label
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    template = environment.from_string(
        files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        facts=_facts(reading, table),
        options=_options(table, list(drawn)),
        styles=drawn,
        sections=_sections(summary),
        metrics=[
            (label(name), MEANING[name])
            for name in sorted(MEANING, key=metric_order)
            if name in shown
        ],
        scores=[(score_label(name), meaning) for name, meaning in SCORE_MEANING.items()],
        cases=cases,
    )


def _facts(reading: Reading, table: Columns) -> list[tuple[str, str]]:
    """What was run, as (heading, value) pairs."""
    rows = table.rows
    facts = [
        ("Benchmark", ", ".join(table.texts["data"])),
        ("Editors", ", ".join(table.texts["editor"])),
        ("Edits N", ", ".join(_setting_labels(table))),
        ("Cases", f"{len(distinct(rows, 'data', 'case')):,}"),
        ("Probes", f"{len(rows):,}"),
        ("Windows", f"{len(distinct(rows, 'data', 'protocol', 'edits', 'seed', 'window')):,}"),
        ("Seeds", ", ".join(map(str, np.unique(rows["seed"])))),
        *_noted(reading.calls),
    ]
    if reading.half_lines:
        facts.append(("Half-written lines left out", f"{reading.half_lines:,}"))
    facts += [("Not tested to the end", line) for line in reading.failures]
    if table.repeated:
        facts.append(("Repeated records passed over", f"{table.repeated:,}"))
    return facts


def _noted(calls: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """When, of which model, with what and where the records were made, as far as that was noted."""
    days = sorted({day for call in calls if (day := str(call.get("time", ""))[:10])})
    if days:
        yield "Made", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    noted: dict[str, dict[str, None]] = {"Model": {}, "Versions": {}, "Device": {}}
    for call in calls:
        noted["Model"][str(call.get("model", ""))] = None
        if isinstance(versions := call.get("versions"), Mapping):
            noted["Versions"][
                ", ".join(f"{name} {version}" for name, version in versions.items())
            ] = None
        noted["Device"][
            ", ".join(str(call[name]) for name in ("device", "dtype") if name in call)
        ] = None
    for heading, values in noted.items():
        if shown := "; ".join(filter(None, values)):
            yield heading, shown.replace("torch.", "")


def _setting_labels(table: Columns) -> list[str]:
    return [setting_label(protocol, edits) for protocol, edits in table.sizes()]


def _options(table: Columns, editors: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """What each filter offers, as (value, text) pairs."""
    return {
        "editor": [(name, name) for name in editors],
        "metric": [(name, label(name)) for name in sorted(table.texts["metric"], key=metric_order)],
        "edits": [(name, name) for name in _setting_labels(table)],
    }


def _sections(summary: Summary) -> list[dict[str, Any]]:
    """A section a benchmark and protocol: blocks (one a score: tables and curves), figures, and the
    other tables.
    """
    made, drawn = tables(summary), styles(summary)
    panels = {}
    for number, block in enumerate(curves(summary)):
        panels[block.data, block.protocol, block.score] = _svgs(f"c{number}", block, drawn)
    extra = [*hops(summary), *one_hop(summary), *forgetting(summary)]
    figures = [(block, _svgs(f"f{number}", block, drawn)) for number, block in enumerate(extra)]
    found = []
    for data, protocol in settings(summary):
        own = [table for table in made if (table.data, table.protocol) == (data, protocol)]
        scores = dict.fromkeys(table.score for table in own if table.kind in ("main", "other"))
        found.append(
            {
                "data": titled(data, protocol),
                "blocks": [
                    _block(score, own, panels.get((data, protocol, score), [])) for score in scores
                ],
                "figures": [
                    (block.heading, svgs)
                    for block, svgs in figures
                    if (block.data, block.protocol) == (data, protocol)
                ],
                "tables": [table for table in own if table.kind not in ("main", "other")],
            }
        )
    return found


def _svgs(prefix: str, block: Block, drawn: Any) -> list[tuple[str, str, Markup]]:
    """(name, title, svg) of each panel."""
    return [
        (panel.name, panel.title, Markup(panel_svg(f"{prefix}-{number}", panel, block.axis, drawn)))
        for number, panel in enumerate(block.panels)
    ]


def _block(
    score: str, own: Iterable[Table], panels: Sequence[tuple[str, str, Markup]]
) -> dict[str, Any]:
    """The papers' metrics first, ``folded`` the others; ``minor`` are scores that no paper's table
    is about.
    """
    made = [table for table in own if table.score == score]
    return {
        "score": score_label(score),
        "minor": score not in PAPER_SCORES,
        "main": {
            "tables": [table for table in made if table.kind == "main"],
            "panels": [panel for panel in panels if panel[0] in MAIN],
        },
        "folded": {
            "tables": [table for table in made if table.kind == "other"],
            "panels": [panel for panel in panels if panel[0] not in MAIN],
        },
    }


def _pictures(names: Iterable[str], images: Images) -> dict[str, str]:
    """The pictures found, by name, as data URIs, all as large as they can be within
    ``PICTURE_BYTES``.
    """
    found = {name: picture for name in names if name and (picture := _thumbnail(name, images))}
    for size in PICTURE_SIZES:
        uris = {name: _data_uri(picture, size) for name, picture in found.items()}
        if sum(map(len, uris.values())) <= PICTURE_BYTES:
            break
    return uris


def _thumbnail(name: str, images: Images) -> Image.Image | None:
    """The picture at its largest size. A report does not fail for a picture that is lost or broken."""
    try:
        picture = images(name)
        if picture is None:
            return None
        picture = picture.convert("RGB")
        picture.thumbnail((PICTURE_SIZES[0], PICTURE_SIZES[0]))
    except (
        LiveEditError,
        LookupError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ):
        return None
    return picture


def _data_uri(picture: Image.Image, size: int) -> str:
    small, out = picture.copy(), io.BytesIO()
    small.thumbnail((size, size))
    small.save(out, "WEBP", quality=72)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
