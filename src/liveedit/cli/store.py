"""`liveedit store`: move edits between stores, check a store, and give back its space."""

from pathlib import Path
from typing import Annotated

import typer

from liveedit.cli.display import interrupt_message, print_json
from liveedit.cli.opening import DEFAULT, Where, open_store
from liveedit.cli.options import AsJson, Quiet, Who, path

__all__ = ["app"]

DAMAGED = 4
"""Exit status of `verify` for a store with damages."""

app = typer.Typer(
    help="Move edits between stores, check a store, and give back its space.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(parser=path, help="File of exported edits.")]


@app.command("export")
def export_command(
    file: File,
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of the edits, or unique beginnings; all by default."),
    ] = None,
    store: Where = DEFAULT,
    quiet: Quiet = False,
) -> None:
    """Write edits to a new file, with their images and their origin."""
    from liveedit.store.exchange import export

    number = export(open_store(store), file, ids or None)
    if not quiet:
        print(f"exported {number:,} edits to {file}")


@app.command("import")
def import_command(file: File, store: Where = DEFAULT, who: Who = "", quiet: Quiet = False) -> None:
    """Add the edits of an exported file that the store does not hold yet."""
    from liveedit.store.exchange import import_edits
    from liveedit.store.store import Store

    with interrupt_message(f"stopped; nothing was changed in {store}"):
        added = import_edits(Store(store), file, who)
    if not quiet:
        print(f"imported {added:,} edits into {store}")


@app.command("merge")
def merge_command(
    other: Annotated[str, typer.Argument(help="The store whose edits are added.")],
    store: Where = DEFAULT,
    who: Who = "",
    quiet: Quiet = False,
) -> None:
    """Add the edits of another store that this one does not hold yet."""
    from liveedit.store.exchange import merge
    from liveedit.store.store import Store

    with interrupt_message(f"stopped; nothing was changed in {store}"):
        added = merge(Store(store), open_store(other), who)
    if not quiet:
        print(f"merged {added:,} edits into {store}")


@app.command("verify")
def verify_command(store: Where = DEFAULT, as_json: AsJson = False) -> None:
    """Read everything that a store holds and compare it with its checksums.

    Exit status 4: the store has damages, which are printed one a line.
    """
    from liveedit.store.upkeep import verify

    kept = open_store(store)
    damages = verify(kept)
    if as_json:
        print_json(damages)
    else:
        print("\n".join(damages) or f"{kept} is whole: {len(kept.kept()):,} edits")
    if damages:
        raise typer.Exit(DAMAGED)


@app.command("compact")
def compact_command(store: Where = DEFAULT, quiet: Quiet = False) -> None:
    """Drop tensors and images of edits that were taken back, and old hits."""
    from liveedit.store.upkeep import compact

    with interrupt_message(f"stopped; nothing was changed in {store}"):
        dropped = compact(open_store(store))
    if not quiet:
        print(f"dropped the tensors and images of {dropped:,} edits that were taken back")
