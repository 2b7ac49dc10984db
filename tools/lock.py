"""Print the installed packages as constraints for pip.

This package and pip's own tools are left out. Called by ``make lock``.
"""

import sys
from importlib.metadata import distributions

OWN = {"liveedit", "pip", "setuptools"}
HEAD = (
    "# The versions that this release was tested with; `make demo` and `make test` install them. "
    "By `make lock`."
)


def installed() -> list[str]:
    """A line ``name==version`` for each distribution; versions without their build (``+cpu``)."""
    found = {found.name: found.version.partition("+")[0] for found in distributions()}
    names = [name for name in found if name.lower() not in OWN]
    return [f"{name}=={found[name]}" for name in sorted(names, key=str.lower)]


if __name__ == "__main__":
    sys.stdout.write("\n".join([HEAD, *installed()]) + "\n")
