"""LiveEdit: correct what a vision-language model answers, again and again, and leave everything
else as it is.

>>> import liveedit
>>> model = liveedit.load()  # the embedded model with the editor trained on it
>>> model.edit(liveedit.Query("What is the country with this flag?", target="Japan", image="flag.png"))
>>> model.generate(liveedit.Query("Tell me the country with this flag.", image="another.png"))

Importing the package is cheap: torch is imported by the first use of a model. If transformers is in
use, the tower of the embedded model is registered with its Auto classes.
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
    """Import what needs torch when it is first asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'liveedit' has no attribute '{name}'")


@when_imported("transformers.models.auto.modeling_auto")
def _register_tower(_: Any) -> None:
    """Make ``AutoModelForImageTextToText`` know the embedded model's vision tower."""
    import_module("liveedit.models.families.efficientnet_lite")
