"""Sentence vectors, and which edit a query is about."""

import pytest
import torch

from helpers.samples import BLUE, RED
from helpers.samples import ONE_QUESTION as EDITS
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.retriever import Retriever
from liveedit.editors.common.sentences import SentenceEncoder, load_encoder
from liveedit.errors import BadInput
from liveedit.types import Query


def retriever(vlm, encoder, **options):
    return Retriever(
        vlm, encoder, **{"by": "both", "threshold": 0.3, "image_threshold": 0.99} | options
    )


def bank(found):
    return Bank(found.keys([edit.prompt for edit in EDITS], EDITS))


def test_vectors_are_means_over_real_tokens_of_unit_length(sentence_encoder):
    texts = ["Who sang the song?", "a much longer text that has to be padded to"]
    encode = SentenceEncoder(sentence_encoder)
    tokenizer, model, _ = load_encoder(sentence_encoder)
    for text, vector in zip(texts, encode(texts), strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = sum(states) / len(states)
        torch.testing.assert_close(vector, mean / mean.norm())
    assert torch.equal(encode(texts[:1])[0], encode([*texts, *texts])[2])
    assert encode([]).shape == (0, encode.width)


def test_a_folder_without_encoder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no sentence encoder") as caught:
        SentenceEncoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_same_question_about_two_images_is_distinguished(vlm, sentence_encoder):
    found = retriever(vlm, sentence_encoder)
    held = bank(found)
    assert [found.find(held, edit) for edit in EDITS] == [0, 1, 2]
    by_text = retriever(vlm, sentence_encoder, by="text")
    assert by_text.find(held, EDITS[1]) == 0


def test_text_alone_and_an_image_are_about_different_things(vlm, sentence_encoder):
    found = retriever(vlm, sentence_encoder)
    held = bank(found)
    assert found.find(held, Query(EDITS[2].prompt)) == 2
    assert found.find(held.select([0, 1]), Query(EDITS[0].prompt)) is None
    assert found.find(held.select([2]), Query(EDITS[2].prompt, image=RED)) is None


def test_thresholds_exclude_unrelated_edits_and_without_any_the_nearest_is_found(
    vlm, sentence_encoder
):
    held = bank(retriever(vlm, sentence_encoder))
    assert retriever(vlm, sentence_encoder, threshold=1.1).find(held, EDITS[0]) is None
    assert retriever(vlm, sentence_encoder, image_threshold=1.1).find(held, EDITS[0]) is None
    nearest = Retriever(vlm, sentence_encoder, "both")
    assert nearest.find(held, Query("something else", image=BLUE)) is not None
    assert nearest.find(Bank(nearest.no_keys), EDITS[0]) is None


def test_an_image_is_known_by_its_pixels(vlm, sentence_encoder, tmp_path):
    found = retriever(vlm, sentence_encoder)
    RED.save(tmp_path / "red.png")
    assert torch.equal(
        found.image_key(EDITS[0]), found.image_key(Query("?", image=tmp_path / "red.png"))
    )
    torch.testing.assert_close(found.image_key(EDITS[0]).norm(), torch.ones(()))
    mean = vlm.image_states(RED).mean(0)
    torch.testing.assert_close(found.image_key(EDITS[0]), mean / mean.norm())
