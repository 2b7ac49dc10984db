"""The command line: one file a group of commands, nothing heavy imported before a command runs."""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from liveedit.cli import benchmark, data, families, lists, pool, training
from liveedit.cli.display import Output, shown
from liveedit.errors import LiveEditError, shortage

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Commands(TyperGroup):
    """The commands; Ctrl-C in one of them is a line that says where it stands, not typer's
    "Aborted".
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for; ``ctx.obj``, if there is one, is called first."""
        try:
            if ctx.obj:
                ctx.obj()
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            message = str(stop) or "stopped; the same command goes on from here"
            Console(stderr=True, soft_wrap=True).print(shown(message))
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="liveedit",
    cls=Commands,
    help="Correct what a vision-language model answers, again and again, and leave everything else as it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(benchmark.demo)
app.command("edit")(pool.edit)
app.command("ask")(pool.ask)
app.command("edits")(pool.edits)
app.command("forget")(pool.forget)
app.command("train")(training.train)
app.command("eval")(benchmark.evaluate)
app.command("report")(benchmark.report)
app.command("editors")(lists.editors)
app.add_typer(data.app, name="data")
app.add_typer(families.app, name="models")


def main(begun: Callable[[], object] | None = None) -> None:
    """Run the command line. A user's mistake is one line on standard error and exit status 1, never
    a traceback.

    ``begun`` is called when the command that was asked for begins.
    """
    if not sys.stderr.isatty():  # bars are for people
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in filter(None, (sys.stdout, sys.stderr)):  # which may be closed
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]  # a terminal may lack a letter
    try:
        with redirect_stdout(Output(sys.stdout) if sys.stdout else None):
            app(obj=begun)
    except LiveEditError as error:
        _fail(str(error))
    except Exception as error:
        from liveedit.artifacts import CLOSED, FULL, remedy

        if short := shortage(error):
            _fail(short)
        if not (isinstance(error, OSError) and error.errno in (*CLOSED, *FULL)):
            raise
        _fail(f"{error}: {remedy(error)}")


def _fail(message: str) -> NoReturn:
    """End with one line."""
    line = Text.assemble(("error: ", "bold red"), shown(" ".join(message.split())))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)
    sys.exit(1)
