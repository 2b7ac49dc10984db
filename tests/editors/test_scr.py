"""SCR: which facts are retrieved, which one the model selects, and the prompts."""

from dataclasses import replace

import pytest

from helpers.samples import plain
from liveedit.editors.scr import ANSWER, NONE, SCR, SCRConfig
from liveedit.errors import BadInput
from liveedit.types import Query

FLAG, OTHER = plain("red"), plain("blue")
EDIT = Query("What is this?", "Japan", FLAG)
FILM = Query("Which film is this?", "Rain", FLAG)
SONG = Query("Who sang the song?", "Nobody")


def editor(vlm, encoder, **settings):
    """SCR that retrieves every fact about the image of a question."""
    settings = {"threshold": -1.0, "image_threshold": 0.99} | settings
    return SCR(vlm, SCRConfig(retriever=encoder, **settings))


def says(monkeypatch, scr, answer):
    """Let the model say ``answer``, where a random one has nothing to say; return what it reads."""
    read = []

    def generate(queries, max_new_tokens):
        assert not scr.vlm.patches, "the unedited model selects"
        read.extend(queries)
        return [answer for _ in queries]

    monkeypatch.setattr(scr.vlm, "generate", generate)
    return read


def rewritten(scr, patch, query):
    """The prompt, and the edits that it holds."""
    with scr.vlm.patched(patch):
        found = patch.rewrite(query)
    return found.query.prompt, [edit for edit, _ in found.fired]


def test_the_nearest_fact_precedes_the_question_where_the_model_does_not_select(
    vlm, sentence_encoder
):
    scr = editor(vlm, sentence_encoder, select=False)
    prompt, fired = rewritten(scr, scr.edit([FILM, EDIT]), replace(EDIT, target=""))
    assert prompt == "Take this fact as true: What is this? Japan\nQuestion: What is this?"
    assert fired == [1]


@pytest.mark.parametrize(("threshold", "fires"), [(-1.0, True), (0.999, False)])
def test_facts_below_a_threshold_are_left_out(vlm, sentence_encoder, threshold, fires):
    scr = editor(vlm, sentence_encoder, select=False, threshold=threshold)
    asked = Query("Who is the one that sang that song there?")
    prompt, fired = rewritten(scr, scr.edit([SONG]), asked)
    assert (prompt == asked.prompt, fired) == (not fires, [0] if fires else [])


def test_a_fact_about_another_image_is_left_out_unless_the_text_alone_counts(vlm, sentence_encoder):
    elsewhere = Query(EDIT.prompt, image=OTHER)
    for by, fired in (("both", []), ("text", [0])):
        scr = editor(vlm, sentence_encoder, select=False, by=by)
        assert rewritten(scr, scr.edit([EDIT]), elsewhere)[1] == fired


def test_the_model_reads_the_k_nearest_facts_with_the_image(vlm, sentence_encoder, monkeypatch):
    scr = editor(vlm, sentence_encoder, k=2)
    patch = scr.edit([SONG, FILM, EDIT, replace(FILM, prompt="Where was it shot?")])
    read = says(monkeypatch, scr, "Which film is this? Rain")
    rewritten(scr, patch, replace(EDIT, target="Japan"))
    [asked] = read
    facts = asked.prompt.split("\n\n")[0].splitlines()[1:]
    assert facts[0] == "What is this? Japan"
    assert len(facts) == 2
    assert asked.image is FLAG
    assert "Question: What is this?" in asked.prompt


@pytest.mark.parametrize(
    ("said", "fired"),
    [
        ("Which film is this? Rain", [0]),
        ("What is this? Japan", [1]),
        (f"There is {NONE.title()}.", []),
    ],
)
def test_the_fact_that_the_model_repeats_is_used_as_it_was_stored(
    vlm, sentence_encoder, monkeypatch, said, fired
):
    scr = editor(vlm, sentence_encoder)
    patch = scr.edit([FILM, EDIT])
    says(monkeypatch, scr, said)
    prompt, found = rewritten(scr, patch, EDIT)
    assert found == fired
    if fired:
        fact = patch.contexts[fired[0]]
        assert prompt == ANSWER.format(fact=fact, question=EDIT.prompt)
    else:
        assert prompt == EDIT.prompt


def test_without_facts_the_model_is_not_asked(vlm, sentence_encoder, monkeypatch):
    scr = editor(vlm, sentence_encoder)
    patch = scr.edit([EDIT])
    read = says(monkeypatch, scr, NONE)
    assert rewritten(scr, patch, Query(EDIT.prompt, image=OTHER)) == (EDIT.prompt, [])
    assert read == []


def test_a_real_model_selects_within_an_answer(vlm, sentence_encoder):
    scr = editor(vlm, sentence_encoder, select_tokens=3)
    patch = scr.edit([FILM, EDIT])
    with vlm.patched(patch):
        [reply] = vlm.answers([replace(EDIT, target="")], max_new_tokens=2)
        assert vlm.patches == [patch]
    assert len(reply.fired) == 1, "random words are no refusal"


def test_braces_in_a_fact_or_a_question_stay(vlm, sentence_encoder):
    scr = editor(vlm, sentence_encoder, select=False, answer_prompt="{fact}|{question}")
    asked = Query("What is {fact}?", "{question}", FLAG)
    prompt, _ = rewritten(scr, scr.edit([asked]), asked)
    assert prompt == "What is {fact}? {question}|What is {fact}?"


@pytest.mark.parametrize(
    ("setting", "place"), [("select_prompt", "{facts}"), ("answer_prompt", "{fact}")]
)
def test_a_prompt_without_a_place_is_named(vlm, sentence_encoder, setting, place):
    with pytest.raises(BadInput, match=rf"scr.{setting} is '{{question}}': put {place}"):
        editor(vlm, sentence_encoder, **{setting: "{question}"})
