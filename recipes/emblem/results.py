"""Put the results of the lifelong test into the README, and all tables into the docs.

    liveedit eval --editors all --out runs/emblem/seed-0 --max-cases 1000 --seed 0
    python recipes/emblem/results.py runs/emblem

The folder holds the records of any number of editors, N and seeds, in any sub-folders. Copies ``summary.json`` and
``table.md`` to ``docs/results/emblem.*`` and writes two small tables between the README's markers: the average of the
five metrics at each N in both scores, and the five at the largest N. Nothing is typed by hand.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from liveedit.report import Summary, read_records, summary, tables
from liveedit.report.scores import AVERAGED, ScoreRow, as_json
from liveedit.report.table import label, markdown

ROOT = Path(__file__).parents[2]
MARKS = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- results end -->)", re.DOTALL)
SCORES = ("token_accuracy", "exact_match")


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


def readme_tables(numbers: Summary, data: str) -> str:
    """Both tables of one benchmark."""
    rows = [row for row in numbers["rows"] if (row["data"], row["protocol"]) == (data, "windows")]
    found = {(row["editor"], row["edits"], row["metric"], row["score"]): row for row in rows}
    editors, sizes = list(dict.fromkeys(r["editor"] for r in rows)), sorted({row["edits"] for row in rows})
    editors.sort(key=lambda editor: (editor == "liveedit", editor))
    last, seeds = sizes[-1], max(row["seeds"] for row in rows)
    averages = [
        (editor, [[found.get((editor, n, "average", score))] for score in SCORES for n in sizes]) for editor in editors
    ]
    single = [
        (editor, [[found.get((editor, last, metric, score)) for score in SCORES] for metric in AVERAGED])
        for editor in editors
    ]
    heads = [f"{name}, {n:,}" for name in ("token", "exact") for n in sizes]
    over = f"{seeds} seeds × cases" if seeds > 1 else "cases"
    return (
        f"Average of the five metrics after {', '.join(f'{n:,}' for n in sizes)} edits, in percent: token accuracy, then\n"
        f"exact match; ± is half the width of a 95 % interval over {over}.\n\n{table(heads, averages)}\n"
        f"The five metrics after {last:,} edits, token accuracy / exact match:\n\n"
        f"{table([label(metric) for metric in AVERAGED], single)}"
    )


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with README.md and docs")
    args = parser.parse_args()
    numbers = summary(read_records(args.records))
    kept = args.root / "docs" / "results"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "emblem.json").write_bytes(as_json(numbers))
    (kept / "emblem.md").write_text(markdown(tables(numbers)), encoding="utf-8")
    readme, text = args.root / "README.md", readme_tables(numbers, "emblem")
    readme.write_text(
        MARKS.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", readme.read_text(encoding="utf-8")),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
