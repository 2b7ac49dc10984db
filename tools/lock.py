"""Print what is installed here as constraints for pip, without this package and without pip's own
tools.

Called by ``make lock``.
"""

import sys
from importlib.metadata import distributions

OWN = {"liveedit", "pip", "setuptools"}
HEAD = "# The versions that this release was tested with; `make demo` and `make test` install them. By `make lock`."


def installed() -> list[str]:
    """A line ``name==version`` for each distribution, without the part of a version that names a
    build (``+cpu``).
    """
    found = {found.name: found.version.partition("+")[0] for found in distributions()}
    return [
        f"{name}=={found[name]}" for name in sorted(found, key=str.lower) if name.lower() not in OWN
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join([HEAD, *installed()]) + "\n")
