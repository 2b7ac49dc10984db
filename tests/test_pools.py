"""Folders of edits: they survive kills and full disks, and no unrelated file is touched."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.samples import QUESTION
from liveedit.editable import EditableVLM
from liveedit.errors import BadInput, LiveEditError, Mismatch, StorageError
from liveedit.store.edit import Edit
from liveedit.store.listing import Listing
from liveedit.types import Query

VERSION_1 = Path(__file__).parent / "assets" / "pool-version-1"
FILES = [".liveedit.lock", "edits.json"]


@pytest.fixture
def edited(model, flag):
    model.edit(Query(QUESTION, "Brazil", flag))
    return model


@pytest.fixture
def pool(edited, tmp_path):
    return edited.save(tmp_path / "pool")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rewrite_listing(pool, **changes):
    """Change fields of the listing."""
    file = pool / "edits.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Folders of edits


def test_saving_again_replaces_the_edits_and_leaves_other_files(edited, flag, pool):
    inode = pool.stat().st_ino
    notes = pool / "NOTES.md"
    notes.write_text("mine")
    (pool / "tensors-00000000").mkdir()  # of a kill
    (pool / "tensors-11111111").mkdir()
    (pool / "tensors-11111111" / "mine.txt").write_text("mine")
    edited.edit(Query("What is the capital of this country?", "Lima", flag))
    edited.save(pool)
    edited.load(pool)
    assert len(edited.edits) == 2
    assert (notes.read_text(), pool.stat().st_ino) == ("mine", inode)
    assert names(pool) == [
        *FILES[:1],
        "NOTES.md",
        "edits.json",
        *sorted(["tensors-11111111", Listing.read(pool).tensors]),
    ]
    assert names(pool / "tensors-11111111") == ["mine.txt"]


def test_a_folder_with_unrelated_files_is_refused(edited, tmp_path, monkeypatch):
    (tmp_path / "project" / "data").mkdir(parents=True)
    (tmp_path / "project" / "thesis.txt").write_text("three years of work")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "edits.json").write_text('["a list of mine"]')
    monkeypatch.chdir(tmp_path)
    for place in ("project", "notes.txt", ".", "list"):
        with pytest.raises(BadInput) as caught:
            edited.save(place)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["list", "notes.txt", "project"]
    assert names(tmp_path / "project") == ["data", "thesis.txt"]
    assert names(tmp_path / "list") == ["edits.json"]


def test_home_links_and_empty_folders(edited, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    (tmp_path / "here").mkdir()
    assert edited.save("~/mine") == tmp_path / "home" / "mine"
    edited.save("link")
    monkeypatch.chdir(tmp_path / "here")
    edited.save(".")
    assert names(tmp_path) == ["far", "here", "home", "link"]
    assert (tmp_path / "link").is_symlink()
    for place in ("~/mine", tmp_path / "far", tmp_path / "link", "."):
        edited.load(place)
        assert len(edited.edits) == 1


def test_the_permissions_are_those_of_umask(edited, tmp_path):
    before = os.umask(0o027)
    try:
        pool = edited.save(tmp_path / "pool")
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (pool, *pool.glob("edits.json"), *pool.rglob("*.saf*"))
    }
    assert modes == {"pool": 0o750, "edits.json": 0o640, "liveedit.safetensors": 0o640}


# Former versions, other models, damage


def test_edits_of_version_1_open_and_are_written_anew(model, flag, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(VERSION_1, pool)
    about = {
        "editor": model.editor.fingerprint,
        "model": model.vlm.fingerprint,
    }  # should the trained editor be another
    rewrite_listing(
        pool,
        editor=model.editor.name,
        editor_fingerprint=about["editor"],
        model_fingerprint=about["model"],
    )
    save_file(load_file(pool / "liveedit.safetensors"), pool / "liveedit.safetensors", about)
    save_file({"mine": torch.zeros(1)}, pool / "mine.safetensors")
    model.load(pool)
    [edit] = model.edits
    assert edit == Edit(
        "d98954c5", QUESTION, "Norway", "91718be0adf41292", "2026-11-27T03:00:16.532150+00:00"
    )
    model.edit(Query("What is the capital of this country?", "Lima", flag))
    model.save(pool)
    model.load(pool)
    assert model.edits[0] == edit
    assert names(pool) == [*FILES, "mine.safetensors", Listing.read(pool).tensors]


def test_fields_of_newer_versions_are_ignored(edited, pool):
    listed = json.loads((pool / "edits.json").read_text())
    [row] = listed["edits"]
    rewrite_listing(
        pool,
        later=True,
        edits=[
            {name: row[name] for name in ("id", "prompt", "target", "image", "time")} | {"x": 1}
        ],
    )
    edited.load(pool)
    assert edited.edits[0].names == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 3}, "another version"),
        ({"model_fingerprint": "0" * 64}, "on emblem with other weights"),
        ({"model_fingerprint": "0" * 64, "opens_with": {}}, "another model"),
        (
            {"editor_fingerprint": "0" * 64},
            "made by somebody/liveedit before it was trained further",
        ),
        ({"editor_fingerprint": "0" * 64, "opens_with": {"editor": "a/b"}}, "another editor .a/b."),
        (
            {"editor": "grace", "editor_fingerprint": "0" * 64, "opens_with": {}},
            "another editor .grace.",
        ),
        ({"opens_with": {"prompt_format": "chat"}}, "another prompt format .chat."),
    ],
)
def test_edits_of_another_model_or_editor_are_refused_by_name(
    edited, flag, tmp_path, changes, says
):
    edited.opens_with = {"model": "emblem", "editor": "somebody/liveedit"}
    pool = edited.save(tmp_path / "pool")
    rewrite_listing(pool, **changes)
    edited.edit(Query("What is the capital of this country?", "Lima", flag))
    with pytest.raises(Mismatch, match=says) as caught:
        edited.load(pool)
    assert "\n" not in str(caught.value)
    assert len(edited.edits) == 2


ROW = {"id": "1", "prompt": "p", "target": "t", "image": "", "time": ""}


@pytest.mark.parametrize(
    "changes",
    [
        {"edits": None},
        {"edits": {}, "tensors": None},
        {"edits": [None]},
        {"edits": ["text"]},
        {"edits": []},
        {"edits": [ROW, ROW]},
        {"edits": [ROW | {"id": 7}]},
        {"edits": [ROW | {"prompt": None}]},
        {"edits": [ROW | {"target": "\ud800"}]},
        {"edits": [ROW | {"names": "text"}]},
        {"edits": [ROW | {"names": [1]}]},
        {"edits": [ROW | {"about": "last"}]},
        {"edits": [{"id": "1"}]},
        {"tensors": "../../elsewhere"},
        {"tensors": ""},
        {"tensors": 5},
        {"editor": 1},
        {"model_fingerprint": None},
        {"opens_with": "text"},
        {"opens_with": {"model": 1}},
    ],
)
def test_a_damaged_listing_is_one_line(edited, pool, changes):
    before = edited.edits
    rewrite_listing(pool, **changes)
    with pytest.raises(BadInput, match="damaged") as caught:
        edited.load(pool)
    assert "\n" not in str(caught.value)
    assert edited.edits == before


def test_a_listing_that_leads_out_of_its_folder_is_damaged(edited, pool, tmp_path):
    [tensors] = pool.glob("tensors-*")
    tensors.rename(tmp_path / "elsewhere")
    rewrite_listing(pool, tensors="../elsewhere")
    with pytest.raises(BadInput, match="damaged"):
        edited.load(pool)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b'{"version": 2}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_listing_that_is_none_is_neither_read_nor_replaced(edited, tmp_path, content):
    (tmp_path / "edits.json").write_bytes(content)
    for use in (edited.load, edited.save):
        with pytest.raises(BadInput, match="damaged") as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "edits.json").read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text", "a folder"])
def test_damaged_tensors_are_one_line(edited, pool, damage):
    [file] = pool.glob("tensors-*/*.safetensors")
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes(
            {"cut": content[:-100], "empty": b"", "text": b"mine, not tensors"}[damage]
        )
    with pytest.raises(BadInput) as caught:
        edited.load(pool)
    assert "\n" not in str(caught.value)


# Failures at any moment


FULL = OSError(errno.ENOSPC, "No space left on device")


def failing(monkeypatch, counter, stop):
    """Let the ``counter``-th of all writes, syncs, renames and removals raise ``stop``."""
    left = [counter]

    def watch(owner, name):
        real = getattr(owner, name)

        def watched(*given, **named):
            left[0] -= 1
            if left[0] == 0:
                raise stop
            return real(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    for name in ("fsync", "replace", "rename", "mkdir", "chmod", "unlink", "rmdir", "open"):
        watch(os, name)
    watch(Path, "write_bytes")
    watch(Path, "open")
    watch(sys.modules["safetensors.torch"], "save_file")
    return left


@pytest.mark.parametrize(
    ("stop", "seen"), [(FULL, StorageError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_full_disk_and_ctrl_c_at_any_moment_lose_nothing(edited, flag, pool, stop, seen):
    more, found = (EditableVLM(edited.vlm, edited.editor) for _ in range(2))
    kept = shutil.copytree(pool, pool.with_name("kept"))
    more.load(kept)
    more.edit(Query("What is the capital of this country?", "Lima", flag))
    saved = False
    counter = 0
    while not saved:
        counter += 1
        shutil.rmtree(pool)
        shutil.copytree(kept, pool)
        with pytest.MonkeyPatch.context() as patch:
            left = failing(patch, counter, stop)
            with suppress(seen):
                more.save(pool)
                saved = left[0] > 0  # otherwise it was in clearing up
        found.load(pool)
        assert found.edits in (edited.edits, more.edits)
    assert counter > 10
    assert found.edits == more.edits
    assert names(pool) == [*FILES, Listing.read(pool).tensors]


def test_changes_by_others_are_not_overwritten(edited, flag, pool):
    one, other = (EditableVLM(edited.vlm, edited.editor) for _ in range(2))
    for model in (one, other):
        model.load(pool)
        model.edit(Query("What is the capital of this country?", "Lima", flag))
    one.save(pool)
    with pytest.raises(BadInput, match=r"others have changed the edits in .*: load them again"):
        other.save(pool)
    one.save(pool)
    other.save(pool.with_name("elsewhere"))
    other.load(pool)
    other.save(pool)
    assert other.edits == one.edits


def test_links_lead_to_no_other_pool(edited, flag, pool, tmp_path):
    tensors = Listing.read(pool).tensors
    before = {path: path.read_bytes() for path in pool.rglob("*") if path.is_file()}
    alike, listed = tmp_path / "alike", tmp_path / "listed"
    for folder in (alike, listed):
        folder.mkdir()
    shutil.copy(pool / "edits.json", alike)
    (alike / tensors).symlink_to(pool / tensors)
    (listed / "edits.json").symlink_to(pool / "edits.json")
    shutil.copytree(pool / tensors, listed / tensors)
    model = EditableVLM(edited.vlm, edited.editor)
    model.load(alike)
    model.edit(Query("What is the capital of this country?", "Lima", flag))
    model.save(alike)
    assert not (alike / tensors).exists()
    with pytest.raises(BadInput, match="is a link to the edits of another folder"):
        model.save(listed)
    assert {path: path.read_bytes() for path in pool.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["edits.json", ".liveedit.lock"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")])
def test_our_names_for_what_is_no_file_are_reported(edited, tmp_path, name, make):
    folder = tmp_path / "pool"
    folder.mkdir()
    make(folder / name)
    model = EditableVLM(edited.vlm, edited.editor)
    with pytest.raises(LiveEditError, match=re.escape(str(folder / name))) as caught:
        model.save(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_two_edits_of_one_id_are_damage(edited, pool):
    stored = json.loads((pool / "edits.json").read_text(encoding="utf-8"))
    stored["edits"] = [stored["edits"][0]] * 2
    (pool / "edits.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(BadInput, match="is damaged"):
        EditableVLM(edited.vlm, edited.editor).load(pool)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor * torch.nan if tensor.is_floating_point() else tensor,
        lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor,
        lambda tensor: tensor[..., :1].clone(),
        lambda tensor: tensor[:, None].clone(),
    ],
    ids=["no numbers", "another type", "cut", "another shape"],
)
def test_changed_tensors_are_damage(edited, pool, change):
    file = pool / Listing.read(pool).tensors / "liveedit.safetensors"
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file, about)
    with pytest.raises(BadInput, match="is damaged, its content is not what was saved"):
        EditableVLM(edited.vlm, edited.editor).load(pool)


def test_a_first_save_that_fails_leaves_no_trace(edited, tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        edited.save(tmp_path / "pool")
    assert names(tmp_path) == []


KILLED = """
import os, random, signal, sys, time
import liveedit
from liveedit import Query
from liveedit.data.emblem import Emblem

