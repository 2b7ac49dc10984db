"""The report as one HTML page that needs nothing else: tables, curves, and contact sheets of single probes.

A contact sheet shows a mix of successes and failures of every metric at one N. The mix depends on the records alone.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from liveedit.errors import LiveEditError
from liveedit.report.chart import Panel, panels, styles
from liveedit.report.files import Reading
from liveedit.report.scores import Summary, metric_order, probe_scores
from liveedit.report.table import MAIN, Table, label, score_label, tables
from liveedit.types import Record

__all__ = ["Card", "Images", "choose", "render"]

Images = Callable[[str], Image.Image | None]
"""Finds the picture that a record names, or tells by ``None`` that there is none."""

CARDS_PER_SHEET = 60
CARDS_IN_ALL = 360
PICTURE_BYTES = 1_000_000
PICTURE_SIZES = (144, 112, 80, 56)
LONGEST_TEXT = 280


@dataclass(frozen=True, slots=True)
class Card:
    """One probe on a contact sheet. ``edit`` is the reliability record of its case, which tells what was edited."""

    record: Record
    edit: Record | None

    @property
    def right(self) -> bool:
        """Whether the free generation was the answer wanted."""
        return probe_scores(self.record)["exact_match"] == 1.0

    @property
    def tokens(self) -> float | None:
        """The share of answer tokens that are right under teacher forcing."""
        return probe_scores(self.record).get("token_accuracy")

    @property
    def images(self) -> list[str]:
        """The names of the pictures that the card shows."""
        return [record.image for record in (self.record, self.edit) if record and record.image]


def render(reading: Reading, summary: Summary, images: Images) -> str:
    """The whole page. ``images`` finds the pictures; one that it cannot find becomes a placeholder."""
    sheets = _sheets(reading.records)
    names = dict.fromkeys(name for _, cards in sheets for card in cards for name in card.images)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"label": label, "short": _shortened}
    template = environment.from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        facts=_facts(reading),
        options=_options(reading.records),
        routed={row["editor"] for row in summary["firing"] if row["fired"]},
        styles=styles(summary),
        sections=_sections(summary),
        sheets=sheets,
        pictures={name: (f"p{i}", uri) for i, (name, uri) in enumerate(_pictures(names, images).items())},
    )


def _facts(reading: Reading) -> list[tuple[str, str]]:
    """What was run, as (heading, value) pairs."""
    records = reading.records
    facts = [
        ("Benchmark", ", ".join(_distinct(r.data for r in records))),
        ("Editors", ", ".join(_distinct(r.editor for r in records))),
        ("Edits N", ", ".join(f"{n:,}" for n in _distinct(r.edits for r in records))),
        ("Cases", f"{len({(r.data, r.case) for r in records}):,}"),
        ("Probes", f"{len(records):,}"),
        ("Windows", f"{len({(r.data, r.edits, r.window) for r in records}):,}"),
        ("Seeds", ", ".join(map(str, _distinct(r.seed for r in records)))),
    ]
    if reading.half_lines:
        facts.append(("Half-written lines left out", f"{reading.half_lines:,}"))
    if reading.repeated:
        facts.append(("Repeated records passed over", f"{reading.repeated:,}"))
    return facts


def _options(records: Iterable[Record]) -> dict[str, list[tuple[str, str]]]:
    """What each filter offers, as (value, text) pairs."""
    records = list(records)
    metrics = sorted({r.metric for r in records}, key=metric_order)
    return {
        "editor": [(name, name) for name in _distinct(r.editor for r in records)],
        "metric": [(name, label(name)) for name in metrics],
        "edits": [(str(n), f"{n:,}") for n in _distinct(r.edits for r in records)],
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    return sorted(set(values))


def _sections(summary: Summary) -> list[dict[str, Any]]:
    """A section a benchmark: its blocks (one a score: tables and curves), then the tables of firing and cost."""
    made, drawn = tables(summary), panels(summary)
    return [
        {
            "data": data,
            "blocks": [
                _block(score, [t for t in made if (t.data, t.score) == (data, score)], drawn)
                for score in dict.fromkeys(t.score for t in made if t.data == data and t.kind in ("main", "other"))
            ],
            "tables": [t for t in made if t.data == data and t.kind in ("firing", "cost")],
        }
        for data in dict.fromkeys(t.data for t in made)
    ]


def _block(score: str, made: Sequence[Table], drawn: Iterable[Panel]) -> dict[str, Any]:
    """The papers' metrics first, ``folded`` the others."""
    own = [panel for panel in drawn if (panel.data, panel.score) == (made[0].data, score)]
    parts = {
        "main": ([t for t in made if t.kind == "main"], [p for p in own if p.metric in MAIN]),
        "folded": ([t for t in made if t.kind == "other"], [p for p in own if p.metric not in MAIN]),
    }
    shown = {
        name: {"tables": part_tables, "panels": [(panel.metric, Markup(panel.svg)) for panel in part_panels]}
        for name, (part_tables, part_panels) in parts.items()
    }
    return {"score": score_label(score), **shown}


