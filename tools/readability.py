"""Measures of how the code reads: sizes, lines, names, circles of imports.

    python tools/readability.py [FOLDER …]

prints, for the package or for each folder of Python code, two tables:

    LOC         lines of code, neither blank, comment nor docstring
    files       number of files, median and greatest lines of code
    functions   lines of a function: median, 90th percentile, greatest
    com/doc     lines of comments and of docstrings, as shares of all lines that are not blank
    annotated   share of the parameters and returns of functions that have a type
    dead        functions and classes whose names occur nowhere else
    dup         runs of six or more code lines that occur again, per 1,000 lines of code
    circles     groups of modules that import one another, `TYPE_CHECKING` included
    params      the most parameters of a function
    noqa        `noqa` and `type: ignore` comments
    probes      `getattr`, `hasattr` and `isinstance` per 1,000 lines of code

    lines       length of a line of code: median, 90th percentile
    > 100       share of lines longer than 100 columns
    compr.      comprehensions per 1,000 lines of code
    if-expr     conditional expressions per 1,000 lines of code
    tuple       assignments of a tuple to a tuple per 1,000 lines of code
    "What"      docstrings that begin with "What"
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "liveedit"
WINDOW = 6
"""Lines of code that count as a repetition."""
LONG = 100
PLAIN = {
    "property",
    "cached_property",
    "classmethod",
    "staticmethod",
    "contextmanager",
    "dataclass",
}
"""Decorators that register nothing."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its text, its tree, and the numbers of its lines that are code."""

    path: Path
    text: str
    tree: ast.Module
    code: list[int]
    comments: int
    docstrings: int

    @classmethod
    def read(cls, path: Path) -> "Source":
        """The source at a path."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        documented = set[int]()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and is_docstring(node):
                documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        code = set[int]()
        comments = 0
        ignored = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments += 1
            elif token.type not in ignored and token.string.strip():
                code.update(range(token.start[0], token.end[0] + 1))
        return cls(path, text, tree, sorted(code - documented), comments, len(documented))

    @property
    def lines(self) -> list[str]:
        """The lines of code."""
        every = self.text.splitlines()
        return [every[number - 1] for number in self.code]


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a docstring, that of an attribute included."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def nodes(sources: Sequence[Source]) -> Iterator[ast.AST]:
    """All nodes of all trees."""
    for source in sources:
        yield from ast.walk(source.tree)


def functions(sources: Sequence[Source]) -> list[Function]:
    """All functions and methods."""
    return [node for node in nodes(sources) if isinstance(node, Function)]


def parameters(function: Function) -> list[ast.arg]:
    """The parameters of a function, but for ``self`` and ``cls``."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [each for each in every if each is not None and each.arg not in ("self", "cls")]


def function_length(source: Source, function: Function) -> int:
    """Lines of code of a function."""
    last = function.end_lineno or function.lineno
    return sum(function.lineno <= number <= last for number in source.code)


def annotated(every: Sequence[Function]) -> float:
    """The share of parameters and returns with a type, in percent."""
    marks = list[bool]()
    for function in every:
        marks += [each.annotation is not None for each in parameters(function)]
        if function.name != "__init__" and not function.name.startswith("__"):
            marks.append(function.returns is not None)
    return 100 * sum(marks) / max(1, len(marks))


def dead(sources: Sequence[Source], mentioned: str) -> list[str]:
    """Functions and classes whose names occur once in all that is ``mentioned``."""
    words = Counter(re.findall(r"\w+", mentioned))
    found = list[str]()
    for node in nodes(sources):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("__"):
            marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
            if words[node.name] < 2 and not marks - PLAIN:  # others may register what they mark
                found.append(node.name)
    return found


def repetitions(sources: Sequence[Source]) -> int:
    """Runs of code lines that occur a second time; a run counts once, however long it is."""
    seen = set[tuple[str, ...]]()
    count = 0
    for source in sources:
        stripped = [line.strip() for line in source.lines]
        lines = [line for line in stripped if len(line) > 1 and not is_import(line)]
        inside = False
        for start in range(len(lines) - WINDOW + 1):
            window = tuple(lines[start : start + WINDOW])
            again = window in seen
            count += again and not inside
            inside = again
            seen.add(window)
    return count


def is_import(line: str) -> bool:
    """Whether a line belongs to an import."""
    return line.startswith(("import ", "from "))


