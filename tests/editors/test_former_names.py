"""Editors and edits of the time when `liveedit` and `pinpoint` were one method."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from helpers.samples import QUESTION
from helpers.tiny_settings import SMALL
from liveedit.editable import EditableVLM, embedded
from liveedit.editors import load_editor, new_editor
from liveedit.errors import BadInput, Mismatch
from liveedit.types import Query

POOL = Path(__file__).parents[1] / "assets" / "pool-1"
"""Two edits by the shipped editor of commit 982c603, whose name was liveedit."""
FIXED = {
    "pinpoint": {"generator": "aligned", "features": "metric", "negatives": "hard", "gate": "both"},
    "liveedit": {
        "generator": "released",
        "features": "released",
        "negatives": "released",
        "gate": "vision",
    },
}


def former(editor, folder, **changes):
    """Save an editor in the former format, and return the fingerprint that it had then."""
    settings = {"written": None, "drop": 0.0} | asdict(editor.config) | FIXED[editor.name] | changes
    settings.pop("keys", None)
    editor.save_pretrained(folder)
    about = {"editor": "liveedit", "model": editor.vlm.fingerprint, "config": settings}
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    free = {"positions", "gate", "margin", "top_k", "text_only", "generality", "locality"}
    shaping = {name: value for name, value in settings.items() if name not in free}
    digest = sha256(json.dumps(["liveedit", shaping], sort_keys=True).encode())
    for name, tensor in sorted(editor.networks().state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


@pytest.mark.parametrize("name", FIXED)
def test_an_editor_opens_under_its_name_of_today_with_its_fingerprint(vlm, name, tmp_path):
    made = new_editor(vlm, name, SMALL[name])
    fingerprint = former(made, tmp_path)
    opened = load_editor(vlm, tmp_path)
    assert (opened.name, opened.config, opened.fingerprint) == (name, made.config, fingerprint)


def test_a_mixture_of_both_is_refused_in_one_line(vlm, tmp_path):
    former(new_editor(vlm, "liveedit", SMALL["liveedit"]), tmp_path, gate="both")
    with pytest.raises(BadInput, match=r"^this editor mixes .* train one of them$"):
        load_editor(vlm, tmp_path)


def test_edits_of_the_former_shipped_editor_open_and_can_be_added_to(embedded_vlm, emblem):
    any_successor = new_editor(embedded_vlm, "pinpoint", {"layer": 5})
    model = EditableVLM(embedded_vlm, any_successor)
    model.load(POOL)
    flag, other = emblem.drawing("twemoji", "flag-jp"), emblem.drawing("circle-flags", "flag-jp")
    second = emblem.drawing("twemoji", "flag-nz")
    asked = [
        Query(QUESTION, image=flag),
        Query("Tell me the name of the country with this flag.", image=other),
    ]
    assert model.generate([*asked, Query(QUESTION, image=second)]) == ["Papua New Guinea"] * 2 + [
        "Brazil"
    ]
    [firing] = model.explain(asked[0]).fired
    made = firing.edit
    weight = firing.weight
    assert (made.id, weight) == ("177e377d", pytest.approx(0.9968, abs=1e-3))
    third = emblem.drawing("twemoji", "flag-fr")
    model.edit(Query(QUESTION, "Norway", third))
    assert model.generate(Query(QUESTION, image=third)) == ["Norway"]
    model.forget("177e377d")
    assert model.generate(asked[0]) == model.unedited(asked[0])


def test_former_edits_are_saved_and_opened_again(embedded_vlm, tmp_path):
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("pinpoint")))
    model.load(POOL)
    model.save(tmp_path / "again")
    model.load(tmp_path / "again")
    assert [edit.target for edit in model.edits] == ["Papua New Guinea", "Brazil"]


def test_a_changed_former_editor_does_not_keep_its_fingerprint(embedded_vlm):
    editor = load_editor(embedded_vlm, embedded("pinpoint-1"))
    editor.adopt_fingerprint("other")
    assert editor.fingerprint == "other"
    with torch.no_grad():
        editor.norm.weight.add_(1.0)
    assert editor.fingerprint != "other"


def test_another_method_does_not_open_former_edits(embedded_vlm):
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("grace")))
    with pytest.raises(Mismatch, match=r"made by another editor \(liveedit\)"):
        model.load(POOL)
