"""Runners of commands, and the files of the odd inputs, made by the names that the inputs use."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from liveedit.cli import main
from liveedit.store.listing import Listing
from liveedit.types import Query, Record

QUESTION = "What is the country with this flag?"
WORDS = {
    "Q": QUESTION,
    "LONG": "x" * 300,
    "FIFTY": "What is this?\n" * 50,
    "THIRTY": "one two three four five " * 6,
    "LONGT": "one two three " * 1000,
    "LONGQ": "what is this " * 7000,
}
"""Texts that the table abbreviates; ID is that of the edit in the pool, BEGINNING its start."""
TESTS = Path(__file__).parents[1]
FILES = {}
"""Functions that make a file or folder at a path, by its name; they may copy from ``shelf``."""


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process: its exit status, standard output and standard error."""
    disable_progress_bar()  # as `main` does, where transformers is not imported yet

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["liveedit", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return run


@pytest.fixture
def run_here(run, monkeypatch):
    """Run a command in this process, as ``run_apart`` does in another one, which takes seconds."""

    def run_here(*words, cwd="."):
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            status, out, err = run(*words)
        return subprocess.CompletedProcess(words, status, out, err)

    return run_here


@pytest.fixture(scope="session")
def run_apart():
    """Run a command in a process of its own."""

    def run_apart(*words, cwd=None):
        command = [sys.executable, "-c", "from liveedit.cli import main; main()", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)

    return run_apart


@pytest.fixture(scope="session")
def shelf(tmp_path_factory, emblem, embedded_vlm):
    """A folder of what takes time to make: a flag, edits, a tiny model and an editor for it."""
    from liveedit.editable import EditableVLM, embedded
    from liveedit.editors import load_editor, new_editor
    from liveedit.models.vlm import VLM

    folder = tmp_path_factory.mktemp("shelf")
    emblem.drawing("twemoji", "flag-jp").save(folder / "flag.png")
    for name, targets in {"pool": ["Brazil"], "pool-of-two": ["Brazil", "Peru"]}.items():
        edited = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("ft-l")))
        edited.opens_with = {"model": "emblem", "editor": "ft-l"}
        for number, target in enumerate(targets):
            edited.edit(
                Query(QUESTION if number == 0 else "What is this?", target, folder / "flag.png")
            )
        edited.save(folder / name)
    shutil.copytree(TESTS / "assets" / "parity" / "tiny-llava", folder / "tiny")
    tiny = VLM.load(folder / "tiny")
    new_editor(tiny, "liveedit", {"module_dim": 16, "heads": 2, "layer": 1}).save_pretrained(
        folder / "editor"
    )
    return folder


@pytest.fixture
def lay_out(shelf):
    """Make the files that words name in a folder; return the words, with abbreviations expanded."""
    id = Listing.read(shelf / "pool").edits[0].id

    def lay_out(words, folder):
        for word in words:
            path = re.sub(r"^(--\w+=|\./)", "", word)
            name = path if path in FILES else path.partition("/")[0]
            if name in FILES and not os.path.lexists(folder / name):
                FILES[name](folder / name, shelf)
        known = WORDS | {"ID": id, "BEGINNING": id[:4], "ID-and-more": f"{id}-and-more"}
        return [known.get(word, word) for word in words]

    return lay_out


def file(*names):
    """Register a function that makes the files of these names."""

    def register(function):
        for name in names:
            FILES[name] = function
        return function

    return register


def content(name, data):
    """Register a file with this content."""

    def write(path, _):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    FILES[name] = write


def damaged(name, source, change):
    """Register a copy of what the shelf has as ``source`` with a change made in it."""

    def copy(path, shelf):
        if (shelf / source).is_dir():
            shutil.copytree(shelf / source, path)
        else:
            shutil.copyfile(shelf / source, path)
        change(path)

    FILES[name] = copy


def picture(name, change, **how):
    """Register a picture made of the flag."""
    FILES[name] = lambda path, shelf: change(Image.open(shelf / "flag.png").convert("RGB")).save(
        path, **how
    )


# Pictures

FLAG = (
    "flag.png",
    "a flag.png",
    "-flag.png",
    "FLAG.PNG",
    "日本.png",
    "[red].png",
    "flag",
    "a\nb.png",
    "x" * 250,
)
for name in FLAG:
    picture(name, lambda flag: flag, format="png")
