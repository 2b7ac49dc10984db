"""What several tests share: the embedded model, loaded once a process."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores


@pytest.fixture(scope="session")
def emblem():
    from liveedit.data.emblem import Emblem

    return Emblem()


@pytest.fixture(scope="session")
def embedded_vlm():
    from liveedit.editable import load_vlm

    return load_vlm()


@pytest.fixture
def model(embedded_vlm):
    """The embedded model with its editor and no edit."""
    from liveedit.editable import EditableVLM, embedded
    from liveedit.editors import load_editor

    return EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("liveedit")))
