"""Files and folders: whole or not at all, only over our own, where the path leads."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveedit import artifacts
from liveedit.artifacts import (
    MARK,
    SUM,
    check_files,
    check_folder,
    checksum,
    discard,
    draft,
    locked,
    new_folder,
    read_tensors,
    resolved_path,
    sweep,
    write_file,
    write_files,
    write_tensors,
)
from liveedit.errors import BadInput, StorageError

TENSORS = {"a": torch.arange(4.0)}
THEIRS = (
    ".liveedit-backup",
    ".liveedit-0123abcde",
    ".liveedit-0123ABCD",
    ".liveedit-0123abcd.bak",
    ".liveedit.txt",
)
"""Unrelated names that begin like this package's."""


@pytest.fixture
def masked():
    """Other users may read, the group and others may not write."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o777


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Where to


def test_a_path_is_where_it_leads(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("there/further")
    assert resolved_path("~/mine") == tmp_path / "mine"
    assert resolved_path(".") == resolved_path("a/..") == tmp_path
    assert resolved_path("link") == tmp_path / "there" / "further"


@pytest.mark.parametrize("path", ["a\0b", "circle", "circle/file", "a" * 300])
def test_a_path_that_leads_nowhere(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises((BadInput, StorageError)) as caught:
        write_file(path, b"")
    assert "\n" not in str(caught.value)


def test_a_folder_may_be_taken_if_it_is_nobodys(tmp_path):
    for found in ("not there", "empty", "full disk", "ours"):
        (tmp_path / found).mkdir(exist_ok=found != "not there")
    (tmp_path / "not there").rmdir()
    (tmp_path / "full disk" / "lost+found").mkdir()  # what a disk of its own begins with
    (tmp_path / "full disk" / ".liveedit-0123abcd").touch()
    (tmp_path / "ours" / "edits.json").touch()
    (tmp_path / "ours" / "NOTES.md").touch()
    for found in ("not there", "empty", "full disk", "ours"):
        check_folder(tmp_path / found, "edits.json")
    with pytest.raises(BadInput, match=r"NOTES\.md.* and no training\.json"):
        check_folder(tmp_path / "ours", "training.json")
    with pytest.raises(BadInput, match="is a file"):
        check_folder(tmp_path / "ours" / "NOTES.md", "edits.json")


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_with_something_called_almost_as_ours_is_somebodys(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match=f"holds other files .{re.escape(name)}"):
        check_folder(tmp_path, "edits.json")


# Files


@pytest.mark.usefixtures("masked")
def test_a_new_file_has_the_permissions_that_umask_grants(tmp_path):
    assert mode(write_file(tmp_path / "new" / "a.json", b"{}")) == 0o644
    assert mode(write_tensors(tmp_path / "a.safetensors", TENSORS, {})) == 0o644
    with new_folder(tmp_path / "folder") as part:
        save_file(TENSORS, part / "a.safetensors")
    assert (mode(tmp_path / "folder"), mode(tmp_path / "folder" / "a.safetensors")) == (
        0o755,
        0o644,
    )


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    file = write_file(tmp_path / "secret", b"old")
    file.chmod(0o600)
    write_file(file, b"new")
    assert (mode(file), file.read_bytes(), names(tmp_path)) == (0o600, b"new", ["secret"])


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/file")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["far", "link"]


@pytest.mark.parametrize("stop", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there(tmp_path, stop):
    file = write_file(tmp_path / "file", b"old")

    def overwrite():
        with draft(file) as part:
            part.write_bytes(b"ne")
            raise stop

    def make():
        with new_folder(tmp_path / "folder") as part:
            (part / "half").touch()
            raise stop

    with pytest.raises(type(stop)):
        overwrite()
    with pytest.raises((StorageError, KeyboardInterrupt)):
        make()
    assert (names(tmp_path), file.read_bytes()) == (["file"], b"old")


def test_a_disk_that_is_full_is_one_line(tmp_path):
    file = write_tensors(tmp_path / "a.safetensors", TENSORS, {"of": "old"})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(StorageError, match=r"File too large.*free some space") as caught:
            write_tensors(file, {"a": torch.zeros(1000)}, {"of": "new"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    assert (read_tensors(file)[1], names(tmp_path)) == ({"of": "old"}, ["a.safetensors"])


def test_the_checksum_covers_the_metadata(tmp_path):
    file = write_tensors(tmp_path / "a.safetensors", TENSORS, {"of": "Brazil"})
    file.write_bytes(file.read_bytes().replace(b"Brazil", b"Hacked"))
    with pytest.raises(BadInput, match="its content is not what was saved"):
        read_tensors(file)
    save_file(TENSORS, file, {"of": "1", MARK: "1", SUM: checksum(TENSORS)})  # as it once was
    assert read_tensors(file)[1] == {"of": "1"}


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(StorageError, match="no file"):
        write_file(tmp_path / "file", b"")
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="taken"):
        write_file(tmp_path / "taken" / "file", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_read_only_stays(tmp_path):
    file = write_file(tmp_path / "file", b"old")
    file.chmod(0o444)
    with pytest.raises(StorageError, match="read-only"):
        write_file(file, b"new")
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match="Permission denied"):
        write_file(tmp_path / "other", b"new")
    tmp_path.chmod(0o755)
    assert file.read_bytes() == b"old"


def test_drafts_that_a_kill_left_are_cleared_away_a_day_later(tmp_path):
    (tmp_path / ".liveedit-00000000").touch()
    (tmp_path / ".liveedit-11111111").mkdir()
    (tmp_path / ".liveedit-22222222").touch()
    for name in (".liveedit-00000000", ".liveedit-11111111"):
        os.utime(tmp_path / name, (0, 0))
    write_file(tmp_path / "file", b"")
    assert names(tmp_path) == [".liveedit-22222222", "file"]


@pytest.mark.parametrize("name", THEIRS)
def test_only_drafts_are_cleared_away(tmp_path, name):
    for kept in (tmp_path / name, tmp_path / f"{name}-file"):
        kept.mkdir() if kept.name == name else kept.touch()
        os.utime(kept, (0, 0))
    write_file(tmp_path / "file", b"")
    sweep(tmp_path, age=0)
    discard(tmp_path)
    assert names(tmp_path) == sorted([name, f"{name}-file", "file"])


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    file = write_file(tmp_path / "file", b"old")
    fsync = os.fsync
    seen = []

    def noted(descriptor):
        seen.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, file.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_file(file, b"new")
    assert seen == [("file", b"old"), (tmp_path.name, b"new")]


def test_tensors_of_somebody_else_are_not_cleared_away(tmp_path):
    write_tensors(tmp_path / "ours.safetensors", TENSORS, {})
    save_file(TENSORS, tmp_path / "theirs.safetensors")
    discard(tmp_path)
    assert names(tmp_path) == ["theirs.safetensors"]


# Whose


def test_tensors_are_written_over_our_own_alone(tmp_path):
    ours, before, theirs, notes = (
        tmp_path / f"{name}.safetensors" for name in ("ours", "before", "theirs", "notes")
    )
    write_tensors(ours, TENSORS, {"of": "old"})
    save_file(
        TENSORS, before, {"editor": "e", "model": "m"}
    )  # as patches were before there was a mark
    save_file(TENSORS, theirs, {"format": "pt"})
    notes.write_text("mine")
    for file in (ours, before):
        write_tensors(file, {"b": torch.ones(2)}, {"of": "new"})
        assert read_tensors(file)[1] == {"of": "new"}
    for file in (theirs, notes):
        kept = file.read_bytes()
        with pytest.raises(BadInput, match="not written by LiveEdit"):
            write_tensors(file, TENSORS, {})
        assert file.read_bytes() == kept


def test_files_are_written_over_our_own_alone(tmp_path):
    write_files(tmp_path, {"table.md": b"1", "tables/a.csv": b"1"})
    write_files(tmp_path, {"table.md": b"2", "page.html": b"2"})
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(BadInput, match=r"notes\.md was not written by LiveEdit"):
        write_files(tmp_path, {"table.md": b"3", "notes.md": b"3"})
    with pytest.raises(BadInput, match=r"notes\.md"):
        check_files(tmp_path, ["notes.md"])
    assert [(tmp_path / name).read_text() for name in ("table.md", "tables/a.csv", "notes.md")] == [
        "2",
        "1",
        "mine",
    ]
    write_files(tmp_path, {"tables/a.csv": b"4"})
    assert (tmp_path / "tables" / "a.csv").read_bytes() == b"4"


def test_a_file_that_somebody_has_changed_is_theirs(tmp_path):
    write_files(tmp_path, {"table.md": b"1", "page.html": b"1"})
    write_files(tmp_path, {"table.md": b"2"})
    (tmp_path / "table.md").write_text("mine")
    for content in (b"2", b"3"):
        with pytest.raises(BadInput, match=r"table\.md is not as LiveEdit wrote it: move it away"):
            write_files(tmp_path, {"page.html": b"2", "table.md": content})
    assert [(tmp_path / name).read_text() for name in ("table.md", "page.html")] == ["mine", "1"]
    (tmp_path / "table.md").unlink()
    write_files(tmp_path, {"table.md": b"3"})
    assert (tmp_path / "table.md").read_bytes() == b"3"


def test_a_kill_between_files_leaves_them_ours(tmp_path, monkeypatch):
    write_files(tmp_path, {"a": b"1", "b": b"1"})
    with monkeypatch.context() as killed:
        whole = artifacts.write_file

        def until_b(file, content, advice=""):
            if file.name == "b":
                raise KeyboardInterrupt
            return whole(file, content, advice)

        killed.setattr(artifacts, "write_file", until_b)
        with pytest.raises(KeyboardInterrupt):
            write_files(tmp_path, {"a": b"2", "b": b"2"})
    write_files(tmp_path, {"a": b"3", "b": b"3"})
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"3", b"3"]


def test_a_manifest_from_before_it_said_what_was_written(tmp_path):
    (tmp_path / ".liveedit.json").write_text('{"files": ["table.md"]}')
    (tmp_path / "table.md").write_text("ours")
    write_files(tmp_path, {"table.md": b"new"})
    assert (tmp_path / "table.md").read_bytes() == b"new"


def test_a_folder_from_before_there_were_manifests(tmp_path):
    (tmp_path / "table.md").touch()
    write_files(tmp_path, {"table.md": b"new"}, allow_unmarked=True)
    (tmp_path / "notes.md").touch()
    with pytest.raises(BadInput, match=r"notes\.md"):  # it has a manifest now
        write_files(tmp_path, {"notes.md": b"new"}, allow_unmarked=True)


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"files": 3}', '{"files": {"notes.md": 3}}', '{"files": ["notes.md"']
)
def test_a_damaged_manifest_claims_nothing(tmp_path, damage):
    (tmp_path / ".liveedit.json").write_text(damage)
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(BadInput, match=r"notes\.md"):
        write_files(tmp_path, {"notes.md": b"new"})


def test_a_new_folder_is_new(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadInput, match="already exists"), new_folder(tmp_path / "mine"):
        pass
    (tmp_path / "link").symlink_to("far")
    with new_folder(tmp_path / "link") as part:
        (part / "file").touch()
    assert (names(tmp_path / "far"), names(tmp_path)) == (["file"], ["far", "link", "mine"])


# One at a time


def test_a_thread_waits_for_another(tmp_path, caplog):
    order = []

    def other():
        with locked(tmp_path):
            order.append("other")

    with locked(tmp_path), locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        while "waiting" not in caplog.text:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_who_waits_in_vain_is_told_in_one_line(tmp_path, caplog):
    code = (
        "from liveedit.artifacts import locked\n"
        f"with locked({str(tmp_path)!r}): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with (
            pytest.raises(StorageError, match="in use by another process") as caught,
            locked(tmp_path, patience=0.1),
        ):
            pass
        assert "\n" not in str(caught.value)
        assert caplog.text.count("waiting") == 1
        with (
            pytest.raises(StorageError, match="in use by another process"),
            locked(tmp_path, patience=0),
        ):
            pass
        assert caplog.text.count("waiting") == 1
        other.kill()
        other.wait()
        with locked(tmp_path, patience=10):  # a lock does not outlive its process
            pass


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with locked(tmp_path / "new"):
        pass
    with locked(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert names(tmp_path) == ["empty", "kept"]


def test_a_folder_that_goes_while_it_is_locked(tmp_path):
    with locked(tmp_path / "new"):
        shutil.rmtree(tmp_path / "new")
    with locked(tmp_path / "new"):
        pass
    assert names(tmp_path) == []


def test_threads_that_change_a_file_lose_nothing(tmp_path):
    def add():
        for _ in range(20):
            with locked(tmp_path / "new"):
                file = tmp_path / "new" / "count"
                count = json.loads(file.read_text()) if file.exists() else 0
                write_file(file, json.dumps(count + 1).encode())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "new" / "count").read_text() == "80"


def test_where_nothing_can_be_locked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"), locked(tmp_path / "file" / "folder"):
        pass


def test_a_folder_whose_names_cannot_be_synced(tmp_path, monkeypatch):
    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    assert artifacts.write_file(tmp_path / "file", b"new").read_bytes() == b"new"
