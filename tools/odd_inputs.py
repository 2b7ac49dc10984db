"""Write the page about odd inputs from their table, all of whose rows a test runs.

Usage: ``python tools/odd_inputs.py > docs/reference/odd-inputs.md``.
"""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[1] / "tests" / "cli" / "odd_inputs.toml"

HEAD = """# Odd inputs

The outcome of {count} inputs that nobody means to give. None of them ends in a traceback, in
silence or in a wrong answer, and none changes a file that it should not.
`tests/cli/test_odd_inputs.py` runs them all. Their table is `tests/cli/odd_inputs.toml`, from which
`tools/odd_inputs.py` writes this page.

A mistake is one line on standard error that says what is wrong and what to do, with exit status 1.
A command that cannot be parsed has status 2, and typer names the option at fault. An edit that did
not take has status 3, and everything that ends well 0. In Python a mistake is one of the errors in
`src/liveedit/errors.py`.

In the tables `…` stands for anything, Q for "What is the country with this flag?", and words in
capitals for longer texts. Files are named after what is odd about them; `flag.png` is Japan's flag.
"""


def page(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, from the table's groups by name."""
    head = HEAD.format(count=sum(len(group["rows"]) for group in groups.values()))
    links = [f"[{group['title']}](#{name}) {len(group['rows'])}" for name, group in groups.items()]
    parts = [head, " · ".join(links) + "\n"]
    for name, group in groups.items():
        ending = "ends with" if group.get("kind") == "python" else "status"
        lines = [
            f'<a id="{name}"></a>\n\n## {group["title"]}\n',
            f"| tried | as | {ending} | what is said |",
            "|---|---|---|---|",
        ]
        if "first" in group:
            lines.insert(1, f"Each after {code(group['first'])}.\n")
        lines += [row(*cells) for cells in group["rows"]]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def row(what: str, run: str | list[str], status: int | str, answer: str) -> str:
    """One line of a table."""
    lines = [run] if isinstance(run, str) else run
    return f"| {what} | {'<br>'.join(map(code, lines))} | {status} | {code(answer)} |"


def code(text: str) -> str:
    """A text as code, on one line, in a cell of a table."""
    printable = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    plain = printable.replace("|", "\\|")
    marks = "``" if "`" in plain else "`"
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{marks}{space}{plain}{space}{marks}"


if __name__ == "__main__":
    sys.stdout.write(page(tomllib.loads(TABLE.read_text(encoding="utf-8"))))
