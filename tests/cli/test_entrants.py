"""Which editors `--editors` names, and which of them are ready."""

import pytest

from liveedit.cli.entrants import Entrant, entrants, load_entrants
from liveedit.editors import EDITORS, new_editor
from liveedit.errors import BadInput, Mismatch, UnknownName
from liveedit.models.tiny import tiny

SMALL = {"module_dim": 16, "heads": 2, "layer": 2}


@pytest.fixture(scope="module")
def vlm():
    return tiny("llava")


@pytest.fixture(scope="module")
def trained(vlm, tmp_path_factory):
    """A folder with one trained editor in it."""
    folder = tmp_path_factory.mktemp("editors")
    new_editor(vlm, "liveedit", SMALL).save_pretrained(folder / "liveedit")
    return folder


def labels(vlm, text, trained):
    return {label: editor.name for label, editor in load_entrants(vlm, "tiny", entrants(text), trained)[0].items()}


def test_the_forms():
    assert entrants("ft-l, runs/serac") == [Entrant("ft-l"), Entrant("runs/serac")]
    assert entrants("liveedit:runs/a") == [Entrant("runs/a", "liveedit", "liveedit")]
    assert entrants("released=liveedit:runs/a") == [Entrant("runs/a", "released", "liveedit")]
    assert entrants("other=ft-l") == [Entrant("ft-l", "other")]
    assert entrants("all") == [Entrant("all")]


@pytest.mark.parametrize("text", ["", "ft-l,", "=ft-l", "a/b=ft-l", "a=", "liveedit:"])
def test_other_forms_are_refused(text):
    with pytest.raises(BadInput, match="--editors takes NAME"):
        entrants(text)


def test_labels_keep_editors_of_one_method_apart(vlm, trained):
    found = labels(vlm, f"ft-l,slow=ft-l,liveedit,again=liveedit:{trained / 'liveedit'}", trained)
    assert found == {"ft-l": "ft-l", "slow": "ft-l", "liveedit": "liveedit", "again": "liveedit"}


def test_one_label_twice_is_refused(vlm, trained):
    with pytest.raises(BadInput, match="two editors are called 'liveedit'"):
        labels(vlm, f"liveedit,{trained / 'liveedit'}", trained)


def test_all_are_those_that_are_ready(vlm, trained, tmp_path):
    found, skipped = load_entrants(vlm, "tiny", entrants("all"), tmp_path)
    assert {label: editor.name for label, editor in found.items()} == {label: label for label in found}
    assert {"ft-l", "grace"} <= found.keys()
    assert "liveedit" not in found
    [line] = [line for line in skipped if line.startswith("liveedit ")]
    assert f"liveedit train {tmp_path / 'liveedit'} --editor liveedit --model tiny" in line
    assert len(found) + len(skipped) == len(EDITORS)
    assert "liveedit" in labels(vlm, "all", trained)


def test_what_is_named_must_be_there(vlm, trained, tmp_path):
    with pytest.raises(BadInput, match="has to be trained for this model first: liveedit train"):
        labels(vlm, "liveedit", tmp_path)
    with pytest.raises(UnknownName, match="did you mean liveedit"):
        labels(vlm, "livedit", trained)
    with pytest.raises(Mismatch, match="holds an editor of the method 'liveedit', not 'grace'"):
        labels(vlm, f"grace:{trained / 'liveedit'}", trained)
    with pytest.raises(Mismatch, match="trained for another model"):
        labels(tiny("llava", seed=1), "liveedit", trained)
