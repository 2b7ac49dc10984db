"""Downloads from the Hugging Face Hub: unpacked once, as a whole, and never over other files."""

import tarfile

import huggingface_hub
import pytest

from liveedit.data.published.checks import check
from liveedit.data.published.hub import fetch
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

VLKEB = source("vlkeb")


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
