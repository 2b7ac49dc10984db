"""Settings fitted to a model and its cases: every trainable method can be made with them."""

import pytest

from liveedit.editors import EDITORS, editor_class, new_editor
from liveedit.train.config import TrainConfig, check_config, fitted
from liveedit.types import Case, Probe, Query

TRAINED = [name for name in EDITORS if EDITORS[name].trained and name != "lte"]
LONG = "a very long answer that has far more tokens than twelve of them for sure"


@pytest.fixture(scope="module")
def cases(emblem):
    """A case with a long answer and one without an image."""
    edits = [Query("What is it?", LONG, emblem.drawing("twemoji", "flag-jp")), Query("Who?", "Ada")]
    return [Case(str(n), (edit,), (Probe("reliability", edit),)) for n, edit in enumerate(edits)]


@pytest.mark.of_every_method("name")
@pytest.mark.parametrize("name", TRAINED)
def test_a_small_model_gets_small_networks(vlm, cases, name):
    method = editor_class(name)
    learned = [case for case in cases if method.learns_from(case)]
    settings = method.fitted(vlm, learned)
    editor = new_editor(vlm, name, settings)
    assert editor.config.eos
    sizes = sum(weight.numel() for weight in editor.networks().parameters())
    assert sizes < 2_000_000
    if name == "pinpoint":
        editor.edit([learned[0].edits[0]])  # the longest answer fits its rank


def test_methods_of_experts_learn_from_images_alone(cases):
    assert [editor_class("pinpoint").learns_from(case) for case in cases] == [True, False]
    assert [editor_class("mend").learns_from(case) for case in cases] == [True, True]


@pytest.mark.parametrize("width", [32, 192, 4096])
@pytest.mark.parametrize("count", [1, 7, 30, 5000])
def test_training_fits_the_number_of_cases(width, count):
    chosen = TrainConfig(**fitted(width, count))
    check_config(chosen, "")
    assert chosen.batch_size <= count
    assert 500 <= chosen.steps <= TrainConfig.steps
    if width == 4096 and count == 5000:
        assert chosen == TrainConfig()
