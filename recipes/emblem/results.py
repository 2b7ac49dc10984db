"""Put the results of the lifelong test into the README and the docs: every table, and every figure
of the prose.

    liveedit eval --editors all --out runs/emblem/seed-0 --max-cases 60 --ask 60 --seed 0    # and the other seeds
    liveedit eval --editors NAME=FOLDER,… --out runs/released --max-cases 60 --ask 60        # as released.py prints them
    python recipes/emblem/results.py runs/emblem [--released runs/released]
    python recipes/emblem/results.py                                                         # the pages alone, anew

The folder holds the records of any number of editors, N and seeds, in any sub-folders. Writes
``docs/explanation/results/emblem.json``, the summary, and from it ``docs/explanation/results/emblem.md``, the part of the
README between its markers and ``docs/explanation/results/index.md``; their text stands in ``pages/``, with a call in
the place of each figure. With ``--released`` the methods' released forms, above the sound ones on
the same seeds, go to ``docs/explanation/results/released.json`` and into ``docs/explanation/results/index.md``. Nothing is typed
by hand.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from liveedit.report import Summary, read_records, summary, tables
from liveedit.report.columns import LAST
from liveedit.report.scores import AVERAGED, ScoreRow, as_json
from liveedit.report.table import label, markdown
from liveedit.types import Record

ROOT = Path(__file__).parents[2]
RESULTS = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- results end -->)", re.DOTALL)
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # the pages are Markdown
)
SCORES = ("token_accuracy", "exact_match")
DATA = "emblem"


def table(
    heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[ScoreRow | None]]]]
) -> str:
    """Markdown: a row an editor; a cell holds one number or several between slashes, the best of a
    column is bold.
    """
    best = [
        [
            max((row["value"] for row in place if row), default=None)
            for place in zip(*cells, strict=True)
        ]
        for cells in zip(*(cells for _, cells in rows), strict=True)
    ]

    def text(row: ScoreRow | None, top: float | None, *, spread: bool) -> str:
        if row is None:
            return "–"
        value = f"{100 * row['value']:.1f}"
        value = f"**{value}**" if len(rows) > 1 and row["value"] == top else value
        return f"{value} ± {50 * (row['high'] - row['low']):.1f}" if spread else value

    lines = [["Editor", *heads], [":---", *["---:"] * len(heads)]]
    for editor, cells in rows:
        shown = [
            " / ".join(
                text(row, top, spread=len(cell) == 1) for row, top in zip(cell, tops, strict=True)
            )
            for cell, tops in zip(cells, best, strict=True)
        ]
        lines.append([editor, *shown])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def scores(numbers: Summary) -> dict[tuple[str, int, str, str], ScoreRow]:
    """The scores of the windows protocol by editor, N, metric and score."""
    return {
        (row["editor"], row["edits"], row["metric"], row["score"]): row
        for row in numbers["rows"]
        if (row["data"], row["protocol"]) == (DATA, "windows")
    }


def averages(numbers: Summary, editors: Sequence[str]) -> str:
    """The average of the five metrics at each N, with a line that says so."""
    found = scores(numbers)
    sizes, seeds = sorted({n for _, n, _, _ in found}), max(row["seeds"] for row in found.values())
    rows = [
        (editor, [[found.get((editor, n, "average", score))] for score in SCORES for n in sizes])
        for editor in editors
    ]
    over = f"{seeds} seeds × cases" if seeds > 1 else "cases"
    return (
        f"Average of the five metrics after {', '.join(f'{n:,}' for n in sizes)} edits, in percent: token accuracy, then\n"
        f"exact match; ± is half the width of a 95 % interval over {over}.\n\n"
        f"{table([f'{name}, {n:,}' for name in ('token', 'exact') for n in sizes], rows)}"
    )


def single(numbers: Summary, editors: Sequence[str]) -> str:
    """The five metrics at the largest N."""
    found = scores(numbers)
    last = max(n for _, n, _, _ in found)
    rows = [
        (
            editor,
            [[found.get((editor, last, metric, score)) for score in SCORES] for metric in AVERAGED],
        )
        for editor in editors
    ]
    return (
        f"The five metrics after {last:,} edits, token accuracy / exact match:\n\n"
        f"{table([label(metric) for metric in AVERAGED], rows)}"
    )


def beside_sound(released: Iterable[Record], sound: Iterable[Record]) -> Summary:
    """The averages of the released forms and of the sound version of each of their methods, on the
    same seeds.
    """
    records = list(released)
    seeds, methods = (
        {record.seed for record in records},
        {sound_form(record.editor) for record in records},
    )
    both = summary(
        records + [record for record in sound if record.seed in seeds and record.editor in methods]
    )
    rows = [row for row in both["rows"] if row["metric"] == "average"]
    return {"rows": rows, "firing": [], "cost": [], "forgetting": []}


def sound_form(label: str) -> str:
    """The method whose released form is called ``label``: METHOD-FORM."""
    return label.rpartition("-")[0]


def paired(numbers: Summary) -> str:
    """The averages of the released forms, each above the sound version of its method."""
    editors = {editor for editor, *_ in scores(numbers)}
    forms = sorted(editor for editor in editors if sound_form(editor) in editors)
    return averages(numbers, [editor for form in forms for editor in (form, sound_form(form))])


def last(editor: str) -> tuple[int, str]:
    """What to sort editors by: the published LiveEdit and ours behind their rivals."""
    return LAST.index(editor) if editor in LAST else -1, editor


def figures(numbers: Summary, bench: dict[str, float]) -> dict[str, Callable[..., Any]]:
    """What the templates may call for a figure: all are in percent, and a dash where nothing was
    measured.
    """
    found = scores(numbers)
    firing = {
        (row["editor"], row["edits"], row["metric"]): row["fired"] for row in numbers["firing"]
    }

    def value(editor: str, edits: int, metric: str, score: str) -> str:
        row = found.get((editor, edits, metric, score))
        return f"{100 * row['value']:.1f}" if row else "–"

    def token(editor: str, edits: int, metric: str = "average") -> str:
        return value(editor, edits, metric, "token_accuracy")

    def exact(editor: str, edits: int, metric: str = "average") -> str:
        return value(editor, edits, metric, "exact_match")

    def course(editor: str, *sizes: int) -> str:
        return " / ".join(token(editor, n) for n in sizes or (1, 10, 100, 1000))

    def right(editor: str, edits: int, metric: str) -> str:
        row = found.get((editor, edits, metric, "exact_match"))
        return f"{round(row['value'] * row['n'])} of {row['n']}" if row else "–"

    def fires(editor: str, edits: int, metric: str) -> str:
        share = firing.get((editor, edits, metric))
        return "–" if share is None else f"{100 * share:.0f} %"

    def measured(editor: str) -> bool:
        return any(name == editor for name, *_ in found)

    def speed(name: str) -> str:
        return f"{bench[name]:.2f}"

    return {
        "token": token, "exact": exact, "course": course, "right": right, "fires": fires, "measured": measured,
        "speed": speed,
    }  # fmt: skip


def written(root: Path) -> dict[Path, str]:
    """The pages by their paths, from the summaries in ``docs/explanation/results`` of ``root``."""
    docs = root / "docs"
    numbers = stored(docs / "results" / "emblem.json")
    known = figures(numbers, stored(docs / "results" / "bench.json"))
    editors = sorted({editor for editor, *_ in scores(numbers)}, key=last)
    tabled = {"averages": averages(numbers, editors), "single": single(numbers, editors)}
    old = (root / "README.md").read_text(encoding="utf-8")
    results = filled(TEMPLATES.get_template("readme.md.j2").render(known | tabled))
    readme = RESULTS.sub(lambda found: f"{found[1]}\n{results}\n{found[2]}", old)
    released = paired(stored(docs / "results" / "released.json"))
    return {
        root / "README.md": readme,
        docs / "results.md": filled(
            TEMPLATES.get_template("results.md.j2").render(known | {"released": released})
        ),
        docs / "results" / "emblem.md": markdown(tables(numbers)),
    }


def filled(page: str) -> str:
    """The page with its paragraphs of prose in lines of one width, whatever their figures are."""
    return "\n\n".join(
        text
        if re.match(r"[|#<\- ]", text) or "\n|" in text
        else fill(text, 120, break_on_hyphens=False)
        for text in page.split("\n\n")
    )


def stored(file: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=Path, nargs="?")
    parser.add_argument(
        "--released", type=Path, help="folder with the records of the released forms"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with README.md and docs")
    args = parser.parse_args()
    folder = args.root / "docs" / "explanation" / "results"
    if args.records:
        (folder / "emblem.json").write_bytes(as_json(summary(read_records(args.records))))
    if args.records and args.released:
        both = beside_sound(read_records(args.released), read_records(args.records))
        (folder / "released.json").write_bytes(as_json(both))
    for page, text in written(args.root).items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
