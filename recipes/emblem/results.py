"""Put the results of the lifelong test into the README, and all tables into the docs.

    liveedit eval --editors all --out runs/emblem/seed-0 --max-cases 60 --ask 60 --seed 0    # and the other seeds
    liveedit eval --editors NAME=FOLDER,… --out runs/released --max-cases 60 --ask 60        # as released.py prints them
    python recipes/emblem/results.py runs/emblem [--released runs/released]

The folder holds the records of any number of editors, N and seeds, in any sub-folders. Copies ``summary.json`` and
``table.md`` to ``docs/results/emblem.*`` and writes two small tables between the README's markers: the average of the
five metrics at each N in both scores, and the five at the largest N. With ``--released`` writes a third one, the
methods' released forms above the sound ones on the same seeds, between the markers of ``docs/results.md``. Nothing is
typed by hand.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from liveedit.report import Summary, read_records, summary, tables
from liveedit.report.columns import LAST
from liveedit.report.scores import AVERAGED, ScoreRow, as_json
from liveedit.report.table import label, markdown
from liveedit.types import Record

ROOT = Path(__file__).parents[2]
MARKS = re.compile(r"(<!-- (?:results|released): .*? -->\n).*?(<!-- (?:results|released) end -->)", re.DOTALL)
SCORES = ("token_accuracy", "exact_match")
DATA = "emblem"


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[ScoreRow | None]]]]) -> str:
    """Markdown: a row an editor; a cell holds one number or several between slashes, the best of a column is bold."""
    best = [
        [max((row["value"] for row in place if row), default=None) for place in zip(*cells, strict=True)]
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
            " / ".join(text(row, top, spread=len(cell) == 1) for row, top in zip(cell, tops, strict=True))
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
        (editor, [[found.get((editor, n, "average", score))] for score in SCORES for n in sizes]) for editor in editors
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
        (editor, [[found.get((editor, last, metric, score)) for score in SCORES] for metric in AVERAGED])
        for editor in editors
    ]
    return (
        f"The five metrics after {last:,} edits, token accuracy / exact match:\n\n"
        f"{table([label(metric) for metric in AVERAGED], rows)}"
    )


def beside_sound(released: Iterable[Record], sound: Iterable[Record]) -> str:
    """The averages of the released forms, each above the sound version of its method on the same seeds."""
    records = list(released)
    seeds, forms = {record.seed for record in records}, sorted({record.editor for record in records})
    methods = {form: form.rpartition("-")[0] for form in forms}
    records += [record for record in sound if record.seed in seeds and record.editor in methods.values()]
    return averages(summary(records), [editor for form in forms for editor in (form, methods[form])])


def last(editor: str) -> tuple[int, str]:
    """What to sort editors by: the published LiveEdit and ours behind their rivals."""
    return LAST.index(editor) if editor in LAST else -1, editor


def put(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``."""
    old = page.read_text(encoding="utf-8")
    page.write_text(MARKS.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", old), encoding="utf-8")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--released", type=Path, help="folder with the records of the released forms")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with README.md and docs")
    args = parser.parse_args()
    numbers, docs = summary(read_records(args.records)), args.root / "docs"
    (docs / "results").mkdir(parents=True, exist_ok=True)
    (docs / "results" / "emblem.json").write_bytes(as_json(numbers))
    (docs / "results" / "emblem.md").write_text(markdown(tables(numbers)), encoding="utf-8")
    editors = sorted({editor for editor, *_ in scores(numbers)}, key=last)
    put(args.root / "README.md", f"{averages(numbers, editors)}\n{single(numbers, editors)}")
    if args.released:
        put(docs / "results.md", beside_sound(read_records(args.released), read_records(args.records)))


if __name__ == "__main__":
    main()
