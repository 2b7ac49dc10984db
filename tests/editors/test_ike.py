"""IKE's prompts."""

import pytest

from helpers.samples import plain
from liveedit.editors.ike import IKE, IKEConfig, case_demonstrations
from liveedit.errors import UnknownName
from liveedit.types import Case, Probe, Query

FLAG = plain("red")
EDIT = Query("What is this?", "Japan", FLAG)


def editor(vlm, encoder, **settings):
    return IKE(vlm, IKEConfig(retriever=encoder, **settings))


def prompts(ike, patch, *queries):
    return [patch.rewrite(query)[0].prompt for query in queries]


def test_the_fact_comes_before_the_question(vlm, sentence_encoder):
    ike = editor(vlm, sentence_encoder)
    asked = Query("Name it.", image=FLAG)
    assert prompts(ike, ike.edit([EDIT]), asked) == [
        "New Fact: What is this? Japan\nPrompt: Name it."
    ]


def test_demonstrations_copy_reword_and_leave_alone():
    probes = (
        Probe("reliability", EDIT),
        Probe("text_generality", Query("Name it.", "Japan", FLAG)),
        Probe("text_locality", Query("Who sang it?", "Nobody"), "before"),
        Probe("image_locality", Query("What is that?", "a cup", FLAG), "before"),
    )
    assert case_demonstrations(Case("one", (EDIT,), probes)) == [
        "New Fact: What is this? Japan\nPrompt: What is this? Japan\n\n",
        "New Fact: What is this? Japan\nPrompt: Name it. Japan\n\n",
        "New Fact: What is this? Japan\nPrompt: Who sang it? Nobody\n\n",
    ]


@pytest.mark.slow
def test_the_k_most_similar_demonstrations_come_first(vlm, sentence_encoder):
    ike = editor(vlm, sentence_encoder, k=3, demonstrations="emblem")
    fact = "What is this? Japan"
    query = f"New Fact: {fact}\nPrompt: {fact}\n\n"
    encode = ike.retriever.sentences
    scores = [float(vector @ encode([query])[0]) for vector in encode(ike.demonstrations)]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[:3]
    expected = (
        "".join(ike.demonstrations[place] for place in order)
        + f"New Fact: {fact}\nPrompt: What is this?"
    )
    assert prompts(ike, ike.edit([EDIT]), EDIT) == [expected]


def test_every_query_has_the_nearest_edit_as_context(vlm, sentence_encoder):
    ike = editor(vlm, sentence_encoder)
    other = Query("Who sang the song?", "Nobody")
    patch = ike.edit([EDIT, other])
    assert all(
        prompt.startswith("New Fact: ")
        for prompt in prompts(ike, patch, Query("?"), Query("?", image=FLAG))
    )
    assert "Nobody" in prompts(ike, patch, Query(other.prompt))[0]


def test_an_unknown_benchmark_is_named(vlm, sentence_encoder):
    with pytest.raises(UnknownName, match="emblem"):
        editor(vlm, sentence_encoder, demonstrations="emblen").edit([EDIT])
