"""`liveedit edit --from FILE`: make all corrections of a file, one after another.

Each correction is kept by itself, and one that is in force already is not made again, so the same
command goes on where it was stopped. Of rows that give one question different answers the last
counts, and those before it are not made.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import track

from liveedit.cli.display import shown
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.data.corrections import Correction, Corrections
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
        supersedes: Id of the edit in force that it superseded.
        by: Line that gives the question of this row, which was not made, another answer.
    """

    line: int
    state: Literal["made", "there already", "skipped", "superseded"]
    question: str = ""
    answer: str = ""
    id: str = ""
    before: str = ""
    after: str = ""
    took: bool | None = None
    paraphrases: int = 0
    follow: int = 0
    reason: str = ""
    supersedes: str = ""
    by: int | None = None

    def text(self, unit: str) -> str:
        """The report as a line of text; ``unit`` is what ``line`` counts."""
        row = f"{unit} {self.line}"
        if self.state == "skipped":
            return f"{row}: skipped, {self.reason}"
        if self.state == "there already":
            return f"{row}: {self.id} is there already"
        if self.state == "superseded":
            return f"{row}: not made, {unit} {self.by} gives this question another answer"
        failed = "" if self.took else f", but the answer is {self.after}"
        made = f"{row}: {self.id}, {self.before} → {self.answer}{failed}"
        if self.supersedes:
            made += f"; supersedes {self.supersedes}"
        if not self.paraphrases:
            return made
        return f"{made}; {self.follow} of {self.paraphrases} paraphrases get the answer"


@dataclass(frozen=True, slots=True)
class Reporter:
    """Prints reports, for people or as one line of JSON each.

    If ``quiet``, only those of rows that are skipped, as errors.
    """

    as_json: bool
    quiet: bool

    def show(self, report: Report, unit: str) -> None:
        """Print a report; ``unit`` is what its line counts."""
        if self.as_json:
            print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
        elif not self.quiet or report.state == "skipped":
            console = Console(soft_wrap=True, highlight=False, stderr=self.quiet)
            console.print(shown(report.text(unit)))

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

    ``origin`` says who made them and why, where a row does not. Without ``skip_bad`` bad rows raise
    :class:`BadInput` before anything is changed: those that no model takes, and those that this one
    or its editor refuses.
    """
    from liveedit.data.corrections import read_corrections

    found = read_corrections(file)
    if not skip_bad:
        found.check()
    edited = open_model()
    found = _without_refused(edited, found)
    if not skip_bad:
        found.check()
    superseded = _superseded(found.rows)
    counts: Counter[str] = Counter()
    took = True
    for row in _tracked(found.rows, "editing"):
        try:
            if by := superseded.get(row.line):
                report = _not_made(row, by)
            else:
                report = _made(edited, row, origin, max_new_tokens)
        except BadInput as error:
            if not skip_bad:
                raise BadInput(f"{found.title}, {row.unit} {row.line}: {error}") from None
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


def _tracked(rows: "Sequence[Correction]", work: str) -> "Iterable[Correction]":
    """The rows, with a bar of progress on a terminal."""
    console = Console(stderr=True)
    return track(rows, work, console=console, transient=True, disable=not console.is_terminal)


def _without_refused(edited: "EditableVLM", found: "Corrections") -> "Corrections":
    """The corrections, with the rows that the model or its editor refuses among the bad ones."""
    from liveedit.data.corrections import BadRow

    good = []
    bad = list(found.bad)
    for row in _tracked(found.rows, "checking"):
        try:
            edited.editor.check(row.query)
            edited.vlm.check_target(row.query.target)
            with edited.vlm.unpatched():
                edited.vlm.encode([row.query], eos=True)
        except BadInput as error:
            bad.append(BadRow(row.line, str(error), row.unit))
        else:
            good.append(row)
    bad.sort(key=attrgetter("line"))
    return replace(found, rows=tuple(good), bad=tuple(bad))


def _superseded(rows: "Sequence[Correction]") -> dict[int, int]:
    """The lines whose question a later line gives another answer, and the last line of it."""
    from liveedit.editors.common.precedence import question_number

    numbers = [question_number(row.query) for row in rows]
    last = dict(zip(numbers, rows, strict=True))
    return {
        row.line: last[number].line
        for row, number in zip(rows, numbers, strict=True)
        if row.query.target != last[number].query.target
    }


def _not_made(row: "Correction", by: int) -> Report:
    """The report on a row that another line supersedes."""
    return Report(row.line, "superseded", row.query.prompt, row.query.target, by=by)


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
    return Report(
        row.line, "made", *texts, made.id, before, after, made.took, len(asked), follow,
        supersedes=known.id if known else "",
    )  # fmt: skip
