"""Editors that ship with the package, trained or set for the embedded model."""

from liveedit.editable import embedded
from liveedit.editors import EDITORS

SHIPPED = [name for name in EDITORS if embedded(name).is_dir()]
