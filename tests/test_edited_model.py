"""The Hugging Face model of an EditableVLM: pipelines and raw calls see the edits."""

import copy
from threading import Thread

import pytest
import torch
import transformers

from helpers.samples import EDITS
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.errors import BadInput
from liveedit.models.vlm import VLM
from liveedit.types import Query

QUESTION = "What is the country with this flag?"


@pytest.fixture
def brazil(flag):
    return Query(QUESTION, "Brazil", flag)


def asked(model, query):
    """The answer of transformers' own pipeline."""
    pipe = transformers.pipeline(
        "image-text-to-text", model=model.model, processor=model.vlm.processor
    )
    [found] = pipe(
        images=query.image,
        text=f"<image>\n{query.prompt}",
        max_new_tokens=8,
        return_full_text=False,
    )
    return found["generated_text"].strip()


def logits(model, vlm, query):
    """The logits of a raw call."""
    inputs = vlm.encode([Query(query.prompt, image=query.image)]).inputs
    with torch.no_grad():
        return model(**inputs).logits


def test_a_pipeline_sees_the_edits_and_their_undoing(model, brazil):
    assert asked(model, brazil) == "Japan"
    [edit] = model.edit(brazil)
    assert asked(model, brazil) == "Brazil"
    with model.disabled():
        assert asked(model, brazil) == "Japan"
    model.forget(edit.id)
    assert asked(model, brazil) == "Japan"


def test_an_edit_of_a_store_reaches_the_model_of_another_process(model, brazil, tmp_path):
    first, second = (EditableVLM(model.vlm, model.editor, tmp_path / "edits.db") for _ in "12")
    held = second.model
    before = logits(held, model.vlm, brazil)
    first.edit(brazil)
    assert not torch.equal(logits(held, model.vlm, brazil), before)


@pytest.mark.parametrize("method", ["grace", "ft-l"])
@pytest.mark.families("llava")
def test_raw_calls_of_other_methods_see_the_edits(vlm, method):
    edited = EditableVLM(vlm, new_editor(vlm, method))
    query = EDITS[0]
    before = logits(vlm.model, vlm, query)
    [edit] = edited.edit(query)
    after = logits(edited.model, vlm, query)
    with vlm.patched(edited.patch):
        assert torch.equal(after, logits(vlm.model, vlm, query))
    assert not torch.equal(after, before)
    assert torch.equal(logits(vlm.model, vlm, query), before)
    with edited.disabled():
        assert torch.equal(logits(edited.model, vlm, query), before)
    edited.forget(edit.id)
    assert torch.equal(logits(edited.model, vlm, query), before)


def test_a_streamed_answer_is_edited_whole(model, brazil):
    model.edit(brazil)
    tokenizer = model.vlm.processor.tokenizer
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    inputs = model.vlm.encode([Query(QUESTION, image=brazil.image)]).inputs
    options = {"streamer": streamer, "max_new_tokens": 8, "do_sample": False}
    thread = Thread(target=model.model.generate, kwargs={**inputs, **options})
    thread.start()
    assert "".join(streamer).removesuffix(tokenizer.eos_token).strip() == "Brazil"
    thread.join()


def test_the_model_is_a_hugging_face_model(model):
    edited = model.model
    assert isinstance(edited, transformers.LlavaForConditionalGeneration)
    assert edited.config is model.vlm.model.config
    assert edited.to("cpu").eval() is edited
    assert VLM(edited, model.vlm.processor).model is model.vlm.model


def test_edits_beside_the_weights_are_not_saved_silently(model, brazil, tmp_path):
    model.edit(brazil)
    with pytest.raises(BadInput, match=r"save them beside it, with EditableVLM\.save"):
        model.model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="copy its EditableVLM"):
        copy.deepcopy(model.model)


@pytest.mark.families("llava")
def test_edits_in_the_weights_are_saved(vlm, tmp_path):
    edited = EditableVLM(vlm, new_editor(vlm, "ft-l"))
    edited.edit(EDITS[0])
    edited.model.save_pretrained(tmp_path)
    again = type(vlm.model).from_pretrained(tmp_path).eval()
    found = logits(again, vlm, EDITS[0])
    assert torch.allclose(found, logits(edited.model, vlm, EDITS[0]), atol=1e-5)
    assert not torch.allclose(found, logits(vlm.model, vlm, EDITS[0]), atol=1e-5)
