"""The command line: one file for each group of commands.

    edits           edit, replace, ask, forget, export
    listing         edits
    bulk            edit --from
    steering        explain, try, check
    serve           serve
    store           store export, import, merge, verify, compact
    doctor          doctor
    opening         --store, --model and --editor, and what they open
    training        train
    benchmark       eval, report
    demo            demo
    editors         editors
    data            data
    models          models
    options         options that several commands share
    editor_specs    the value of --editors
    display         output, and Ctrl-C
    verbose         --verbose

Importing this package loads nothing heavy; a command imports what it needs when it runs.
"""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from liveedit.cli import (
    benchmark,
    data,
    demo,
    doctor,
    editors,
    edits,
    listing,
    models,
    serve,
    steering,
    store,
    training,
)
from liveedit.cli.display import Output, shown
from liveedit.errors import LiveEditError, shortage

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


class Commands(TyperGroup):
    """The commands. Ctrl-C in one of them prints how far it got, instead of typer's "Aborted"."""

    def invoke(self, ctx: Any) -> Any:
        """Call ``ctx.obj`` if it is set, then run the given command."""
        try:
            if ctx.obj:
                ctx.obj()
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            message = str(stop) or "stopped; run the same command to continue"
            Console(stderr=True, soft_wrap=True).print(shown(message))
            raise typer.Exit(INTERRUPTED) from None


def _print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(f"liveedit {version('liveedit')}")
        raise typer.Exit


app = typer.Typer(
    name="liveedit",
    cls=Commands,
    help="Correct answers of a vision-language model, as often as needed, and keep all the others.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Version.")
    ] = False,
) -> None:
    """Correct answers of a vision-language model, as often as needed, and keep all the others."""


app.command("demo")(demo.demo)
app.command("edit")(edits.edit)
app.command("replace")(edits.replace)
app.command("ask")(edits.ask)
app.command("explain")(steering.explain)
app.command("try")(steering.try_edit)
app.command("check")(steering.check)
app.command("edits")(listing.edits)
app.command("forget")(edits.forget)
app.command("export")(edits.export)
app.command("serve", context_settings={"auto_envvar_prefix": "LIVEEDIT"})(serve.serve)
app.command("train")(training.train)
app.command("eval")(benchmark.evaluate)
app.command("report")(benchmark.report)
app.command("editors")(editors.editors)
app.command("doctor")(doctor.doctor)
app.add_typer(store.app, name="store")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")


def main(on_start: Callable[[], object] | None = None) -> None:
    """Run the command line; call ``on_start`` when the given command begins.

    A user's mistake is one line on standard error and exit status 1, never a traceback.
    """
    if not sys.stderr.isatty():  # progress bars are for people
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
    try:
        with redirect_stdout(Output(sys.stdout) if sys.stdout else None):
            app(obj=on_start)
    except Exception as error:
        message = _message(error)
        if not message:
            raise
        _fail(message)


def _message(error: Exception) -> str:
    """The line about an error that the user can correct; empty for any other error."""
    if isinstance(error, LiveEditError):
        return str(error)
    if short := shortage(error):
        return short
    from liveedit.artifacts import CLOSED, FULL, remedy

    if isinstance(error, OSError) and error.errno in (*CLOSED, *FULL):
        return f"{error}: {remedy(error)}"
    return ""


def _fail(message: str) -> NoReturn:
    """Print one line on standard error, and exit with status 1."""
    line = Text.assemble(("error: ", "bold red"), shown(" ".join(message.split())))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)
    sys.exit(1)
