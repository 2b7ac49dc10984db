"""The report as one HTML page without external files: tables, curves, and single cases."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from liveedit.errors import LiveEditError
from liveedit.measures.costs import COSTS
from liveedit.measures.metrics import METRICS, label, metric_order
from liveedit.measures.protocols import PROTOCOLS, setting_label, titled
from liveedit.measures.scores import HEADLINES, SCORES, score_heading
from liveedit.report.cases import cases_json, shortened
from liveedit.report.chart import Block, Style, panel_svg
from liveedit.report.columns import Columns, distinct
from liveedit.report.files import Reading
from liveedit.report.results import Results
from liveedit.report.table import MAIN, Table, settings

__all__ = ["Images", "render"]

Images = Callable[[str], Image.Image | None]
"""Finds the picture that a record names; ``None`` means that there is none."""

Fact = tuple[str, str]
"""Heading and value."""
Svg = tuple[str, str, Markup]
"""Name, title and drawing of a panel."""

PICTURE_BYTES = 2_000_000
"""Largest size of all pictures together."""
PICTURE_SIZES = (112, 96, 80, 64, 48)
"""Possible sizes of pictures in pixels; the largest that fits is used."""


def render(results: Results, images: Images) -> str:
    """The whole page. ``images`` finds the pictures; one that it cannot find is a placeholder."""
    editors = list(results.styles)
    cases, names = cases_json(results.reading, results.columns, editors)
    found = _pictures(names, images)
    cases["pictures"] = [(shortened(name), found.get(name, "")) for name in names]
    return _template().render(
        facts=_facts(results.reading, results.columns),
        options=_options(results.columns, editors),
        styles=results.styles,
        sections=_sections(results),
        legend=_legend(results),
        cases=cases,
    )


def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["label"] = label
    environment.globals["setting"] = setting_label
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    source = files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _legend(results: Results) -> list[Fact]:
    """Heading and meaning of each metric, score, cost and protocol that is shown."""
    rows = results.summary["rows"]
    metrics = {row["metric"] for row in rows}
    scores = {row["score"] for row in rows}
    protocols = {row["protocol"] for row in rows}
    facts = [(label(metric.name), metric.meaning) for metric in METRICS if metric.name in metrics]
    facts += [
        (score.heading, score.meaning) for score in SCORES if score.shown and score.name in scores
    ]
    facts += [(cost.heading, cost.meaning) for cost in COSTS]
    facts += [(kind.name, kind.meaning) for kind in PROTOCOLS.values() if kind.name in protocols]
    return [(heading, meaning) for heading, meaning in facts if meaning]


# Header


def _facts(reading: Reading, table: Columns) -> list[Fact]:
    """Facts about the run, for the header."""
    rows = table.rows
    cases = distinct(rows, "data", "case")
    windows = distinct(rows, "data", "protocol", "size", "seed", "window")
    facts = [
        ("Benchmark", ", ".join(table.texts["data"])),
        ("Editors", ", ".join(table.texts["editor"])),
        ("Edits N", ", ".join(_setting_labels(table))),
        ("Cases", f"{len(cases):,}"),
        ("Probes", f"{len(rows):,}"),
        ("Windows", f"{len(windows):,}"),
        ("Seeds", ", ".join(map(str, np.unique(rows["seed"])))),
        *_call_facts(reading.calls),
    ]
    if reading.half_lines:
        facts.append(("Incomplete lines left out", f"{reading.half_lines:,}"))
    facts += [("Not evaluated to the end", line) for line in reading.failures]
    if table.repeated:
        facts.append(("Repeated records left out", f"{table.repeated:,}"))
    return facts


def _call_facts(calls: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    """Date, model, versions and device of the evaluations, as far as they are known."""
    days = sorted({day for call in calls if (day := str(call.get("time", ""))[:10])})
    if days:
        yield "Made", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    facts = {
        "Model": [str(call.get("model", "")) for call in calls],
        "Versions": [_versions(call) for call in calls],
        "Device": [_device(call) for call in calls],
    }
    for heading, values in facts.items():
        if shown := "; ".join(filter(None, dict.fromkeys(values))):
            yield heading, shown.replace("torch.", "")


def _versions(call: Mapping[str, Any]) -> str:
    """The versions of Python and packages in a call."""
    versions = call.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _device(call: Mapping[str, Any]) -> str:
    """Device and number format in a call."""
    return ", ".join(str(call[name]) for name in ("device", "dtype") if name in call)


def _setting_labels(table: Columns) -> list[str]:
    return [setting_label(protocol, size) for protocol, size in table.sizes()]


def _options(table: Columns, editors: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """The options of each filter, as (value, text) pairs."""
    metrics = sorted(table.texts["metric"], key=metric_order)
    return {
        "editor": [(name, name) for name in editors],
        "metric": [(name, label(name)) for name in metrics],
        "edits": [(name, name) for name in _setting_labels(table)],
    }


# Sections


def _sections(results: Results) -> list[dict[str, Any]]:
    """One section per benchmark and protocol: blocks of scores, figures, and the other tables."""
    panels = {}
    for number, block in enumerate(results.figures["curves"]):
        svgs = _svgs(f"c{number}", block, results.styles)
        panels[block.data, block.protocol, block.score] = svgs
    figures = list(_figures(results))
    found = []
    for data, protocol in settings(results.summary):
        own = [
            table for table in results.tables if (table.data, table.protocol) == (data, protocol)
        ]
        scored = [table for table in own if table.kind in ("main", "other")]
        blocks = []
        for score in dict.fromkeys(table.score for table in scored):
            curves = panels.get((data, protocol, score), [])
            blocks.append(_block(score, scored, curves))
        section = {
            "data": titled(data, protocol),
            "blocks": blocks,
            "figures": [shown for place, *shown in figures if place == (data, protocol)],
            "tables": [table for table in own if table not in scored],
        }
        found.append(section)
    return found


def _figures(results: Results) -> Iterator[tuple[tuple[str, str], str, list[Svg]]]:
    """Section, heading and panels of each figure other than the curves."""
    number = 0
    for name, blocks in results.figures.items():
        if name == "curves":
            continue
        for block in blocks:
            svgs = _svgs(f"f{number}", block, results.styles)
            yield (block.data, block.protocol), block.heading, svgs
            number += 1


def _svgs(prefix: str, block: Block, styles: dict[str, Style]) -> list[Svg]:
    """The panels of a block."""
    found = []
    for number, panel in enumerate(block.panels):
        svg = panel_svg(f"{prefix}-{number}", panel, block.axis, styles)
        found.append((panel.name, panel.title, Markup(svg)))
    return found


def _block(score: str, tables: Iterable[Table], panels: Sequence[Svg]) -> dict[str, Any]:
    """Tables and curves of a score: the papers' metrics first, the others ``folded``.

    ``minor`` scores are those that the papers' tables do not have.
    """
    own = [table for table in tables if table.score == score]
    return {
        "score": score_heading(score),
        "minor": score not in {headline.name for headline in HEADLINES},
        "main": {
            "tables": [table for table in own if table.kind == "main"],
            "panels": [panel for panel in panels if panel[0] in MAIN],
        },
        "folded": {
            "tables": [table for table in own if table.kind == "other"],
            "panels": [panel for panel in panels if panel[0] not in MAIN],
        },
    }


# Pictures


def _pictures(names: Iterable[str], images: Images) -> dict[str, str]:
    """The pictures found, by name, as data URIs, as large as fits in ``PICTURE_BYTES`` together."""
    found = {}
    for name in names:
        picture = _thumbnail(name, images) if name else None
        if picture is not None:
            found[name] = picture
    for size in PICTURE_SIZES:
        uris = {name: _data_uri(picture, size) for name, picture in found.items()}
        if sum(map(len, uris.values())) <= PICTURE_BYTES:
            break
    return uris


def _thumbnail(name: str, images: Images) -> Image.Image | None:
    """The picture at its largest size; a missing or broken one does not make a report fail."""
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
    """The picture, at most ``size`` pixels wide and high, as a data URI."""
    small = picture.copy()
    small.thumbnail((size, size))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=72)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
