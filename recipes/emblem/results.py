"""Put the results of the lifelong test into the README, and keep their summary.

    liveedit eval --out runs/emblem --max-cases 1000
    python recipes/emblem/results.py runs/emblem

Copies ``summary.json`` and ``table.md`` to ``docs/results`` and writes the main tables between the README's markers.
Nothing is typed by hand.
"""

import re
import sys
from pathlib import Path

from liveedit.report import read_records, summary, tables
from liveedit.report.scores import as_json
from liveedit.report.table import markdown

ROOT = Path(__file__).parents[2]
MARKS = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- results end -->)", re.DOTALL)
SHOWN = ("Token accuracy (teacher-forced)", "Exact match (free generation)")
"""The tables that the README shows: the main one in both scores."""


def main() -> None:
    """Write the three files."""
    numbers = summary(read_records(sys.argv[1]).records)
    kept = ROOT / "docs" / "results"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "emblem.json").write_bytes(as_json(numbers))
    (kept / "emblem.md").write_text(markdown(tables(numbers)), encoding="utf-8")
    readme = ROOT / "README.md"
    text = markdown(table for table in tables(numbers) if table.title in SHOWN).partition("### ")[2]
    readme.write_text(
        MARKS.sub(lambda found: f"{found[1]}\n### {text}\n{found[2]}", readme.read_text(encoding="utf-8")),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
