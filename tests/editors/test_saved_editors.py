"""The folder of a trained editor: replaced whole, and only where it is one."""

import json

import pytest

from liveedit.editable import embedded
from liveedit.editors import load_editor
from liveedit.editors.pinpoint.editor import Pinpoint
from liveedit.errors import BadInput


@pytest.fixture(scope="module")
def editors(embedded_vlm):
    """The embedded editor, and one of other weights and another inference setting."""
    first = Pinpoint.from_pretrained(embedded_vlm, embedded("pinpoint"))
    second = Pinpoint.from_pretrained(embedded_vlm, embedded("pinpoint"), margin=0.75)
    next(second.networks().parameters()).data += 1
    return first, second


def test_an_editor_is_replaced_by_another(editors, embedded_vlm, tmp_path):
    for editor in editors:
        editor.save_pretrained(tmp_path)
        again = load_editor(embedded_vlm, tmp_path)
        assert (again.fingerprint, again.config) == (editor.fingerprint, editor.config)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "config.json",
            "editor.safetensors",
        ]


def test_a_kill_between_the_two_files_leaves_the_new_editor(editors, embedded_vlm, tmp_path):
    first, second = editors
    first.save_pretrained(tmp_path)
    settings = (tmp_path / "config.json").read_text()
    second.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(settings)
    again = load_editor(embedded_vlm, tmp_path)
    assert (again.fingerprint, again.config) == (second.fingerprint, second.config)


def test_a_setting_changed_in_the_file_counts(editors, embedded_vlm, tmp_path):
    editors[0].save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about["config"]["margin"] = 0.75
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert load_editor(embedded_vlm, tmp_path).config.margin == 0.75


def test_an_editor_without_the_mark_is_replaced_too(editors, embedded_vlm, tmp_path):
    from safetensors.torch import load_file, save_file

    editors[0].save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "editor.safetensors"), tmp_path / "editor.safetensors")
    editors[1].save_pretrained(tmp_path)
    assert load_editor(embedded_vlm, tmp_path).fingerprint == editors[1].fingerprint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "llava"}'),
        ("config.json", "mine"),
        ("config.json", '{"editor": "serac", "model": "m", "config": {}}'),
        ("editor.safetensors", "mine"),
    ],
)
def test_unrelated_files_are_not_replaced(editors, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match="choose another folder") as caught:
        editors[0].save_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, content)]
