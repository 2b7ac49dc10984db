"""Edits and editors on a Hugging Face Hub, served on loopback to its real client."""

import pytest
from huggingface_hub import ModelCard

from helpers.hub_server import serving
from helpers.samples import EDITS, RED
from liveedit.data import load_cases
from liveedit.editable import EditableVLM, load
from liveedit.editors import load_editor, new_editor
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.evaluate import Evaluation
from liveedit.measures.protocols import Windows
from liveedit.report import read_records, summary
from liveedit.types import Query

QUESTION = "What is the country with this flag?"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def edited(flag):
    """The embedded model, as `load` gives it, with one edit."""
    model = load()
    model.edit(Query(QUESTION, "Brazil", flag), who="Ada", why="a test")
    return model


def card(hub, repo):
    return ModelCard(hub.files[repo]["README.md"].decode())


def test_edits_go_to_the_hub_and_come_back(hub, edited, flag, tmp_path):
    address = edited.push_to_hub("someone/flags", private=True, license="mit")
    assert address.endswith("someone/flags")
    assert hub.visibility == {"someone/flags": "private"}
    found = card(hub, "someone/flags")
    assert found.data.library_name == "liveedit"
    assert found.data.pipeline_tag == "image-text-to-text"
    assert found.data.license == "mit"
    assert {"liveedit", "pinpoint"} <= set(found.data.tags)
    assert f"| {QUESTION} | Brazil |" in found.text
    again = EditableVLM.from_pretrained("someone/flags", store=tmp_path / "edits.db")
    assert again.edits == edited.edits
    assert again.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    with pytest.raises(BadInput, match="give a new store"):
        EditableVLM.from_pretrained("someone/flags", store=tmp_path / "edits.db")


@pytest.mark.slow
def test_what_is_pushed_again_replaces_what_was_there(hub, edited):
    edited.push_to_hub("someone/flags")
    edited.forget(edited.edits[0].id)
    edited.push_to_hub("someone/flags")
    tensors = [path for path in hub.files["someone/flags"] if path.startswith("tensors-")]
    assert len(tensors) == 1
    assert EditableVLM.from_pretrained("someone/flags").edits == ()


def test_another_repository_is_left_alone(hub, edited):
    hub.create("someone", "model", None)
    hub.files["someone/model"]["model.safetensors"] = b"theirs"
    with pytest.raises(BadInput, match="holds no edits but something else"):
        edited.push_to_hub("someone/model")
    assert hub.files["someone/model"].keys() == {".gitattributes", "model.safetensors"}


def test_hidden_edits_cannot_be_read(edited, flag, tmp_path):
    edited.save_pretrained(tmp_path / "out", hide_edits=True)
    content = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*.*"))
    for told in (QUESTION, "Brazil", "Ada", "a test"):
        assert told.encode() not in content
    assert "Their owner does not show them" in ModelCard.load(tmp_path / "out" / "README.md").text
    again = EditableVLM.from_pretrained(tmp_path / "out")
    assert again.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    again.forget(again.edits[0].id)
    assert again.generate(Query(QUESTION, image=flag)) == ["Japan"]


@pytest.mark.parametrize("method", ["ft-l", "ike"])
@pytest.mark.families("llava")
def test_edits_that_must_be_readable_are_not_hidden(vlm, method, tmp_path, sentence_encoder):
    settings = {"retriever": sentence_encoder} if method == "ike" else {}
    edited = EditableVLM(vlm, new_editor(vlm, method, settings))
    with pytest.raises(BadInput, match="publish them listed, or not at all"):
        edited.save_pretrained(tmp_path / "out", hide_edits=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.families("llava")
def test_the_editor_and_the_model_are_named_or_travel_along(vlm, tmp_path):
    vlm.model.save_pretrained(tmp_path / "model")
    vlm.processor.save_pretrained(tmp_path / "model")
    made = load(tmp_path / "model", "ft-l")
    made.edit(EDITS[0])
    made.save_pretrained(tmp_path / "out", base_model="someone/llava")
    found = ModelCard.load(tmp_path / "out" / "README.md")
    assert found.data.base_model == "someone/llava"
    assert str(tmp_path) not in (tmp_path / "out" / "edits.json").read_text()
    again = EditableVLM.from_pretrained(tmp_path / "out", tmp_path / "model")
    assert again.generate(Query(EDITS[0].prompt, image=RED)) == made.generate(
        Query(EDITS[0].prompt, image=RED)
    )
    unnamed = EditableVLM(vlm, new_editor(vlm, "direct", {"rank": 2}))
    unnamed.save_pretrained(tmp_path / "unnamed")
    with pytest.raises(BadInput, match="give it as `model`"):
        EditableVLM.from_pretrained(tmp_path / "unnamed")
    again = EditableVLM.from_pretrained(tmp_path / "unnamed", tmp_path / "model")
    assert again.editor.fingerprint == unnamed.editor.fingerprint


def test_a_question_cannot_break_the_card(model, flag, tmp_path):
    model.edit(Query("a | b\n<script>*", "`x`", flag))
    model.save_pretrained(tmp_path / "out")
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    assert r"| a \| b \<script\>\* | \`x\` |" in text


@pytest.mark.slow
def test_a_card_states_the_scores_of_its_editor(hub, model, tmp_path):
    protocol = Windows(edits=(1,), max_cases=2, ask=2)
    evaluation = Evaluation(
        model.vlm, load_cases("emblem", "test"), protocol, data="emblem", seed=0
    )
    evaluation.add(model.editor, tmp_path / "run" / "pinpoint", "pinpoint")
    evaluation.run()
    model.push_to_hub("someone/flags", records=tmp_path / "run")
    results = card(hub, "someone/flags").data.eval_results
    assert {result.dataset_name for result in results} == {"emblem"}
    expected = {
        (row["score"], round(100 * row["value"], 1))
        for row in summary(read_records(tmp_path / "run"))["rows"]
        if row["metric"] == "average"
    }
    assert {(result.metric_type, result.metric_value) for result in results} <= expected
    with pytest.raises(Mismatch, match="no records of this editor"):
        load(editor="liveedit").editor.push_to_hub("someone/other", records=tmp_path / "run")


def test_an_editor_goes_to_the_hub_with_its_card(hub, model):
    editor = model.editor
    editor.push_to_hub("someone/editor", base_model="someone/llava")
    found = card(hub, "someone/editor")
    assert found.data.base_model == "someone/llava"
    assert found.data.eval_results is None
    assert load_editor(model.vlm, "someone/editor").fingerprint == editor.fingerprint
    with pytest.raises(BadInput, match="no Hugging Face id"):
        editor.push_to_hub("someone/editor", base_model="no id")


def test_a_hub_that_refuses_is_one_line(hub, edited):
    hub.create = None
    with pytest.raises(StorageError, match="cannot upload the edits to Hugging Face as") as caught:
        edited.push_to_hub("someone/flags")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="no edits in someone/else: give a folder"):
        EditableVLM.from_pretrained("someone/else")
