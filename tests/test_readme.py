"""The README's Python block runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_quickstart_runs_and_edits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(block.strip().splitlines()) <= 16
    exec(block, {})
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == ["['Japan']", "['Brazil']"]
