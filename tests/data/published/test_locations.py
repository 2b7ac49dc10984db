"""Places of published benchmarks: found by name, remembered, named where they are missing."""

import codecs

import pytest

from liveedit.data.home import home
from liveedit.data.published.checks import check
from liveedit.data.published.locations import (
    Location,
    add_location,
    locate,
    location,
    locations,
)
from liveedit.data.published.sources import source
from liveedit.errors import BadInput, StorageError

VLKEB = source("vlkeb")


def test_a_location_is_remembered_beside_others(published, tmp_path, located):
    found = located
    add_location("vlkeb", found)
    add_location("e-vqa", Location({"train": tmp_path}, tmp_path))
    assert location("vlkeb") == found
    assert set(locations()) == {"vlkeb", "e-vqa"}
    assert home() == tmp_path / "home"
    assert [path.name for path in home().iterdir()] == ["data.json"]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    "content", ["my data", "[1, 2]", '{"rows": [1]}', '{"vlkeb": {"files": {}}}']
)
def test_somebody_elses_list_is_to_be_moved_away(content, tmp_path):
    home().mkdir()
    (home() / "data.json").write_text(content, encoding="utf-8")
    for call in (locations, lambda: add_location("e-vqa", Location({}, tmp_path))):
        with pytest.raises(
            BadInput, match=r"data\.json is damaged or no list of benchmarks: move it away"
        ):
            call()
    assert (home() / "data.json").read_text(encoding="utf-8") == content


def test_files_that_an_editor_of_texts_has_marked_as_utf_8(published, located):
    for file in (published / "vlkeb").glob("*.json"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    add_location("vlkeb", located)
    (home() / "data.json").write_bytes(codecs.BOM_UTF8 + (home() / "data.json").read_bytes())
    assert location("vlkeb") == located
    assert not check(VLKEB, location("vlkeb")).problems


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LIVEEDIT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home() == tmp_path / "liveedit"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".local" / "share" / "liveedit"


def test_files_may_be_given_one_by_one(published):
    files = [published / "vlkeb" / name for name in ("eval.json", "train.json")]
    found = locate(VLKEB, files, published / "vlkeb")
    assert found.files == {"train": files[1], "test": files[0]}


def test_what_cannot_be_located_is_named(published, tmp_path, located):
    with pytest.raises(BadInput, match=r"nothing at .*nowhere"):
        locate(VLKEB, [tmp_path / "nowhere"], tmp_path)
    with pytest.raises(BadInput, match=r"no train\.json in"):
        locate(VLKEB, [published / "vlkeb" / "eval.json"], tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        locate(VLKEB, [published], published / "vlkeb" / "eval.json")
    (published / "copy").mkdir()
    (published / "copy" / "train.json").write_text("[]")
    with pytest.raises(BadInput, match=r"train\.json was found more than once"):
        locate(VLKEB, [published], tmp_path)


def test_a_damaged_list_is_named_and_kept(published, located):
    home().mkdir()
    (home() / "data.json").write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        add_location("vlkeb", located)
    assert (home() / "data.json").read_text() == "{"


def test_a_home_that_cannot_be_written_is_named(published, monkeypatch, located):
    monkeypatch.setenv("LIVEEDIT_HOME", str(published / "vlkeb" / "eval.json" / "home"))
    with pytest.raises(StorageError, match="LIVEEDIT_HOME"):
        add_location("vlkeb", located)
