"""The direction of imports between rooms and within them, and modules that are free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "liveedit"
LAYERS = {  # each part may import from itself, from parts of a lower number, and never sideways
    "types": 0, "errors": 0,
    "registry": 1, "measures": 1, "runinfo": 1, "settings": 1, "artifacts": 1, "question": 1,
    "data": 2, "models": 2, "report": 2, "hub": 2,
    "editors": 3,
    "store": 4, "train": 4, "evaluate": 4,
    "steering": 5,
    "editable": 6,
    "serve": 7,
    "cli": 8, "integrations": 8,
    "__main__": 9,
}  # fmt: skip
SIDEWAYS = {
    ("hub", "report"),  # a model card states scores
    ("models", "data"),  # a model opens the images of a query
    ("settings", "registry"),  # an unknown setting is answered like an unknown name
    ("types", "errors"),  # a query checks itself
}
ROOMS = {  # rooms within a package: what else of their package they may import
    "data.emblem": set(),
    "data.corrections": {"data.images"},
    "data.published": {"data.images", "data.home"},
    "data.own": {"data.corrections", "data.emblem", "data.home", "data.images", "data.variants"},
    "models.conformance": {"models"},
    "models.families": {"models", "models.conformance"},
    "models.tiny": {"models", "models.families"},
    "editors.common": {"editors.base"},
    "editors.liveedit": {"editors.base", "editors.former_names", "editors.common"},
    "integrations.vllm": set(),
    "editors.pinpoint": {"editors.former_names", "editors.common", "editors.liveedit"},
}
LIGHT = [
    "liveedit",
    "liveedit.types",
    "liveedit.errors",
    "liveedit.registry",
    "liveedit.measures.protocols",
    "liveedit.measures.scores",
    "liveedit.report",
    "liveedit.cli",
    "liveedit.store.browsing",
    "liveedit.store.listing",
    "liveedit.store.store",
]
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path):
    """The module at a path, without the package's name: ``""`` for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}
SHARED = {"__init__", "base", "editor_files", "former_names"}
METHODS = sorted({path.stem for path in (SOURCE / "editors").glob("*.py")} - SHARED)
"""Methods that are one file each."""


def imports(module):
    """The modules of the package that a module imports anywhere, types and functions included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("liveedit"):
            source = node.module.removeprefix("liveedit").removeprefix(".")
            for name in node.names:
                inner = f"{source}.{name.name}".removeprefix(".")
                found.add(inner if inner in MODULES else source)
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names if name.name.startswith("liveedit.")]
            found.update(name.removeprefix("liveedit.") for name in names)
    return found - {""}


def room(module):
    """The room of a module: of a package with rooms the room within it, else the package."""
    inner = ".".join(module.split(".")[:2])
    return inner if inner in ROOMS else module.split(".")[0]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_point_one_way(module):
    own = module.split(".")[0]
    for other in imports(module):
        part = other.split(".")[0]
        if part != own and (own, part) not in SIDEWAYS:
            assert LAYERS[part] < LAYERS[own], f"{module} may not import liveedit.{other}"


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room(module) in ROOMS))
def test_rooms_within_a_package_see_what_they_may(module):
    own = room(module)
    package = own.split(".")[0]
    for other in imports(module):
        if other.split(".")[0] == package and room(other) != own:
            assert {other, room(other)} & ROOMS[own], f"{module} may not import liveedit.{other}"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_built_of_the_base_and_common_parts(method):
    for other in imports(f"editors.{method}"):
        if other.split(".")[0] == "editors":
            assert other == "editors.base" or room(other) == "editors.common", other


def test_no_modules_import_one_another_in_a_circle():
    graph = {module: imports(module) for module in MODULES}
    beyond = {}
    for start in graph:
        waiting = list(graph[start])
        reached = beyond[start] = set()
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += graph.get(module, ())
    assert [module for module in graph if module in beyond[module]] == []


def test_every_part_has_a_layer():
    parts = {module.split(".")[0] for module in MODULES} - {""}
    assert parts == set(LAYERS)


def test_report_sees_types_measures_and_artifacts_only():
    for module in MODULES:
        if module.split(".")[0] == "report":
            parts = {other.split(".")[0] for other in imports(module)}
            assert parts <= {"types", "errors", "artifacts", "measures", "report"}, module


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_leave_torch_alone(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
