"""Shared fixtures: the embedded model, loaded once a process, and records of benchmarks."""

import json
import os
import shutil
import signal
from pathlib import Path
from zlib import crc32

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores
# A shell ignores Ctrl-C in what it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

FAMILIES = ("llava", "blip2", "qwen2_vl")
"""Families that differ in what editors depend on: decoder, image tokens and positions."""
ONE_IN = 30
"""By default a method runs one in so many of the tests that are marked ``of_every_method``."""
DEMONSTRATIONS = 100
"""IKE has one in so many of its demonstrations: encoding all of them takes a minute."""


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "families(*names): run with `vlm` a tiny model of each of these families, by default three",
    )
    config.addinivalue_line(
        "markers",
        "of_every_method(parameter): it is the method; most pairs of method and test are slow",
    )
    config.addinivalue_line(
        "markers", "one_in(n): of the test's parameters, all but one in n are slow"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave most tests that are marked ``of_every_method`` or ``one_in`` to ``make test-all``."""
    from liveedit.editors import EDITORS

    items[:] = [item for item in items if _is_in_part(item)]

    methods = list(EDITORS)
    for item in items:
        share = item.get_closest_marker("one_in")
        if share is not None and crc32(item.nodeid.encode()) % share.args[0]:
            item.add_marker("slow")
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if method := _method(item):
            test, _, parameters = item.nodeid.partition("[")
            test += parameters.replace(method, "", 1)
            if (crc32(test.encode()) + methods.index(method)) % ONE_IN:
                item.add_marker("slow")
                item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{method}"))


def _is_in_part(item):
    """Whether a test is run where ``PRODUCT_PART=1/2``, say, asks for the second half of those that
    are marked ``product``. All tests of a type of model are in one part.
    """
    part, _, parts = os.environ.get("PRODUCT_PART", "0/1").partition("/")
    if item.get_closest_marker("product") is None:
        return True
    group = item.get_closest_marker("xdist_group")
    name = str(group.args[0]) if group and group.args else item.nodeid
    return crc32(name.encode()) % int(parts) == int(part)


def _method(item):
    """The method of a test that is marked ``of_every_method``; empty for others."""
    marker = item.get_closest_marker("of_every_method")
    if marker is None or not hasattr(item, "callspec"):
        return ""
    return item.callspec.params.get(*marker.args, "")


def pytest_generate_tests(metafunc):
    """Let ``vlm`` be of each of the families that the test or its module is marked with."""
    marker = metafunc.definition.get_closest_marker("families")
    if marker is not None and "vlm" in metafunc.fixturenames:
        metafunc.parametrize("vlm", marker.args or FAMILIES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def vlm(request):
    """A tiny LLaVA, or a tiny model of each family of the mark ``families``, once a module."""
    from liveedit.models.tiny import tiny

    return tiny(getattr(request, "param", "llava"))


@pytest.fixture(scope="session")
def emblem():
    from liveedit.data.emblem import Emblem

    return Emblem()


@pytest.fixture
def flag(emblem):
    """A drawing of Japan's flag."""
    return emblem.drawing("twemoji", "flag-jp")


@pytest.fixture(scope="session")
def embedded_vlm():
    from liveedit.editable import load_vlm

    return load_vlm()


@pytest.fixture(scope="session")
def shipped_editor(embedded_vlm):
    """A function that loads an editor for the embedded model that ships with the package."""
    from liveedit.editable import embedded
    from liveedit.editors import load_editor

    def load(name):
        editor = load_editor(embedded_vlm, embedded(name))
        if getattr(editor.config, "demonstrations", ""):
            editor.demonstrations = editor.demonstrations[::DEMONSTRATIONS]
        return editor

    return load


@pytest.fixture
def model(embedded_vlm):
    """The embedded model with its editor and no edit."""
    from liveedit.editable import EditableVLM, embedded
    from liveedit.editors import load_editor

    return EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("pinpoint")))


@pytest.fixture(scope="session")
def wide_llava(tmp_path_factory):
    """The folder of a random LLaVA that is 64 wide: 4-bit weights come in blocks of that length."""
    from liveedit.models.tiny import families as tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WIDTH", 64)
        patch.setitem(tiny.VISION, "hidden_size", 64)
        patch.setitem(tiny.VISION, "intermediate_size", 64)
        vlm = tiny.tiny("llava")
    folder = tmp_path_factory.mktemp("wide")
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory):
    """The folder of a tiny random sentence encoder."""
    import torch
    import transformers

    from liveedit.models.tiny.tokenizer import tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    text = tokenizer("<s>", ["</s>", "<pad>"])
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(text), **sizes)).save_pretrained(
        folder
    )
    text.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folders mmedit/ and vlkeb/ with a few records each and drawn images in images/; nothing
    is added yet.
    """
    from PIL import Image

    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    root = tmp_path / "published"
    shutil.copytree(Path(__file__).parent / "assets" / "published", root)
    for file in sorted(root.rglob("*.json")):
        for number, row in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            for field in ("image", "image_rephrase", "m_loc"):
                image = file.parent / "images" / row[field]
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24), (40 * number, 90, 120)).save(image)
    return root


@pytest.fixture
def added(published):
    """The same, with all three added."""
    from liveedit.data.published.locations import add_location, locate
    from liveedit.data.published.sources import source

    for name, folder in (("e-vqa", "mmedit"), ("e-ic", "mmedit"), ("vlkeb", "vlkeb")):
        add_location(
            name, locate(source(name), [published / folder], published / folder / "images")
        )
    return published
