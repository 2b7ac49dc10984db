"""Where published benchmarks are: found by name, remembered, checked, fetched."""

import codecs
import json
import tarfile
from dataclasses import replace

import huggingface_hub
import pytest

from liveedit.data.published.checks import check
from liveedit.data.published.hub import fetch
from liveedit.data.published.places import Place, add_place, home, locate, place, places
from liveedit.data.published.sources import source
from liveedit.errors import BadInput, StorageError

VLKEB = source("vlkeb")


def located(published):
    return locate(VLKEB, [published / "vlkeb"], published / "vlkeb" / "images")


def test_a_place_is_remembered_beside_others(published, tmp_path):
    found = located(published)
    add_place("vlkeb", found)
    add_place("e-vqa", Place({"train": tmp_path}, tmp_path))
    assert place("vlkeb") == found
    assert set(places()) == {"vlkeb", "e-vqa"}
    assert home() == tmp_path / "home"
    assert [path.name for path in home().iterdir()] == ["data.json"]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    "content", ["my data", "[1, 2]", '{"rows": [1]}', '{"vlkeb": {"files": {}}}']
)
def test_somebody_elses_list_is_to_be_moved_away(content, tmp_path):
    home().mkdir()
    (home() / "data.json").write_text(content, encoding="utf-8")
    for call in (places, lambda: add_place("e-vqa", Place({}, tmp_path))):
        with pytest.raises(
            BadInput, match=r"data\.json is damaged or no list of benchmarks: move it away"
        ):
            call()
    assert (home() / "data.json").read_text(encoding="utf-8") == content


def test_files_that_an_editor_of_texts_has_marked_as_utf_8(published):
    for file in (published / "vlkeb").glob("*.json"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    add_place("vlkeb", located(published))
    (home() / "data.json").write_bytes(codecs.BOM_UTF8 + (home() / "data.json").read_bytes())
    assert place("vlkeb") == located(published)
    assert not check(VLKEB, place("vlkeb")).problems


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


def test_what_cannot_be_located_is_named(published, tmp_path):
    with pytest.raises(BadInput, match=r"nothing at .*nowhere"):
        locate(VLKEB, [tmp_path / "nowhere"], tmp_path)
    with pytest.raises(BadInput, match=r"no train\.json in"):
        locate(VLKEB, [published / "vlkeb" / "eval.json"], tmp_path)
    with pytest.raises(BadInput, match="is no folder"):
        locate(VLKEB, [published], published / "vlkeb" / "eval.json")
    (published / "copy").mkdir()
    (published / "copy" / "train.json").write_text("[]")
    with pytest.raises(BadInput, match=r"train\.json is there more than once"):
        locate(VLKEB, [published], tmp_path)


def test_a_damaged_list_is_named_and_kept(published):
    home().mkdir()
    (home() / "data.json").write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        add_place("vlkeb", located(published))
    assert (home() / "data.json").read_text() == "{"


def test_a_home_that_cannot_be_written_is_named(published, monkeypatch):
    monkeypatch.setenv("LIVEEDIT_HOME", str(published / "vlkeb" / "eval.json" / "home"))
    with pytest.raises(StorageError, match="LIVEEDIT_HOME"):
        add_place("vlkeb", located(published))


def test_a_sound_benchmark_has_no_problems(published):
    told = []
    result = check(VLKEB, located(published), lambda done, total: told.append((done, total)))
    assert result.problems == []
    assert result.records == {"train.json": 5, "eval.json": 3, "eval_edit_onehop.json": 2}
    assert "eval.json has 3 records, the published one 3,174" in result.notes
    assert told[-1] == (result.images, result.images)


@pytest.mark.parametrize(("count", "noted"), [(2, True), (3, False), (4, True)])
def test_a_number_of_records_that_differs_from_the_published_one_is_noted(published, count, noted):
    """A record with several faults is one record."""
    file = published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps([rows[0] | {"src": "", "alt": ""}, *rows[1:]]), encoding="utf-8")
    found = check(replace(VLKEB, counts={"test": count}), located(published))
    assert found.records["eval.json"] == 2
    assert found.notes == [f"eval.json has 3 records, the published one {count}"] * noted


def test_a_fault_is_where_the_image_is_named_first(published):
    images, file = published / "vlkeb" / "images", published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows[2]["m_loc"] = rows[1]["image"]
    file.write_text(json.dumps(rows), encoding="utf-8")
    (images / rows[1]["image"]).unlink()
    told = []
    found = check(VLKEB, located(published), lambda done, total: told.append(done))
    assert [problem.partition(": no image")[0] for problem in found.problems] == [
        "eval.json, record 1: 'image'"
    ]
    assert told == list(range(1, found.images + 1))


