"""Put the results of the lifelong test into the README and the docs: tables and figures in prose.

    liveedit eval --editors all --out runs/emblem/seed-0 --max-cases 60 --ask 60 --seed 0
    liveedit eval --editors NAME=FOLDER,… --out runs/released --max-cases 60 --ask 60
    python recipes/emblem/results.py runs/emblem [--released runs/released]
    python recipes/emblem/results.py

The first command is repeated for the other seeds; the second takes the list that ``released.py``
prints; the last one writes the pages anew from the summaries alone.

The folder holds the records of any number of editors, N and seeds, in any sub-folders; the numbers
of editors that are not among them stay. Written are ``docs/explanation/results/emblem.json``, the
summary, and from it ``emblem.md`` and ``index.md``
beside it, and the part of the README between its markers. The text stands in ``pages/``, with a
call in the place of each figure. With ``--released`` the baselines' original forms, above the
default forms on the same seeds, go to ``released.json`` and into ``index.md``. The table of
artists whom nothing has seen comes from ``outsiders.json``, which ``outsiders.py`` writes. Nothing
is typed by hand.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from textwrap import fill
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from liveedit.measures.metrics import AVERAGED, label
from liveedit.report import Summary, read_records, summary, tables
from liveedit.report.scores import ScoreRow, as_json
from liveedit.report.table import markdown
from liveedit.types import Record

ROOT = Path(__file__).parents[2]
RESULTS = Path("docs", "explanation", "results")
SHORT = (1, 1000)
"""Numbers of edits in the table of the README."""
WIDTH = 100
MARKED = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- results end -->)", re.DOTALL)
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # the pages are Markdown
)
SCORES = ("token_accuracy", "exact_match")
HEADS = {"token_accuracy": "token", "exact_match": "exact"}
LAST = ("liveedit", "direct", "pinpoint")
"""Editors behind all others in the tables: the published method, and the package's own."""
DATA = "emblem"


Cell = Sequence[ScoreRow | None]
"""The scores that share a cell of a table."""


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Markdown: a row per editor; a cell holds one number or several between slashes.

    The best of a column is bold.
    """
    best = [best_of(column) for column in zip(*(cells for _, cells in rows), strict=True)]
    if len(rows) == 1:
        best = [[None for _ in tops] for tops in best]
    lines = [["Editor", *heads], [":---", *["---:"] * len(heads)]]
    for editor, cells in rows:
        lines.append([editor, *map(shown, cells, best)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def best_of(column: Sequence[Cell]) -> list[float | None]:
    """The highest value at each place of the cells of a column."""
    places = zip(*column, strict=True)
    return [max((row["value"] for row in place if row), default=None) for place in places]


def shown(cell: Cell, best: Sequence[float | None]) -> str:
    """The text of a cell; a single number has its interval."""
    numbers = [number(row, top) for row, top in zip(cell, best, strict=True)]
    if len(cell) == 1 and cell[0]:
        numbers[0] += f" ± {50 * (cell[0]['high'] - cell[0]['low']):.1f}"
    return " / ".join(numbers)


def number(row: ScoreRow | None, best: float | None) -> str:
    """A score in percent, bold if it is the best."""
    if row is None:
        return "–"
    value = f"{100 * row['value']:.1f}"
    return f"**{value}**" if row["value"] == best else value


def scores(numbers: Summary) -> dict[tuple[str, int, str, str], ScoreRow]:
    """The scores of the windows protocol by editor, N, metric and score."""
    return {
        (row["editor"], row["edits"], row["metric"], row["score"]): row
        for row in numbers["rows"]
        if (row["data"], row["protocol"]) == (DATA, "windows")
    }


def averages(numbers: Summary, editors: Sequence[str], sizes: Sequence[int] = ()) -> str:
    """The average of the five metrics at each N, with its caption; all N if none is given."""
    found = scores(numbers)
    sizes = sizes or sorted({n for _, n, _, _ in found})
    places = list(product(SCORES, sizes))
    rows = []
    for editor in editors:
        cells = [[found.get((editor, n, "average", score))] for score, n in places]
        rows.append((editor, cells))
    heads = [f"{HEADS[score]}, {n:,}" for score, n in places]
    return f"{caption(numbers, sizes)}\n\n{table(heads, rows)}"


def caption(numbers: Summary, sizes: Sequence[int]) -> str:
    """The line above a table of averages."""
    seeds = max(row["seeds"] for row in scores(numbers).values())
    over = f"{seeds} seeds × cases" if seeds > 1 else "cases"
    return (
        f"Average of the five metrics after {listed(sizes)} edits, in percent: token accuracy, "
        f"then exact match; ± is half the width of a 95 % interval over {over}."
    )


def listed(sizes: Sequence[int]) -> str:
    """Numbers as a sentence lists them."""
    *first, last = (f"{n:,}" for n in sizes)
    return f"{', '.join(first)} and {last}" if first else last


def single(numbers: Summary, editors: Sequence[str]) -> str:
    """The five metrics at the largest N."""
    found = scores(numbers)
    last = max(n for _, n, _, _ in found)
    rows = []
    for editor in editors:
        cells = []
        for metric in AVERAGED:
            cells.append([found.get((editor, last, metric, score)) for score in SCORES])
        rows.append((editor, cells))
    return (
        f"The five metrics after {last:,} edits, token accuracy / exact match:\n\n"
        f"{table([label(metric) for metric in AVERAGED], rows)}"
    )


def beside_default(released: Iterable[Record], default: Iterable[Record]) -> Summary:
    """The averages of the released forms and of their methods' default forms, on the same seeds."""
    records = list(released)
    seeds = {record.seed for record in records}
    methods = {default_form(record.editor) for record in records}
    same = [record for record in default if record.seed in seeds and record.editor in methods]
    both = summary(records + same, LAST)
    rows = [row for row in both["rows"] if row["metric"] == "average"]
    return {"rows": rows, "firing": [], "cost": [], "forgetting": []}