for name in (
    "flag.webp",
    "flag.bmp",
    "flag.gif",
    "flag.tiff",
    "flag.jpg",
    "flag.ppm",
    "flag.tga",
    "flag.jp2",
):
    picture(name, lambda flag: flag)
picture("png-called.jpg", lambda flag: flag, format="png")
picture("progressive.jpg", lambda flag: flag, progressive=True)
picture("palette.png", lambda flag: flag.quantize(16))
picture("cmyk.jpg", lambda flag: flag.convert("CMYK"))
picture("grey.png", lambda flag: flag.convert("L"))
picture(
    "grey16.png",
    lambda flag: Image.fromarray(np.asarray(flag.convert("L")).astype(np.uint16) * 257),
)
picture(
    "float.tiff",
    lambda flag: Image.fromarray(np.asarray(flag.convert("L")).astype(np.float32) / 255),
)
picture(
    "float-to-255.tiff",
    lambda flag: Image.fromarray(np.asarray(flag.convert("L")).astype(np.float32)),
)
picture("nan.tiff", lambda flag: Image.fromarray(np.full((8, 8), np.nan, np.float32)))
picture("int32.tiff", lambda flag: Image.fromarray(np.asarray(flag.convert("L")).astype(np.int32)))
picture("one-bit.png", lambda flag: flag.convert("1"))
picture("one-pixel.png", lambda flag: flag.resize((1, 1)))
picture("line.png", lambda flag: flag.resize((4000, 1)))
picture("large.png", lambda flag: flag.resize((3000, 3000), Image.Resampling.NEAREST))
picture("clear.png", lambda flag: Image.new("RGBA", flag.size))
picture(
    "animated.gif",
    lambda flag: flag,
    save_all=True,
    append_images=[Image.new("RGB", (72, 72), "red")],
)
picture(
    "animated.png",
    lambda flag: flag,
    save_all=True,
    append_images=[Image.new("RGB", (72, 72), "red")],
)
picture(
    "pages.tiff",
    lambda flag: flag,
    save_all=True,
    append_images=[Image.new("RGB", (72, 72), "red")],
)
picture("icon.ico", lambda flag: flag)


@file("turned.jpg")
def turned(path, shelf):
    """Lying on its side, with the note that turns it upright."""
    note = Image.Exif()
    note[0x0112] = 6
    Image.open(shelf / "flag.png").convert("RGB").rotate(90, expand=True).save(
        path, exif=note, quality=95
    )


