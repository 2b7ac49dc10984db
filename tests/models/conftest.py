"""Shared by the tests of models: tiny models, queries, saved checkpoints, one-line errors."""

from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from liveedit.models.tiny import tiny
from liveedit.types import Query


@pytest.fixture(scope="module")
def vlm():
    """A tiny LLaVA that the tests of a module share."""
    return tiny("llava")


@pytest.fixture(scope="session")
def flag():
    """An image, wider than high."""
    return Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint8).reshape(40, 60, 3))


@pytest.fixture(scope="session")
def queries():
    """A query about an image and a text-only one, of different lengths."""
    flag = Image.new("RGB", (40, 30), "red")
    return [Query("What is the country with this flag?", "Japan", flag), Query("who sang?", "me")]


@pytest.fixture(scope="session")
def save_checkpoint():
    """A function that saves a VLM as a Hugging Face checkpoint, and returns the folder."""

    def save(vlm, folder):
        vlm.model.save_pretrained(folder)
        vlm.processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def saved(tmp_path, save_checkpoint):
    """The folder of a tiny LLaVA's checkpoint, for one test alone."""
    return save_checkpoint(tiny("llava"), tmp_path)


@pytest.fixture(scope="session")
def one_line_error():
    """``pytest.raises`` that also requires a message of one line."""

    @contextmanager
    def raises(kind, match=""):
        with pytest.raises(kind, match=match) as caught:
            yield caught
        assert "\n" not in str(caught.value)

    return raises
