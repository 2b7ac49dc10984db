"""LiveEdit: lifelong knowledge editing of vision-language models.

Correct an answer at once, thousands of times over a model's life, and keep all other answers.

>>> import liveedit
>>> model = liveedit.load()  # the embedded model with the editor trained on it
>>> question = "What is the country with this flag?"
>>> model.edit(liveedit.Query(question, target="Japan", image="flag.png"))
>>> model.generate(liveedit.Query("Tell me the country with this flag.", image="another.png"))

Importing the package is cheap: torch is imported by the first use of a model. Once transformers is
imported, the vision tower of the embedded model is registered with its Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

from liveedit.errors import LiveEditError
from liveedit.types import Case, Probe, Query, Record

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM, load

__all__ = ["Case", "EditableVLM", "LiveEditError", "Probe", "Query", "Record", "load"]
__version__ = "0.1.0"

_LAZY = {"EditableVLM": "liveedit.editable", "load": "liveedit.editable"}


def __getattr__(name: str) -> Any:
    """Import the names that need torch on first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'liveedit' has no attribute '{name}'")


@when_imported("transformers.models.auto.modeling_auto")
def _register_tower(_: Any) -> None:
    """Register the embedded model's vision tower with the Auto classes."""
    import_module("liveedit.models.families.efficientnet_lite")