@file("on-clear.png")
def on_clear(path, shelf):
    """The white of the flag made transparent, with black below."""
    pixels = np.asarray(Image.open(shelf / "flag.png").convert("RGB")).copy()
    white = (pixels > 250).all(-1)
    pixels[white] = 0
    Image.fromarray(np.dstack([pixels, np.where(white, 0, 255).astype(np.uint8)])).save(path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height):
    """A file that promises a picture of a size, and has almost none of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


content("bomb.png", png(60_000, 60_000))
content("no-size.png", png(0, 0))
content("half-data.png", png(64, 64))
content("text.png", "this is no picture")
content("empty.png", "")
content("drawing.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
content("paper.pdf", "%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n")
content("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
content("page.html", "<!DOCTYPE html><html><body>404</body></html>")
content("clip.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64))
content("zeros.png", bytes(4096))
content("notes.txt", "mine")
damaged("cut.png", "flag.png", lambda path: path.write_bytes(path.read_bytes()[:400]))
damaged(
    "tail.png",
    "flag.png",
    lambda path: path.write_bytes(path.read_bytes() + b"more behind the end"),
)
damaged(
    "flipped.png",
    "flag.png",
    lambda path: path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAQ", 1)),
)
damaged("zipped.png", "flag.png", lambda path: path.write_bytes(gzip.compress(path.read_bytes())))
FILES["cut.jpg"] = lambda path, shelf: (
    Image.open(shelf / "flag.png").convert("RGB").save(path),
    path.write_bytes(path.read_bytes()[:700]),
)
FILES["folder.png"] = lambda path, _: path.mkdir()
FILES["pipe.png"] = lambda path, _: os.mkfifo(path)
FILES["link.png"] = lambda path, shelf: path.symlink_to(shelf / "flag.png")
FILES["link-to-nothing.png"] = lambda path, _: path.symlink_to("gone.png")
FILES["link-to-itself.png"] = lambda path, _: path.symlink_to(path.name)
FILES["empty"] = lambda path, _: path.mkdir()

# Pools of edits

FILES["pool"] = lambda path, shelf: shutil.copytree(shelf / "pool", path)
FILES["edits"] = FILES["pool"]
FILES["pool-of-two"] = lambda path, shelf: shutil.copytree(shelf / "pool-of-two", path)
FILES["[a] pool"] = FILES["pool"]
FILES["pool-1"] = lambda path, _: shutil.copytree(TESTS / "assets" / "pool-1", path)
content("project/thesis.txt", "mine")
FILES["project"] = lambda path, shelf: FILES["project/thesis.txt"](path / "thesis.txt", shelf)
FILES["link-to-pool"] = lambda path, shelf: (
    shutil.copytree(shelf / "pool", path.with_name("kept")),
    path.symlink_to("kept"),
)


def listed(name, change, source="pool"):
    """Register a pool with a change in its listing."""

    def rewrite(path):
        stored = json.loads((path / "edits.json").read_text(encoding="utf-8"))
        made = change(stored)
        text = (
            made if isinstance(made, str | bytes) else json.dumps(stored if made is None else made)
        )
        (path / "edits.json").write_bytes(text.encode() if isinstance(text, str) else text)

    damaged(name, source, rewrite)


def tensors(path):
    """The file with the tensors of a pool."""
    [found] = path.rglob("weights.safetensors")
    return found


listed("pool-list", lambda stored: [])
listed("pool-null", lambda stored: "null")
listed("pool-empty-file", lambda stored: "")
listed("pool-cut", lambda stored: json.dumps(stored)[:200])
listed("pool-latin", lambda stored: b"\xff\xfe")
listed("pool-bare", lambda stored: {"version": 2})
listed("pool-deep", lambda stored: "[" * 100_000)
listed("pool-newer", lambda stored: stored | {"version": 99})
listed("pool-version", lambda stored: stored | {"version": "two"})
listed("pool-edits-number", lambda stored: stored | {"edits": 3})
listed("pool-edit-null", lambda stored: stored | {"edits": [None]})
listed("pool-no-target", lambda stored: stored["edits"][0].pop("target") and None)
listed("pool-target-number", lambda stored: stored["edits"][0].update(target=5))
listed("pool-about-text", lambda stored: stored["edits"][0].update(about="first"))
listed("pool-one-more", lambda stored: stored["edits"].append(dict(stored["edits"][0])))
listed("pool-one-fewer", lambda stored: stored["edits"].pop() and None, "pool-of-two")
listed("pool-elsewhere", lambda stored: stored | {"tensors": "../../etc"})
listed("pool-other-model", lambda stored: stored | {"model_fingerprint": "0" * 64})
listed("pool-other-editor", lambda stored: stored | {"editor_fingerprint": "0" * 64})
listed("pool-gone-editor", lambda stored: stored | {"editor": "livedit", "opens_with": {}})
listed("pool-gone-model", lambda stored: stored["opens_with"].update(model="/gone/model"))
listed("pool-half", lambda stored: stored["opens_with"].update(dtype="half"))
listed("pool-opens-list", lambda stored: stored | {"opens_with": [1]})
listed(
    "pool-brackets", lambda stored: stored["edits"][0].update(target="[/red] [bold]x[/] :smile:")
)
listed("pool-control", lambda stored: stored["edits"][0].update(target="a\x1b[31mb\u202ec\nd"))
listed("pool-surrogate", lambda stored: stored["edits"][0].update(target="\ud800"))
damaged("pool-cut-tensors", "pool", lambda path: os.truncate(tensors(path), 100))
damaged("pool-no-tensors", "pool", lambda path: tensors(path).unlink())
damaged("pool-text-tensors", "pool", lambda path: tensors(path).write_text("none"))
damaged(
    "pool-listing-folder",
    "pool",
    lambda path: ((path / "edits.json").unlink(), (path / "edits.json").mkdir()),
)
damaged("pool-with-notes", "pool", lambda path: (path / "NOTES.md").write_text("mine"))
damaged(
    "pool-with-draft",
    "pool",
    lambda path: (path / ".liveedit-00000000").write_text("left by a kill"),
)

# Models and editors


def changed(name, change):
    """Register the tiny model with a change in its config."""

    def rewrite(path):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps(change(config)), encoding="utf-8")

    damaged(name, "tiny", rewrite)


def replaced(name, part, data, source="tiny"):
    """Register a model, or another source, with one file replaced, or taken out where ``data`` is
    ``None``.
    """

    def rewrite(path):
        (path / part).unlink() if data is None else (path / part).write_bytes(data)

    damaged(name, source, rewrite)


FILES["tiny"] = lambda path, shelf: shutil.copytree(shelf / "tiny", path)
FILES["editor"] = lambda path, shelf: shutil.copytree(shelf / "editor", path)
changed("gpt2", lambda config: {"model_type": "gpt2"})
changed("unknown-type", lambda config: config | {"model_type": "newest-of-all"})
changed(
    "no-type", lambda config: {key: value for key, value in config.items() if key != "model_type"}
)
changed("type-number", lambda config: config | {"model_type": 7})
changed("list-config", lambda config: [])
changed(
    "wider",
    lambda config: config | {"text_config": config["text_config"] | {"intermediate_size": 99}},
)
changed(
    "deeper",
    lambda config: config | {"text_config": config["text_config"] | {"num_hidden_layers": 9}},
)
changed(
    "authors",
    lambda config: {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": 9,
    },
)
replaced("no-config", "config.json", None)
replaced("cut-config", "config.json", b'{"model_type": "lla')
replaced("empty-config", "config.json", b"")
replaced("deep-config", "config.json", b"[" * 100_000)
replaced("no-weights", "model.safetensors", None)
replaced("empty-weights", "model.safetensors", b"")
replaced(
    "text-weights",
    "model.safetensors",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
)
replaced("no-tokenizer", "tokenizer.json", None)
replaced("cut-tokenizer", "tokenizer.json", b'{"version": "1.0", "trunc')
replaced("cut-processor", "processor_config.json", b'{"image_proc')
replaced("no-processor", "processor_config.json", None)
damaged("cut-weights", "tiny", lambda path: os.truncate(path / "model.safetensors", 50_000))
damaged("nan-weights", "tiny", lambda path: nan_weights(path / "model.safetensors"))
replaced("editor-no-config", "config.json", None, "editor")
replaced("editor-cut-config", "config.json", b'{"edit', "editor")
replaced("editor-deep-config", "config.json", b"[" * 100_000, "editor")
replaced("editor-list-config", "config.json", b"[]", "editor")
damaged(
    "editor-cut-weights", "editor", lambda path: os.truncate(next(path.glob("*.safetensors")), 300)
)
damaged("editor-no-weights", "editor", lambda path: next(path.glob("*.safetensors")).unlink())


def nan_weights(path):
    from safetensors.torch import load_file, save_file

    save_file(
        {name: tensor * float("nan") for name, tensor in load_file(path).items()},
        path,
        {"format": "pt"},
    )


def edited_config(name, change):
    """Register the editor with a change in its config."""

    def rewrite(path):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps(change(config) or config), encoding="utf-8")

    damaged(name, "editor", rewrite)


edited_config("editor-unknown", lambda config: config | {"editor": "livedit"})
edited_config("editor-extra", lambda config: config["config"].update(leyer=3))
edited_config("editor-layer-text", lambda config: config["config"].update(layer="last"))
edited_config("editor-layer-beyond", lambda config: config["config"].update(layer=77))

# Benchmarks


def published(name, change, part="vlkeb/eval.json"):
    """Register the published files with a change in one of them."""

    def make(path, _):
        shutil.copytree(TESTS / "assets" / "published", path)
        for listing in path.rglob("*.json"):
            for row in json.loads(listing.read_text(encoding="utf-8")):
                for field in ("image", "image_rephrase", "m_loc"):
                    image = listing.parent / "images" / row[field]
                    image.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (24, 24), (40, 90, 120)).save(image)
        rows = json.loads((path / part).read_text(encoding="utf-8"))
        made = change(path, rows)
        if isinstance(made, bytes):
            (path / part).write_bytes(made)
        elif made is not None or rows:
            (path / part).write_text(json.dumps(rows if made is None else made), encoding="utf-8")

    FILES[name] = make


def as_folder(path):
    path.unlink()
    path.mkdir()


def first_image(path, rows):
    return path / "vlkeb" / "images" / rows[0]["image"]


published("published", lambda path, rows: None)
published("data-cut", lambda path, rows: json.dumps(rows)[:300].encode())
published("data-latin", lambda path, rows: b"\xff\xfe")
published("data-empty-file", lambda path, rows: b"")
published("data-dict", lambda path, rows: {"rows": 1})
published("data-empty-list", lambda path, rows: b"[]")
published("data-null", lambda path, rows: b"null")
published("data-deep", lambda path, rows: b"[" * 100_000)
published("data-rows-text", lambda path, rows: ["one", 2, None])
published("data-no-alt", lambda path, rows: rows[0].pop("alt") and None)
published("data-alt-number", lambda path, rows: rows[0].update(alt=5))
published("data-alt-blank", lambda path, rows: rows[0].update(alt="  "))
published("data-alt-unseen", lambda path, rows: rows[0].update(alt="\u200b"))
published("data-alt-half", lambda path, rows: rows[0].update(alt="\ud800"))
published(
    "data-alt-twice",
    lambda path, rows: json.dumps(rows).replace('"alt":', '"alt": "one", "alt":', 1).encode(),
)
published("data-mark", lambda path, rows: rows[0].update(src="What <image> is?"))
published("data-long", lambda path, rows: rows[0].update(loc_ans="one " * 9000))
published("data-image-list", lambda path, rows: rows[0].update(image=["a.jpg"]))
published("data-image-gone", lambda path, rows: first_image(path, rows).unlink())
published("data-image-cut", lambda path, rows: os.truncate(first_image(path, rows), 40))
published(
    "data-image-text", lambda path, rows: first_image(path, rows).write_text("no picture") and None
)
published("data-image-folder", lambda path, rows: as_folder(first_image(path, rows)))
published("data-image-above", lambda path, rows: rows[0].update(image="../../../gone.jpg"))
published(
    "data-port-text",
    lambda path, rows: rows[0].update(port_new="yes"),
    "vlkeb/eval_edit_onehop.json",
)
published(
    "data-port-blank",
    lambda path, rows: (
        rows[0]["port_new"][0].update(port_q="")
        if isinstance(rows[0]["port_new"], list)
        else rows[0]["port_new"].update(port_q="")
    ),
    "vlkeb/eval_edit_onehop.json",
)
published("data-no-train", lambda path, rows: (path / "vlkeb" / "train.json").unlink())
published(
    "data-twice",
    lambda path, rows: shutil.copytree(path / "vlkeb", path / "vlkeb" / "copy") and None,
)
published("data-newer", lambda path, rows: rows[0].update(more=1))
published("data-one-row", lambda path, rows: rows[:1])

# Records


def record(**changes):
    """One line of an evaluation."""
    values = {
        "editor": "ft-l", "data": "emblem", "edits": 1, "window": 0, "seed": 0, "case": "a",
        "probe": 0, "metric": "reliability", "wanted": "target", "prompt": QUESTION,
        "target": "Japan", "image": "", "note": "", "answer_before": "France",
        "answer_after": "Japan", "tokens_wanted": (1,), "tokens_after": (1,),
    }  # fmt: skip
    return json.dumps(asdict(Record(**values)) | changes) + "\n"


def records(name, data):
    """Register a folder of records."""
    FILES[name] = lambda path, _: (
        path.mkdir(),
        (path / "records-0.jsonl").write_bytes(data if isinstance(data, bytes) else data.encode()),
    )


records("run", record())
records("run-empty", "")
records("run-text", "hello\n")
records("run-list", "[]\n")
records("run-latin", b"\xff\xfe\n")
records("run-half", record() + record()[:50])
records("run-middle", record() + record()[:50] + "\n" + record())
records("run-missing", json.dumps({"editor": "a"}) + "\n")
records("run-more", record(colour="red"))
records("run-deep", "[" * 100_000 + "\n")
records("run-brackets", record(editor="[/red]", data="[bold]"))
records("run-tokens-null", record(tokens_wanted=None))
records("run-edits-text", record(edits="ten"))
records("run-seed-huge", record(seed=10**22))
records("run-metric-new", record(metric="something_new"))
records("run-image-gone", record(image="gone.png"))
records("run-fired-text", record(fired=["a"]))
records("run-blank-lines", "\n\n" + record() + "\n")
FILES["run-folder"] = lambda path, _: (path / "records-0.jsonl").mkdir(parents=True)
FILES["run-with-page"] = lambda path, shelf: (
    FILES["run"](path, shelf),
    (path / "index.html").write_text("my own page"),
)

# Settings


def settings(name, text):
    content(name, text if isinstance(text, str | bytes) else json.dumps(text))


for name, text in {
    "none.json": "", "cut.json": '{"training": {', "list.json": [1, 2], "number.json": 3,
    "null.json": None, "text.json": '"fast"', "latin.json": b"\xff\xfe{}",
    "deep.json": "[" * 100_000, "nan.json": '{"training": {"lr": NaN}}',
    "typo.json": {"trainig": {}}, "training-text.json": {"training": "fast"},
    "training-list.json": {"training": [1]}, "training-null.json": {"training": None},
    "editor-list.json": {"editor": [1]}, "editor-null.json": {"editor": None},
    "cases-zero.json": {"cases": 0}, "cases-many.json": {"cases": 10**9},
    "cases-true.json": {"cases": True}, "cases-text.json": {"cases": "two"},
    "cases-half.json": {"cases": 1.5}, "lr-text.json": {"training": {"lr": "fast"}},
    "lr-zero.json": {"training": {"lr": 0}}, "lr-minus.json": {"training": {"lr": -1}},
    "lr-huge.json": '{"training": {"lr": 1e999}}',
    "batch-zero.json": {"training": {"batch_size": 0}},
    "batch-half.json": {"training": {"batch_size": 2.5}},
    "batch-text.json": {"training": {"batch_size": "8"}},
    "steps-minus.json": {"training": {"steps": -5}},
    "steps-float.json": {"training": {"steps": 1e3}},
    "every-zero.json": {"training": {"checkpoint_every": 0}},
    "steps-typo.json": {"training": {"stpes": 5}},
    "schedule.json": {"training": {"schedule": "cosinus"}},
    "clip-minus.json": {"training": {"clip": -1}}, "seed-minus.json": {"training": {"seed": -1}},
    "seed-huge.json": {"training": {"seed": 2**40}},
    "cache-text.json": {"training": {"cache": "yes"}},
    "layer-text.json": {"editor": {"layer": "last"}}, "layer-minus.json": {"editor": {"layer": -1}},
    "layer-beyond.json": {"editor": {"layer": 999}},
    "locality.json": {"editor": {"locality": "image"}}, "drop.json": {"editor": {"drop": 2}},
    "heads-zero.json": {"editor": {"heads": 0}},
    "heads-odd.json": {"editor": {"heads": 7, "module_dim": 16}},
    "editor-typo.json": {"editor": {"leyer": 3}},
    "two-faults.json": {"training": {"lr": 0, "steps": 0}},
}.items():  # fmt: skip
    settings(name, text)
settings("bom.json", b'\xef\xbb\xbf{"training": {"lr": 0}}')
settings(
    "few.json",
    {
        "training": {"batch_size": 2, "steps": 1},
        "editor": {"module_dim": 16, "heads": 2, "layer": 1},
    },
)
content("damaged-home/data.json", "[]")
FILES["damaged-home"] = lambda path, shelf: FILES["damaged-home/data.json"](
    path / "data.json", shelf
)
FILES["folder.json"] = lambda path, _: path.mkdir()


def training(name, change):
    """Register a folder of a training with a change."""

    def make(path, _):
        path.mkdir()
        change(path)

    FILES[name] = make


training("training-cut", lambda path: (path / "training.json").write_text('{"st'))
training("training-list", lambda path: (path / "training.json").write_text("[]"))
training("training-deep", lambda path: (path / "training.json").write_text("[" * 100_000))
training("training-other", lambda path: (path / "training.json").write_text('{"seed": 5}'))
training("training-folder", lambda path: (path / "training.json").mkdir())
training("training-notes", lambda path: (path / "thesis.txt").write_text("mine"))


@file("archive.zip")
def archive(path, _):
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a.txt", "a")
