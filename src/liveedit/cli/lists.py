"""`liveedit editors`: what there is to choose from."""

from rich.console import Console
from rich.table import Table

from liveedit.editors import EDITORS

__all__ = ["editors"]


def editors() -> None:
    """List the editing methods."""
    table = Table("name", "paper", title="Editors")
    for name in sorted(EDITORS):
        table.add_row(name, EDITORS[name].paper)
    Console().print(table)
