"""`liveedit models`, `editors`, `data`: what there is to choose from."""

import json
from importlib.resources import files

from rich.console import Console
from rich.table import Table

from liveedit.data import TITLES
from liveedit.editors import EDITORS, PAPERS
from liveedit.models import FAMILIES

__all__ = ["data", "editors", "models"]


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


def data() -> None:
    """List the benchmarks."""
    facts = json.loads((files("liveedit.data") / "assets" / "emblem" / "facts.json").read_text(encoding="utf-8"))
    entities = facts["entities"]
    drawings = sum(len(entity["hands"]) for entity in entities)
    table = Table("name", "what", title="Benchmarks")
    for name, what in TITLES.items():
        table.add_row(name, what)
    Console().print(table)
    Console().print(f"emblem: {len(entities)} entities, {drawings} drawings; details in docs/emblem.md")
