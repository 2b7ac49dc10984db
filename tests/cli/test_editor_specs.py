"""The value of `--editors`, parsed and loaded."""

import json

import pytest

from liveedit.cli.editor_specs import EditorSpec, load_editors, parse_specs
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
    return {
        label: editor.name
        for label, editor in load_editors(vlm, "tiny", parse_specs(text), trained).editors.items()
    }


def test_the_forms():
    assert parse_specs("ft-l, runs/serac") == [EditorSpec("ft-l"), EditorSpec("runs/serac")]
    assert parse_specs("liveedit:runs/a") == [EditorSpec("runs/a", "liveedit", "liveedit")]
    assert parse_specs("released=liveedit:runs/a") == [EditorSpec("runs/a", "released", "liveedit")]
    assert parse_specs("other=ft-l") == [EditorSpec("ft-l", "other")]
    assert parse_specs("all") == [EditorSpec("all")]


@pytest.mark.parametrize("text", ["", "ft-l,", "=ft-l", "a/b=ft-l", "a=", "liveedit:"])
def test_other_forms_are_refused(text):
    with pytest.raises(BadInput, match="--editors takes NAME"):
        parse_specs(text)


@pytest.mark.parametrize(
    "label", ["..", ".", ".hidden", "tables", "index.html", "TABLE.md", "failed.json", "a.jsonl"]
)
def test_labels_that_would_name_other_files_are_refused(label):
    for text in (f"{label}=ft-l", f"ft-m,{label}:runs/a"):
        with pytest.raises(BadInput, match="no editor can be called"):
            parse_specs(text)
    assert parse_specs("tables-2=ft-l,v1.5=ft-l,html=ft-l")[1] == EditorSpec("ft-l", "v1.5")


@pytest.mark.parametrize(
    ("source", "label"), [(".", "here"), ("..", "project"), ("../there/", "there")]
)
def test_what_cannot_be_loaded_is_called_after_its_folder(
    vlm, tmp_path, monkeypatch, source, label
):
    for name in ("here", "there"):
        (tmp_path / "project" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "here")
    assert [*load_editors(vlm, "tiny", parse_specs(f"ft-l,{source}"), tmp_path).failed] == [label]


@pytest.mark.parametrize("source", ["/", "./tables", "./.hidden"])
def test_what_cannot_be_loaded_and_has_no_folder_of_its_own_ends_it_all(
    vlm, tmp_path, monkeypatch, source
):
    for name in ("tables", ".hidden"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="holds no editor"):
        load_editors(vlm, "tiny", parse_specs(f"ft-l,{source}"), tmp_path)


def test_labels_keep_editors_of_one_method_apart(vlm, trained):
    found = labels(vlm, f"ft-l,slow=ft-l,liveedit,again=liveedit:{trained / 'liveedit'}", trained)
    assert found == {"ft-l": "ft-l", "slow": "ft-l", "liveedit": "liveedit", "again": "liveedit"}


def test_one_label_twice_is_refused(vlm, trained):
    with pytest.raises(BadInput, match="two editors are called 'liveedit'"):
        labels(vlm, f"liveedit,{trained / 'liveedit'}", trained)


def test_all_are_those_that_are_ready(vlm, trained, tmp_path):
    ready = load_editors(vlm, "tiny", parse_specs("all"), tmp_path)
    assert {label: editor.name for label, editor in ready.editors.items()} == {
        label: label for label in ready.editors
    }
    assert {"ft-l", "grace"} <= ready.editors.keys()
    assert "liveedit" not in ready.editors
    [line] = [line for line in ready.left_out if line.startswith("liveedit ")]
    assert f"liveedit train {tmp_path / 'liveedit'} --editor liveedit --model tiny" in line
    assert len(ready.editors) + len(ready.left_out) + len(ready.failed) == len(EDITORS)
    assert "liveedit" in labels(vlm, "all", trained)


def test_one_that_cannot_be_loaded_leaves_the_others(vlm, trained, tmp_path):
    for name, settings in (
        ("ike", {"retriever": str(tmp_path / "none")}),
        ("ft-l", {"lr": "fast"}),
    ):
        (tmp_path / name).mkdir()
        about = {"editor": name, "config": settings}
        (tmp_path / name / "config.json").write_text(json.dumps(about), encoding="utf-8")
    new_editor(vlm, "liveedit", SMALL).save_pretrained(tmp_path / "liveedit")
    weights = tmp_path / "liveedit" / "editor.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    ready = load_editors(vlm, "tiny", parse_specs("all,named=mend"), tmp_path)
    assert {"ft-m", "grace"} <= ready.editors.keys()
    assert "no sentence encoder" in str(ready.failed["ike"])
    assert "config.lr is 'fast'" in str(ready.failed["ft-l"])
    assert "cannot be read" in str(ready.failed["liveedit"])
    assert "has to be trained" in str(ready.failed["named"])
    assert "mend" not in {*ready.editors, *ready.failed}


def test_what_is_named_must_be_there(vlm, trained, tmp_path):
    with pytest.raises(BadInput, match="has to be trained for this model first: liveedit train"):
        labels(vlm, "liveedit", tmp_path)
    with pytest.raises(UnknownName, match="did you mean liveedit"):
        labels(vlm, "livedit", trained)
    with pytest.raises(Mismatch, match="holds an editor of the method 'liveedit', not 'grace'"):
        labels(vlm, f"grace:{trained / 'liveedit'}", trained)
    with pytest.raises(Mismatch, match="trained for another model"):
        labels(tiny("llava", seed=1), "liveedit", trained)
