"""Show the roles of docstrings, such as ``:class:`Query```, as code in the reference."""

import re
from typing import Any

import griffe

__all__ = ["Roles"]

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Griffe extension that replaces each role by the name that it holds."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
