"""The direction of imports, and what must not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "liveedit"
LAYERS = {  # each part may import from itself, from parts of a lower number, and never sideways
    "types": 0, "errors": 0,
    "registry": 1, "measures": 1, "runinfo": 1, "settings": 1, "artifacts": 1, "question": 1,
    "data": 2, "models": 2, "report": 2,
    "editors": 3,
    "store": 4, "train": 4, "evaluate": 4,
    "editable": 5,
    "cli": 6,
    "__main__": 7,
}  # fmt: skip
ALLOWED_SIDEWAYS = {("models", "data"), ("settings", "registry"), ("types", "errors")}
# A model opens the images of a query, which checks itself; an unknown setting is like an unknown
# name.
LIGHT = [
    "liveedit",
    "liveedit.types",
    "liveedit.errors",
    "liveedit.registry",
    "liveedit.measures.protocols",
    "liveedit.measures.scores",
    "liveedit.report",
    "liveedit.cli",
    "liveedit.store.listing",
]


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("liveedit."):
            found.add(part(node.module))
        elif isinstance(node, ast.Import):
            found |= {part(name.name) for name in node.names if name.name.startswith("liveedit.")}
    return found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_point_one_way(path):
    relative = path.relative_to(SOURCE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for other in imports(path):
        if other == own or (own, other) in ALLOWED_SIDEWAYS:
            continue
        assert LAYERS[other] < LAYERS[own], f"{relative} may not import liveedit.{other}"


def test_every_part_has_a_layer():
    parts = {
        p.name.removesuffix(".py")
        for p in SOURCE.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert parts - {"__init__"} <= set(LAYERS)


def test_report_sees_types_measures_and_artifacts_only():
    for path in (SOURCE / "report").rglob("*.py"):
        assert imports(path) <= {"types", "errors", "artifacts", "measures", "report"}, path


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_leave_torch_alone(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
