"""Photos of one colour each, and the corrections of them."""

import json

import pytest
from PIL import Image

from liveedit.data.corrections import read_corrections

PHOTOS = 40


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The paths of photos that differ."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in range(PHOTOS)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 6), (6 * number, 40, 200 - 5 * number)).save(path)
    return paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def corrections(tmp_path):
    """A function that writes rows into a file, and reads it as corrections."""

    def make(*rows):
        file = tmp_path / "corrections.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return read_corrections(file)

    return make


@pytest.fixture
def rows(photos):
    """Twenty rows: a name of each thing, other photos or paraphrases of some."""
    made = []
    for number in range(20):
        row = {"image": str(photos[number]), "question": "What is it?", "answer": f"thing {number}"}
        if number % 4 == 0:
            row["more_images"] = [str(photos[20 + number])]
        if number % 4 == 1:
            row["paraphrases"] = ["Name the thing.", "Say what it is."]
        made.append(row)
        if number % 5 == 0:
            made.append({**row, "question": "What is it for?", "answer": f"use {number}"})
            made[-1].pop("paraphrases", None)
    return made
