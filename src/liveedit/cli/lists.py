"""`liveedit models`, `editors`: what there is to choose from."""

from rich.console import Console
from rich.table import Table

from liveedit.editors import EDITORS, PAPERS
from liveedit.models import FAMILIES

__all__ = ["editors", "models"]


def models() -> None:
    """List the families of models that can be edited."""
    table = Table(
        "model_type", "family", title="Families: any Hugging Face checkpoint of such a model_type can be edited"
    )
    for model_type, where in sorted(FAMILIES.items()):
        table.add_row(model_type, where.partition(":")[2])
    Console().print(table)


def editors() -> None:
    """List the editing methods."""
    table = Table("name", "paper", title="Editors")
    for name in sorted(EDITORS):
        table.add_row(name, PAPERS[name])
    Console().print(table)