def module_name(folder: Path, path: Path) -> str:
    """The name of the module at a path, in the package ``folder``."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports(folder: Path, sources: Sequence[Source]) -> dict[str, set[str]]:
    """By module, the modules of the package that it imports anywhere."""
    known = {module_name(folder, source.path) for source in sources}
    found = dict[str, set[str]]()
    for source in sources:
        own = found[module_name(folder, source.path)] = set()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in node.names:
                    longer = f"{node.module}.{name.name}"
                    own.add(longer if longer in known else node.module)
            elif isinstance(node, ast.Import):
                own.update(name.name for name in node.names)
        own &= known
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """The modules that importing ``start`` leads to."""
    found = set[str]()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that lead to one another."""
    beyond = {module: reachable(graph, module) for module in graph}
    groups = set[tuple[str, ...]]()
    for module, others in beyond.items():
        if module in others:
            group = [other for other in others if module in beyond[other]]
            groups.add(tuple(sorted(group)))
    return [list(group) for group in sorted(groups)]


def percentile(values: Sequence[int]) -> int:
    """The 90th percentile."""
    return round(quantiles(values, n=10)[-1]) if len(values) > 1 else max(values, default=0)


def sizes(folder: Path, sources: Sequence[Source], mentioned: str) -> dict[str, str]:
    """The first table."""
    every = functions(sources)
    loc = sum(len(source.code) for source in sources)
    files = [len(source.code) for source in sources]
    lengths = list[int]()
    for source in sources:
        own = [node for node in ast.walk(source.tree) if isinstance(node, Function)]
        lengths += [function_length(source, node) for node in own]
    comments = sum(source.comments for source in sources)
    docs = sum(source.docstrings for source in sources)
    whole = loc + comments + docs
    text = "\n".join(source.text for source in sources)
    noqa = len(re.findall(r"# noqa", text))
    ignored = len(re.findall(r"type: ignore", text))
    probes = len(re.findall(r"\b(?:getattr|hasattr|isinstance)\(", text))
    return {
        "LOC": f"{loc:,}",
        "files": f"{len(files)}, {median(files):.0f}/{max(files)}",
        "functions": f"{median(lengths):.0f}/{percentile(lengths)}/{max(lengths)}",
        "com/doc %": f"{100 * comments / whole:.1f}/{100 * docs / whole:.0f}",
        "annotated %": f"{annotated(every):.0f}",
        "dead": str(len(dead(sources, mentioned))),
        "dup/kLOC": f"{1000 * repetitions(sources) / loc:.1f}",
        "circles": str(len(circles(imports(folder, sources)))),
        "params": str(max((len(parameters(node)) for node in every), default=0)),
        "noqa+ignore": f"{noqa}+{ignored}",
        "probes/kLOC": f"{1000 * probes / loc:.1f}",
    }


def lines(sources: Sequence[Source]) -> dict[str, str]:
    """The second table."""
    every = list[str]()
    for source in sources:
        every += source.lines
    whole = "\n".join(source.text for source in sources).splitlines()
    lengths = [len(line) for line in every]
    found = Counter[str]()
    for node in nodes(sources):
        found["compr."] += isinstance(node, Comprehension)
        found["if-expr"] += isinstance(node, ast.IfExp)
        found["tuple"] += is_tuple_assignment(node)
        found["what"] += is_docstring(node) and ast.unparse(node).lstrip("'\"").startswith("What ")
    shares = {
        name: f"{1000 * found[name] / len(every):.1f}" for name in ("compr.", "if-expr", "tuple")
    }
    return {
        "line med/p90": f"{median(lengths):.0f}/{percentile(lengths)}",
        "> 100": f"{100 * sum(len(line) > LONG for line in whole) / len(whole):.1f} %",
        **{f"{name}/kLOC": share for name, share in shares.items()},
        '"What"': str(found["what"]),
    }


def is_tuple_assignment(node: ast.AST) -> bool:
    """Whether a node assigns a tuple to a tuple."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
        return False
    return isinstance(node.targets[0], ast.Tuple)


def table(rows: dict[str, dict[str, str]]) -> str:
    """Rows by name as a table of Markdown."""
    heads = list(next(iter(rows.values())))
    made = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    made += [f"| {name} | " + " | ".join(row.values()) + " |" for name, row in rows.items()]
    return "\n".join(made)


def main() -> None:
    """Print the tables, and the circles if there are any."""
    folders = [Path(name).resolve() for name in sys.argv[1:]] or [PACKAGE]
    first = dict[str, dict[str, str]]()
    second = dict[str, dict[str, str]]()
    for folder in folders:
        sources = [Source.read(path) for path in sorted(folder.rglob("*.py"))]
        around = folder.parents[1] if folder.parent.name == "src" else folder
        users = [path for path in around.rglob("*.py") if ".venv" not in path.parts]
        users += [path for path in around.rglob("*.toml") if ".venv" not in path.parts]
        mentioned = "\n".join(path.read_text(encoding="utf-8") for path in users)
        first[folder.name] = sizes(folder, sources, mentioned)
        second[folder.name] = lines(sources)
        for group in circles(imports(folder, sources)):
            print("circle:", ", ".join(group))
    print(table(first), table(second), sep="\n\n")


if __name__ == "__main__":
    main()
