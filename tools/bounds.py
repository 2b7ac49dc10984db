"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

Covers the dependencies and those of the extras named as arguments. Called by ``make test-oldest``.
"""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)>=([\d.]+)")


def lowest(extras: list[str]) -> list[str]:
    """A line ``name==version`` for each dependency that states a lower bound."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found = [BOUND.match(line) for line in wanted]
    return sorted({f"{bound[1]}=={bound[2]}" for bound in found if bound})


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(sys.argv[1:])) + "\n")