pool, most = sys.argv[1], 4  # edits at most
flag = Emblem().drawing("twemoji", "flag-jp")
model = liveedit.load()
model.edit([Query(f"question {number}", "Brazil", flag) for number in range(most)])
model.save(pool + "-full")
model.save(pool)
random.seed(0)

def saving(acknowledged):
    while True:
        if model.edits:
            model.forget(model.edits[-1].id)
        else:
            model.load(pool + "-full")
        model.save(pool)
        os.write(acknowledged, bytes([len(model.edits)]))

last = most
for _ in range(15):
    read, write = os.pipe()
    if not (child := os.fork()):
        saving(write)
    os.close(write)
    time.sleep(random.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    last = (bytes([last]) + os.read(read, 100000))[-1]
    os.close(read)
    model.load(pool)
    assert len(model.edits) in (last, last - 1 if last else most), (last, len(model.edits))
    last = len(model.edits)
model.save(pool)
print("alive")
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_last_state_or_the_next(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "pool")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr
    assert names(tmp_path / "pool") == [
        ".liveedit.lock",
        "edits.json",
        Listing.read(tmp_path / "pool").tensors,
    ]


def test_a_reader_gets_a_whole_state_while_another_saves(edited, flag, pool, embedded_vlm):
    def save():
        for _ in range(20):
            edited.save(pool)

    reader = EditableVLM(embedded_vlm, edited.editor)
    thread = threading.Thread(target=save)
    thread.start()
    reads = 0
    while thread.is_alive():
        reader.load(pool)
        reads += 1
        assert reader.edits == edited.edits
    thread.join()
    assert reads > 5
