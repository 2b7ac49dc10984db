"""Tables in the form of the papers, to be put beside theirs: Markdown, CSV and LaTeX.

- LiveEdit's Table 1: a row per (edits, editor); Rel, T-Gen, I-Gen (there M-Gen), T-Loc, I-Loc (there M-Loc), Average.
- VLKEB's Table 2: a row an editor, a table for each N (there one edit); Rel, T-Gen, I-Gen, T-Loc, I-Loc, Port.

Each comes in two scores, token accuracy and exact match. The papers do not mean the same by
locality, and each table has its own paper's: the first counts the best token at the answer's
positions, the second at all positions the best token for text and the ten best by rank for images.
± is half the width of the 95 % interval; what it is in LiveEdit's Table 1 the paper does not say.
The best of several editors at one N is bold.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from liveedit.report.scores import AVERAGED, Summary
from liveedit.report.table import (
    Cell,
    Line,
    Table,
    best_marked,
    csv_text,
    label,
    markdown_table,
    score_label,
    settings,
    size_heading,
    titled,
)

__all__ = ["latex", "liveedit_tables", "paper_files", "vlkeb_tables"]

PORT = "portability_1hop"
LOCALITY = {
    "token_accuracy": "Locality: the best token at the answer's positions.",
    "exact_match": "Locality: the free answer is the unedited model's.",
}
VLKEB_LOCALITY = {
    "token_accuracy": "Locality at all positions: the best token (T-Loc), the ten best by rank (I-Loc). Port: one hop.",
    "exact_match": "Locality: the free answer is the unedited model's. Port: one hop.",
}


def liveedit_tables(summary: Summary, score: str) -> list[Table]:
    """LiveEdit's Table 1 in one score, for each benchmark and protocol."""
    columns = [(metric, score, label(metric)) for metric in (*AVERAGED, "average")]
    return [
        table
        for data, protocol in settings(summary)
        if (table := _table(summary, data, protocol, score, columns, LOCALITY[score])).lines
    ]


def vlkeb_tables(summary: Summary, score: str) -> list[Table]:
    """VLKEB's Table 2 in one score, for each benchmark, protocol and N."""
    locality = (
        {"text_locality": "top1_kept", "image_locality": "top10_rank"}
        if score == "token_accuracy"
        else {}
    )
    columns = [(metric, locality.get(metric, score), label(metric)) for metric in AVERAGED]
    columns += [(PORT, score, "Port")]
    found = []
    for data, protocol in settings(summary):
        whole = _table(summary, data, protocol, score, columns, VLKEB_LOCALITY[score])
        for edits, lines in groupby(whole.lines, lambda line: line.edits):
            title = f"{whole.title}, {whole.size} = {edits:,}"
            found.append(
                Table(
                    whole.kind,
                    title,
                    whole.note,
                    data,
                    protocol,
                    score,
                    whole.columns,
                    tuple(lines),
                    whole.size,
                )
            )
    return found


def _table(
    summary: Summary,
    data: str,
    protocol: str,
    score: str,
    columns: Sequence[tuple[str, str, str]],
    note: str,
) -> Table:
    """The (metric, score, heading) ``columns``, a line per (edits, editor) that has a number in one
    of them.
    """
    numbers = {
        (row["edits"], row["editor"], row["metric"], row["score"]): row
        for row in summary["rows"]
        if (row["data"], row["protocol"]) == (data, protocol)
    }
    names = [metric if own == score else f"{metric}_{own}" for metric, own, _ in columns]

    def cell(edits: int, editor: str, name: str, metric: str, own: str) -> Cell:
        row = numbers.get((edits, editor, metric, own))
        return Cell(name, row["value"], row["low"], row["high"]) if row else Cell(name)

    lines = [
        Line(
            *key,
            tuple(
                cell(*key, name, *column[:2]) for name, column in zip(names, columns, strict=True)
            ),
        )
        for key in dict.fromkeys(key[:2] for key in numbers)
    ]
    held = best_marked(
        [line for line in lines if any(cell.value is not None for cell in line.cells)]
    )
    title = f"{data}: {titled(score_label(score), protocol)}"
    named = tuple(zip(names, (heading for *_, heading in columns), strict=True))
    note = f"Percent, ± half the width of the 95 % interval. {note}"
    return Table("main", title, note, data, protocol, score, named, held, size_heading(protocol))


def paper_files(summary: Summary) -> dict[str, bytes]:
    """The content of each file by its name: two papers, two scores, three formats."""
    papers: Mapping[str, Callable[[Summary, str], list[Table]]] = {
        "liveedit-table1": liveedit_tables,
        "vlkeb-table2": vlkeb_tables,
    }
    contents = {}
    for paper, made_of in papers.items():
        for score in LOCALITY:
            made, name = made_of(summary, score), f"{paper}-{score.replace('_', '-')}"
            contents[f"{name}.md"] = "\n".join(
                markdown_table(table, _plus_minus) for table in made
            ).encode()
            contents[f"{name}.csv"] = csv_text(made).encode()
            contents[f"{name}.tex"] = "\n".join(map(latex, made)).encode()
    return contents


def _plus_minus(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return text if cell.spread is None else f"{text} ± {100 * cell.spread:.1f}"


def latex(table: Table) -> str:
    """``table`` as a LaTeX table, for which the preamble has to load booktabs."""
    by_size = [list(lines) for _, lines in groupby(table.lines, lambda line: line.edits)]
    groups = [
        "".join(f"{_latex_line(line, i == 0)}\n" for i, line in enumerate(lines))
        for lines in by_size
    ]
    body = "\\midrule\n".join(groups)
    head = [
        _latex(heading)
        for heading in (table.size, "Editor", *(heading for _, heading in table.columns))
    ]
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_latex(f'{table.title}. {table.note}')}}}\n"
        f"\\begin{{tabular}}{{rl{'c' * len(table.columns)}}}\n\\toprule\n"
        f"{' & '.join(head)} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_line(line: Line, first: bool) -> str:
    """N stands in the first line of its group."""
    cells = [f"{line.edits:,}" if first else "", _latex(line.editor), *map(_latex_cell, line.cells)]
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell) -> str:
    text = "--" if cell.value is None else f"\\textbf{{{cell.text}}}" if cell.best else cell.text
    return text if cell.spread is None else f"{text}{{\\scriptsize $\\pm${100 * cell.spread:.1f}}}"


def _latex(text: str) -> str:
    """``text`` with what LaTeX reads as a command written out."""
    return " ".join(text.split()).translate(_LATEX)


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "±": "$\\pm$",
    }
    | {"<": "\\textless{}", ">": "\\textgreater{}", "–": "--"}
)
