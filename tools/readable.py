"""Rules of style that ruff does not have: `make check` runs them over the whole repository.

docstring    says what a thing is or does, and so never begins with "What"
clauses      a comprehension has one ``for``
tuple        ``a, b = x, y`` is for values of one kind, and for exchanging two
arguments    the docstring of a ``…Config`` lists the fields that the class adds, and no others

python tools/readable.py [PATH …]
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "recipes", "tools", "tests")
LISTED = re.compile(r"^ {4}([a-z_0-9]+)(?: and ([a-z_0-9]+))?:", re.MULTILINE)
"""A field in a docstring's list of arguments."""

Fault = tuple[int, str]
"""A line, and what is wrong there."""
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def docstrings(tree: ast.AST) -> Iterator[Fault]:
    """Docstrings, those of attributes included, that begin with "What"."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        text = node.value.value
        if isinstance(text, str) and re.match(r"\s*What\b", text):
            yield node.lineno, 'docstring: begins with "What"; say what the thing is or does'


def clauses(tree: ast.AST) -> Iterator[Fault]:
    """Comprehensions with several ``for``."""
    for node in ast.walk(tree):
        if isinstance(node, Comprehension) and len(node.generators) > 1:
            yield (
                node.lineno,
                "clauses: a comprehension with two `for`s; write a loop or a function",
            )


def kind(value: ast.expr) -> str:
    """The kind of an expression: of a call the function, of a constant the type, else its node."""
    if isinstance(value, ast.Call):
        return f"call of {ast.unparse(value.func)}"
    if isinstance(value, ast.Constant):
        return type(value.value).__name__
    if isinstance(value, ast.List | ast.Dict | ast.Set):
        return f"{type(value).__name__} {bool(ast.unparse(value)[1:-1])}"
    return type(value).__name__


def assignments(tree: ast.AST) -> Iterator[Fault]:
    """Assignments of one tuple to another whose values are of several kinds."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
            continue
        target = node.targets[0]
        if not isinstance(target, ast.Tuple) or len(target.elts) != len(node.value.elts):
            continue
        names = sorted(ast.unparse(name) for name in target.elts)
        exchanged = names == sorted(ast.unparse(value) for value in node.value.elts)
        if not exchanged and len({kind(value) for value in node.value.elts}) > 1:
            yield node.lineno, "tuple: unlike things in one assignment; give each its own line"


def configs(tree: ast.AST) -> Iterator[Fault]:
    """Settings whose docstrings do not list just the fields that the class has of its own."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("Config")):
            continue
        if not any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            continue
        fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
        own = {ast.unparse(field.target) for field in fields}
        _, _, listed = (ast.get_docstring(node) or "").partition("\nArguments:\n")
        named = set[str]()
        for match in LISTED.finditer(listed):
            named.update(filter(None, match.groups()))
        if named != own:
            differing = ", ".join(sorted(named ^ own))
            yield node.lineno, f"arguments: list the fields of {node.name} ({differing})"


def faults(file: Path) -> list[str]:
    """The faults of a file, a line each."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = list[Fault]()
    for rule in (docstrings, clauses, assignments, configs):
        found += rule(tree)
    return [f"{file}:{line}: {fault}" for line, fault in sorted(found)]


def files(paths: list[str]) -> Iterator[Path]:
    """The Python files at some paths, or all of the repository."""
    for path in paths or [str(ROOT / folder) for folder in FOLDERS]:
        yield from [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob("*.py"))


def main() -> None:
    """Print the faults; the exit status is 1 where there are any."""
    found = list[str]()
    for file in files(sys.argv[1:]):
        found += faults(file)
    print("\n".join(found) if found else "all readable")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
