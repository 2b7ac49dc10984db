"""The command line: one file a group of commands, nothing heavy imported before a command runs."""

import errno
import os
import sys

import typer
from rich.console import Console

from liveedit.cli import benchmark, data, families, lists, pool, training
from liveedit.errors import LiveEditError

__all__ = ["app", "main"]

app = typer.Typer(
    name="liveedit",
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


def main() -> None:
    """Run the command line. A user's mistake is one line on standard error and exit status 1, never a traceback."""
    if not sys.stderr.isatty():  # bars are for people
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    console = Console(stderr=True, soft_wrap=True)
    try:
        app()
    except LiveEditError as error:
        console.print(f"[bold red]error:[/] {_plain(error)}", highlight=False)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        console.print(f"[bold red]error:[/] {_plain(error)}: free some space or choose another folder", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)


def _plain(error: Exception) -> str:
    """The message on one line, with rich's markup taken literally."""
    return " ".join(str(error).split()).replace("[", "\\[")
