"""The docs hold: their Python runs, what they point to exists, their example editor keeps the
contract.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


def blocks(page):
    """(mark, code) of each Python block; the mark is the comment on the line above, if there is
    one.
    """
    return [
        (found["mark"] or "", found["code"])
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def lay_out(page, folder):
    """Write the page's files to ``folder``; its other code, in one piece, is ``page.py``."""
    code = []
    for mark, text in blocks(page):
        if mark.startswith("file: "):
            (folder / mark.removeprefix("file: ")).write_text(text, encoding="utf-8")
        elif mark != "not run":
            code.append(text)
    (folder / "page.py").write_text("\n".join(code), encoding="utf-8")


def run(folder, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, tmp_path):
    lay_out(page, tmp_path)
    run(tmp_path, "-W", "error", "page.py")


def test_the_example_editor_keeps_the_contract(tmp_path):
    lay_out(ROOT / "docs" / "add-an-editor.md", tmp_path)
    register = "from liveedit.editors import EDITORS, PAPERS\nEDITORS['nudge'], PAPERS['nudge'] = 'nudge:Nudge', 'none'\n"
    (tmp_path / "registered.py").write_text(register, encoding="utf-8")
    suite = str(ROOT / "tests" / "editors" / "test_editor_contract.py")
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "registered", "-k", "nudge"]
    run(tmp_path, "-m", "pytest", "-q", "-n", "0", *options, suite)


def defined(tree, dotted):
    """Whether a class, function or constant, or a member of a class, is defined in a module."""
    for name in dotted.split("."):
        found = [
            node
            for node in tree.body
            if getattr(node, "name", None) == name
            or (isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name)
            or (
                isinstance(node, ast.Assign)
                and name in [getattr(target, "id", None) for target in node.targets]
            )
        ]
        if not found:
            return False
        tree = found[0]
    return True


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_what_a_page_points_to_exists(page):
    text = page.read_text(encoding="utf-8")
    for path, name in re.findall(r"`((?:src|tests|recipes|docs)/[\w./-]+)(?:::([\w.]+))?`", text):
        assert (ROOT / path).exists(), path
        assert not name or defined(ast.parse((ROOT / path).read_text(encoding="utf-8")), name), (
            f"{path}::{name}"
        )
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