def test_every_problem_is_named(published):
    images, file = published / "vlkeb" / "images", published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    (images / rows[0]["image"]).unlink()
    (images / rows[1]["m_loc"]).write_bytes((images / rows[1]["m_loc"]).read_bytes()[:300])
    (images / rows[2]["image_rephrase"]).write_text("no image")
    rows[1]["alt"] = ""
    (published / "vlkeb" / "train.json").write_text(
        json.dumps([{**rows[2], "src": 4}, *rows[:2]]), encoding="utf-8"
    )
    rows[1]["alt"] = "sound"
    file.write_text(json.dumps(rows), encoding="utf-8")
    problems = check(VLKEB, located(published)).problems
    assert problems[:2] == [
        "train.json, record 0: 'src' is int, not text",
        "train.json, record 2: 'alt' is empty",
    ]
    assert [
        problem.partition(": no image")[0] for problem in problems if "no image at" in problem
    ] == ["train.json, record 1: 'image'"]
    assert any(
        "eval.json, record 1: 'm_loc': cannot read the image" in problem for problem in problems
    )
    assert any("'image_rephrase'" in problem and "not an image" in problem for problem in problems)
    assert len(problems) == 5


def test_images_elsewhere_are_one_problem(published):
    found = locate(VLKEB, [published / "vlkeb"], published)
    [problem] = check(VLKEB, found).problems
    assert "give the folder that holds m." in problem


@pytest.fixture
def hub(published, monkeypatch):
    """A Hub that has VLKEB: annotations and a packed folder of images."""

    def download(repo, *, repo_type, local_dir):
        assert (repo, repo_type) == ("HymanH/VLKEB-data", "dataset")
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        for file in (published / "vlkeb").glob("*.json"):
            (local_dir / file.name).write_bytes(file.read_bytes())
        with tarfile.open(local_dir / "VLKEB_images.tar.gz", "w:gz") as packed:
            packed.add(published / "vlkeb" / "images", "mmkb_images")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.mark.usefixtures("hub")
def test_fetch_downloads_and_unpacks_once(tmp_path):
    found = fetch(VLKEB, tmp_path / "vlkeb")
    assert check(VLKEB, found).problems == []
    assert found.images == tmp_path / "vlkeb" / "VLKEB_images" / "mmkb_images"
    assert fetch(VLKEB, tmp_path / "vlkeb") == found


@pytest.mark.usefixtures("hub")
def test_fetch_leaves_a_folder_of_the_user_s_alone(tmp_path):
    own = tmp_path / "vlkeb" / "eval.json"
    own.parent.mkdir()
    own.write_text("corrected")
    with pytest.raises(BadInput, match="move it away, or use it by `liveedit data add vlkeb`"):
        fetch(VLKEB, tmp_path / "vlkeb")
    assert [*own.parent.iterdir()] == [own]
    assert own.read_text() == "corrected"


@pytest.mark.usefixtures("hub")
def test_a_damaged_archive_leaves_nothing_half_unpacked(tmp_path, monkeypatch):
    whole = huggingface_hub.snapshot_download

    def cut_off(repo, *, repo_type, local_dir):
        whole(repo, repo_type=repo_type, local_dir=local_dir)
        archive = local_dir / "VLKEB_images.tar.gz"
        archive.write_bytes(archive.read_bytes()[:900])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cut_off)
    with pytest.raises(BadInput, match="is damaged: delete it"):
        fetch(VLKEB, tmp_path / "vlkeb")
    assert not (tmp_path / "vlkeb" / "VLKEB_images").exists()


@pytest.mark.usefixtures("hub")
def test_an_archive_writes_nowhere_else(tmp_path, monkeypatch):
    whole = huggingface_hub.snapshot_download

    def with_more(repo, *, repo_type, local_dir):
        whole(repo, repo_type=repo_type, local_dir=local_dir)
        with tarfile.open(local_dir / "more.tar", "w") as archive:
            for name in ("../outside.txt", "inside.txt"):
                archive.addfile(tarfile.TarInfo(name))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", with_more)
    fetch(VLKEB, tmp_path / "vlkeb")
    assert (tmp_path / "vlkeb" / "more" / "inside.txt").exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_offline_is_one_clear_line(tmp_path):
    with pytest.raises(BadInput, match="connect and run `liveedit data fetch vlkeb`"):
        fetch(VLKEB, tmp_path / "vlkeb")


def test_what_no_hub_has_says_where_it_is(tmp_path):
    with pytest.raises(BadInput, match="download annotations and images from"):
        fetch(source("e-ic"), tmp_path)
