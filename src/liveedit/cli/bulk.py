"""`liveedit edit --from FILE`: make all corrections of a file, one after another.

Each correction is kept by itself, and one that is in force already is not made again, so the same
command goes on where it was stopped.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import track

from liveedit.cli.display import shown
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.data.corrections import Correction
    from liveedit.editable import EditableVLM

__all__ = ["Reporter", "edit_all"]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome for one row of the file.

    Arguments:
        line: Line of the file, or place in a list of JSON.
        state: What became of it.
        question: The question.
        answer: The answer to give.
        id: Id of the edit; empty for a row that was skipped.
        before: The answer before.
        after: The answer after.
        took: Whether that is the one to give.
        paraphrases: How many paraphrases the row gives.
        follow: How many of them get that answer, too.
        reason: Why the row was skipped.
    """

    line: int
    state: Literal["made", "there already", "skipped"]
    question: str = ""
    answer: str = ""
    id: str = ""
    before: str = ""
    after: str = ""
    took: bool | None = None
    paraphrases: int = 0
    follow: int = 0
    reason: str = ""

    def text(self, unit: str) -> str:
        """The report as a line of text; ``unit`` is what ``line`` counts."""
        row = f"{unit} {self.line}"
        if self.state == "skipped":
            return f"{row}: skipped, {self.reason}"
        if self.state == "there already":
            return f"{row}: {self.id} is there already"
        failed = "" if self.took else f", but the answer is {self.after}"
        made = f"{row}: {self.id}, {self.before} → {self.answer}{failed}"
        if not self.paraphrases:
            return made
        return f"{made}; {self.follow} of {self.paraphrases} paraphrases get the answer"


@dataclass(frozen=True, slots=True)
class Reporter:
    """Prints reports, for people or as one line of JSON each."""

    as_json: bool
    quiet: bool

    def show(self, report: Report, unit: str) -> None:
        """Print a report; ``unit`` is what its line counts."""
        if self.as_json:
            print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
        elif not self.quiet:
            Console(soft_wrap=True, highlight=False).print(shown(report.text(unit)))

    def show_sum(self, counts: Counter[str]) -> None:
        """Print how many rows became what."""
        if not self.as_json and not self.quiet:
            print(", ".join(f"{count:,} {state}" for state, count in counts.items()))


def edit_all(
    file: Path,
    open_model: "Callable[[], EditableVLM]",
    reporter: Reporter,
    *,
    origin: tuple[str, str],
    skip_bad: bool,
    max_new_tokens: int,
) -> bool:
    """Make the corrections of a file, report each, and return whether all of them took.

    ``origin`` says who made them and why, where a row does not. Without ``skip_bad`` a bad row
    raises :class:`BadInput`, before anything is changed if the file alone shows it.
    """
    from liveedit.data.corrections import read_corrections

    found = read_corrections(file)
    if not skip_bad:
        found.check()
    edited = open_model()
    counts: Counter[str] = Counter()
    took = True
    for row in track(found.rows, "editing", console=Console(stderr=True), transient=True):
        try:
            report = _made(edited, row, origin, max_new_tokens)
        except BadInput as error:
            if not skip_bad:
                raise BadInput(f"{file}, {row.unit} {row.line}: {error}") from None
            report = Report(row.line, "skipped", reason=str(error))
        counts[report.state] += 1
        took = took and report.took is not False
        reporter.show(report, row.unit)
    for bad in found.bad:
        counts["skipped"] += 1
        reporter.show(Report(bad.line, "skipped", reason=bad.message), bad.unit)
    if found.left_out:
        counts["without a correction"] = found.left_out
    reporter.show_sum(counts)
    return took


def _made(
    edited: "EditableVLM", row: "Correction", origin: tuple[str, str], max_new_tokens: int
) -> Report:
    """Make one correction, unless it is in force already."""
    query = replace(row.query, wordings=row.paraphrases)
    texts = (query.prompt, query.target)
    known = edited.edit_of(query)
    if known and known.target == query.target:
        return Report(row.line, "there already", *texts, known.id)
    who, why = origin
    [before] = edited.generate(query, max_new_tokens=max_new_tokens)
    [made] = edited.edit(query, who=row.who or who, why=row.why or why)
    [after] = edited.generate(query, max_new_tokens=max_new_tokens)
    asked = [replace(query, prompt=wording) for wording in row.paraphrases]
    follow = sum(edited.pool.took(asked, asked))
    return Report(row.line, "made", *texts, made.id, before, after, made.took, len(asked), follow)
