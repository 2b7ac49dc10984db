"""The README is short, and its Python block runs as it stands."""

import re
from pathlib import Path
from textwrap import wrap

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PICTURE = 15
"""Lines that the picture takes."""


def test_the_quickstart_runs_and_edits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [block] = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert len(block.strip().splitlines()) <= 11
    exec(block, {})
    assert capsys.readouterr().out.splitlines() == ["['Japan']", "['Brazil']"]


def rendered(text):
    """The number of lines that Markdown takes at 100 columns; a paragraph is wrapped anew."""
    text = re.sub(r"<!--.*?-->\n|```\w*\n|\|[ :|-]+\|\n|\| \| \|\n", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "\n".join(["picture"] * PICTURE), text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    lines = re.sub(r"\n{3,}", "\n\n", text).splitlines()
    return sum(max(len(wrap(line, 100)), 1) for line in lines)


def test_the_readme_takes_two_screens():
    assert rendered(README.read_text(encoding="utf-8")) <= 80