def with_others(new: Summary, old: Summary) -> Any:
    """The new numbers, and the old ones of editors that are not among them."""
    measured = {row["editor"] for row in new["rows"]}
    parts: Mapping[str, Any] = new
    former: Mapping[str, Any] = old
    merged = {}
    for name, rows in parts.items():
        kept = [row for row in former[name] if row["editor"] not in measured]
        merged[name] = sorted([*kept, *rows], key=group_of)
    return merged


def group_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Key that sorts the rows of a summary by data, protocol, N and editor."""
    return row["data"], row["protocol"], row.get("edits", 0), last(row["editor"])


def default_form(label: str) -> str:
    """The method whose released form is called ``label``: METHOD-FORM."""
    return label.rpartition("-")[0]


def paired(numbers: Summary) -> str:
    """The averages of the released forms, each above the default form of its method."""
    editors = {editor for editor, *_ in scores(numbers)}
    forms = sorted(editor for editor in editors if default_form(editor) in editors)
    order = chain.from_iterable((form, default_form(form)) for form in forms)
    return averages(numbers, list(order))


def last(editor: str) -> tuple[int, str]:
    """Key that sorts editors: the published LiveEdit and this package's method come last."""
    return LAST.index(editor) if editor in LAST else -1, editor


def figures(numbers: Summary, bench: dict[str, float]) -> dict[str, Callable[..., Any]]:
    """Functions that templates call for a figure: in percent, a dash where nothing was measured."""
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
        "token": token, "exact": exact, "course": course, "right": right, "fires": fires,
        "measured": measured, "speed": speed,
    }  # fmt: skip


def outsiders(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each artist and sort: drawings, those recognised, and of these those edited."""
    editors = sorted(found, key=last)
    lines = [
        ["artist", "sort", "drawings", "recognised", *editors],
        [":---", ":---", *["---:"] * (2 + len(editors))],
    ]
    for rows in zip(*(found[editor] for editor in editors), strict=True):
        one = rows[0]
        shares = [share(row["edited_of_recognised"], row["recognised"]) for row in rows]
        counts = [str(one["drawings"]), share(one["recognised"], one["drawings"])]
        lines.append([one["artist"], one["sort"], *counts, *shares])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def share(part: int, whole: int) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.0f}" if whole else "–"


def written(root: Path) -> dict[Path, str]:
    """The pages by their paths, from the summaries in ``docs/explanation/results`` of ``root``."""
    folder = root / RESULTS
    numbers = kept(folder / "emblem.json")
    editors = sorted({editor for editor, *_ in scores(numbers)}, key=last)
    known = figures(numbers, stored(folder / "bench.json")) | {
        "averages": averages(numbers, editors),
        "single": single(numbers, editors),
        "short": averages(numbers, editors, SHORT),
        "released": paired(stored(folder / "released.json")),
        "outsiders": outsiders(stored(folder / "outsiders.json")),
    }
    part = page("readme.md.j2", known)
    old = (root / "README.md").read_text(encoding="utf-8")
    return {
        root / "README.md": MARKED.sub(lambda found: f"{found[1]}\n{part}\n{found[2]}", old),
        folder / "index.md": page("results.md.j2", known),
        folder / "emblem.md": markdown(tables(numbers)),
    }


def page(template: str, known: Mapping[str, Any]) -> str:
    """A template filled in, with its prose in lines of one width, whatever its figures are."""
    text = TEMPLATES.get_template(template).render(known)
    return "\n\n".join(map(wrapped, text.split("\n\n")))


def wrapped(part: str) -> str:
    """A paragraph in lines of one width; tables, headings, blocks and comments as they are."""
    if re.match(r"[|#<`\- ]", part) or "\n|" in part:
        return part
    return fill(part, WIDTH, break_on_hyphens=False)


def stored(file: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def as_columns(made: Mapping[str, Any]) -> str:
    """A summary as JSON that names the columns once, which takes a third of the bytes."""
    parts = []
    for name, rows in made.items():
        columns = list(rows[0]) if rows else []
        lines = [[row[column] for column in columns] for row in rows]
        table = ",\n".join(map(in_short, [columns, *lines]))
        parts.append(f'"{name}": [\n{table}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def in_short(line: Sequence[Any]) -> str:
    """A list as JSON without blanks."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def kept(file: Path) -> Any:
    """The summary that :func:`as_columns` wrote."""
    found = dict[str, list[dict[str, Any]]]()
    for name, (columns, *lines) in stored(file).items():
        found[name] = [dict(zip(columns, line, strict=True)) for line in lines]
    return found


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
    folder = args.root / RESULTS
    if args.records:
        new = summary(read_records(args.records), LAST)
        if (folder / "emblem.json").exists():
            new = with_others(new, kept(folder / "emblem.json"))
        (folder / "emblem.json").write_text(as_columns(new), encoding="utf-8")
    if args.records and args.released:
        both = beside_default(read_records(args.released), read_records(args.records))
        (folder / "released.json").write_bytes(as_json(both))
    for page, text in written(args.root).items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
