"""`liveedit explain`, `try`, `check`: what the edits do, and what one more would do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from liveedit.cli.display import interrupt_message, print_json, shown
from liveedit.cli.opening import DEFAULT, NOT_TAKEN, UNCHANGED, Setup, Where, note, open_edited
from liveedit.cli.options import AsJson, Loading, MaxTokens, Question, path, with_groups
from liveedit.types import Query

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM
    from liveedit.steering.checking import Finding
    from liveedit.steering.checking import Progress as Watcher
    from liveedit.steering.explaining import Explanation, Firing
    from liveedit.steering.trying import Trial

__all__ = ["check", "explain", "try_edit"]

FOUND = 4
"""Exit status of a check that has findings."""


@with_groups
def explain(
    *,
    question: Question,
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
    as_json: AsJson = False,
) -> None:
    """Show why the model answers as it does: which edits fired, or nearly did, with scores.

    An edit fires only if its scores by the image and by the question exceed their thresholds.
    """
    query = question.query()
    with interrupt_message(UNCHANGED):
        edited = open_edited(store, setup, loading, create=False)
        found = edited.explain(query, max_new_tokens=max_new_tokens)
    if as_json:
        print_json({"question": query.prompt, **_explanation(found)})
    else:
        _print_explanation(found)


@with_groups
def try_edit(
    *,
    question: Question,
    target: Annotated[str, typer.Argument(help="The answer to give.")],
    among: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="File of questions to ask as well: JSON lines, JSON or CSV. "
            "Default: unrelated ones, and those of the newest edits.",
        ),
    ] = None,
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
    as_json: AsJson = False,
) -> None:
    """Try an edit without keeping it: the answer before and after, and what else would change.

    Exit status 3: the model would not give the answer.
    """
    query = question.query(target)
    others = None if among is None else _questions(among)
    with interrupt_message(UNCHANGED):
        edited = open_edited(store, setup, loading)
        trial = edited.try_edit(query, others, max_new_tokens=max_new_tokens)
    if as_json:
        print_json(_trial(trial))
    else:
        _print_trial(trial)
    if not trial.edit.took:
        raise typer.Exit(NOT_TAKEN)


@with_groups
def check(
    *,
    store: Where = DEFAULT,
    background: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder of images that no edit is about. "
            "Default: the editor's, or drawings that ship with the package.",
        ),
    ] = None,
    setup: Setup,
    loading: Loading,
    as_json: AsJson = False,
) -> None:
    """Find edits that do not take, contradict each other, or fire where none should.

    Exit status 4: there are findings; they are printed one a line.
    """
    with interrupt_message(UNCHANGED):
        edited = open_edited(store, setup, loading, create=False)
        with _bars() as (watch, asked):
            found = edited.check(background, progress=watch)
    if as_json:
        print_json([_finding(finding) for finding in found])
    else:
        _print_findings(edited, found, asked.get("edits", 0))
    if found:
        raise typer.Exit(FOUND)


def _questions(file: Path) -> list[Query]:
    """The questions in a file of corrections. Raises :class:`BadInput` for a bad row."""
    from liveedit.data.corrections import read_corrections

    found = read_corrections(file)
    found.check()
    return [row.query for row in found.rows]


@contextmanager
def _bars() -> Iterator[tuple["Watcher", dict[str, int]]]:
    """A progress bar for each stage of a check, on a terminal; counts what was asked in each."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    asked: dict[str, int] = {}
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bars:
        tasks: dict[str, Any] = {}

        def watch(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=of)
            bars.update(tasks[stage], completed=done)
            asked[stage] = done

        yield watch, asked


# Printing


def _explanation(found: "Explanation") -> dict[str, Any]:
    """An explanation as JSON."""
    return {
        "answer": found.answer,
        "unedited": found.unedited,
        "fired": [_firing(firing) for firing in found.fired],
        "near": [_firing(firing) for firing in found.near],
    }


def _firing(firing: "Firing") -> dict[str, Any]:
    """An edit with its scores as JSON."""
    edit = firing.edit
    named = {"id": edit.id, "question": edit.prompt, "answer": edit.target}
    return asdict(firing) | {"edit": named}


def _print_explanation(found: "Explanation") -> None:
    """Print the answers and a table of edits."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(shown(f"answer    {found.answer}"))
    console.print(shown(f"unedited  {found.unedited}"))
    if not found.fired and not found.near:
        note("no edit fired, and none was near")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("edit", no_wrap=True, min_width=12)
    for heading in ("question", "answer"):
        table.add_column(heading, overflow="fold")
    for heading in ("weight", "by image", "by question"):
        table.add_column(heading, justify="right", no_wrap=True)
    for firing in (*found.fired, *found.near):
        _add_firing(table, firing)
    Console().print(table)


def _add_firing(table: Table, firing: "Firing") -> None:
    """Add the row of an edit that fired, or nearly did."""
    table.add_row(
        shown(firing.edit.id),
        shown(firing.edit.prompt),
        shown(firing.edit.target),
        f"{firing.weight:.2f}" if firing.weight else "–",
        _compared(firing.image, firing.image_threshold),
        _compared(firing.question, firing.question_threshold),
        style="" if firing.weight else "dim",
    )


def _compared(score: float | None, threshold: float | None) -> str:
    """A score against its threshold."""
    if score is None:
        return "–"
    if threshold is None:
        return f"{score:.2f}"
    return f"{score:.2f} {'>' if score > threshold else '≤'} {threshold:.2f}"


def _trial(trial: "Trial") -> dict[str, Any]:
    """A trial as JSON."""
    return {
        "question": trial.edit.prompt,
        "before": trial.before,
        "after": trial.after,
        "took": trial.edit.took,
        "overrules": list(trial.edit.conflicts),
        "asked": trial.asked,
        "changes": [
            {"question": change.query.prompt, "before": change.before, "after": change.after}
            for change in trial.changes
        ],
    }


def _print_trial(trial: "Trial") -> None:
    """Print what an edit would change."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("question", "before", "after"):
        table.add_column(heading, overflow="fold")
    rows = [(trial.edit.prompt, trial.before, trial.after)]
    rows += [(change.query.prompt, change.before, change.after) for change in trial.changes]
    for row in rows:
        table.add_row(*map(shown, row))
    Console().print(table)
    count = f"{len(trial.changes)} of {trial.asked} other answers would change"
    Console(soft_wrap=True, highlight=False).print(count)
    for id in trial.edit.conflicts:
        Console(soft_wrap=True, highlight=False).print(f"would overrule {id} where both fire")
    if not trial.edit.took:
        note(f"the edit would not take: the answer would not be {trial.edit.target}")


def _finding(finding: "Finding") -> dict[str, Any]:
    """A finding as JSON."""
    return asdict(finding) | {"edits": [edit.id for edit in finding.edits]}


def _print_findings(edited: "EditableVLM", found: "Sequence[Finding]", asked: int) -> None:
    """Print the findings one a line, then what was looked at."""
    for finding in found:
        Console(soft_wrap=True, highlight=False).print(shown(finding.text))
    count = len(edited.edits)
    missing = f"; the images of {count - asked} are not kept" if asked < count else ""
    note(f"findings: {len(found)}, edits: {count}{missing}")