def _sheets(records: Sequence[Record]) -> list[tuple[int, list[Card]]]:
    """(N, cards) for each number of edits."""
    sizes = _distinct(record.edits for record in records)
    limit = min(CARDS_PER_SHEET, CARDS_IN_ALL // len(sizes))
    chosen = [(size, choose([r for r in records if r.edits == size], limit)) for size in sizes]
    wanted = {_case_key(record) for _, sheet in chosen for record in sheet}
    edits = {_case_key(r): r for r in records if r.metric == "reliability" and _case_key(r) in wanted}
    return [(size, [Card(record, edits.get(_case_key(record))) for record in sheet]) for size, sheet in chosen]


def _case_key(record: Record) -> tuple[object, ...]:
    return record.data, record.editor, record.edits, record.window, record.seed, record.case


def choose(records: Iterable[Record], limit: int = CARDS_PER_SHEET) -> list[Record]:
    """At most ``limit`` records: right and wrong ones of every metric by turns, and within those every editor by turns.

    What is left to chance is decided by a hash of what identifies the record. Sorted by metric, editor, wrong first.
    """
    shelves: dict[tuple[Any, ...], dict[tuple[str, str], list[Record]]] = {}
    for record in sorted(records, key=_digest):
        wrong = not Card(record, None).right
        shelf = shelves.setdefault((metric_order(record.metric), wrong), {})
        shelf.setdefault((record.data, record.editor), []).append(record)
    turns = _by_turns([_by_turns(list(shelf.values())) for _, shelf in sorted(shelves.items(), key=lambda s: s[0])])
    return sorted(turns[:limit], key=lambda r: (metric_order(r.metric), r.data, r.editor, Card(r, None).right, r.case))


def _by_turns(queues: Sequence[Sequence[Record]]) -> list[Record]:
    """The first of each queue, then the second of each, and so on."""
    return [record for turn in zip_longest(*queues) for record in turn if record is not None]


def _digest(record: Record) -> bytes:
    return hashlib.sha256(f"{_case_key(record)} {record.probe}".encode()).digest()


def _shortened(text: str) -> str:
    """``text`` in one line, cut where it would fill a card."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT].rstrip()} …"


def _pictures(names: Iterable[str], images: Images) -> dict[str, str]:
    """The pictures found, by name, as data URIs, all as large as they can be within ``PICTURE_BYTES``."""
    found = {name: picture for name in names if (picture := _thumbnail(name, images))}
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
    except (LiveEditError, LookupError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return picture


def _data_uri(picture: Image.Image, size: int) -> str:
    small, out = picture.copy(), io.BytesIO()
    small.thumbnail((size, size))
    small.save(out, "WEBP", quality=72)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
