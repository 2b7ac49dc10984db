"""SERAC: the equations against loops, what the scope may see, and what the counterfactual model
writes.
"""

from math import exp, log

import pytest
import torch
import transformers

from helpers.measures import fired_under, logits_under, target_loss
from helpers.samples import FACT_CASES, FACT_EDITS, GREEN, MIXED, QUESTION, RED
from helpers.tiny_settings import SMALL
from liveedit.editors.common.attention import Part
from liveedit.editors.serac import Serac, SeracConfig
from liveedit.errors import BadInput
from liveedit.models.batch import HiddenBatch
from liveedit.models.conformance.reference import cut, raw_generate
from liveedit.models.tiny import tiny
from liveedit.types import Query

SETTINGS = SMALL["serac"] | {"layer": 1, "depth": 2, "tokens": 64, "drop": 0.0}


def make(family="llava", **changes):
    torch.manual_seed(0)
    editor = Serac(tiny(family), SeracConfig(**(SETTINGS | changes)))
    with torch.no_grad():
        editor.edit_features.sentinel.normal_(std=0.5)
        for scale in (editor.input_features.vision_scale, editor.input_features.text_scale):
            scale.fill_(log(3.0))
    return editor


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def editor(request):
    return make(request.param)


@pytest.fixture(scope="module")
def plain():
    return make()


@torch.no_grad()
def scores(editor, patch, query):
    """g(z_e, x) of one query for each edit, one at a time, from σ(m) σ(z)."""
    batch = editor.vlm.encode([query])
    bank = patch.bank
    bar = editor.input_features
    span = batch.spans[0]
    found = []
    hidden = editor.vlm.hidden(batch, editor.config.layer).hidden
    if editor.config.scope == "text":
        hidden = editor.vlm.model.get_input_embeddings()(batch.inputs["input_ids"])
    part = torch.ones(1, hidden.shape[1], dtype=torch.bool)
    image, prompt = (
        Part(hidden[:, slice(*where)], part[:, slice(*where)])
        for where in (span.image, span.prompt)
    )
    for e in range(len(patch)):
        psi = bar.text_key(prompt).flatten()
        z = float(psi @ bank["text_keys"][e].flatten()) / (4 * 4.0)
        shown = bool(bank["pictured"][e])
        if editor.config.scope == "text":
            found.append(1 / (1 + exp(-z)))
        elif shown != (query.image is not None):
            found.append(0.0)
        elif not shown:
            found.append(1 / (1 + exp(-z)))
        else:
            phi = bar.vision_key(image, prompt).flatten()
            sentinel = float(phi @ bar.sentinel_key(bar.question(prompt)).flatten()) / (4 * 4.0)
            m = float(phi @ bank["vision_keys"][e].flatten()) / (4 * 4.0) - sentinel
            found.append(1 / (1 + exp(-m)) / (1 + exp(-z)))
    return found


@pytest.mark.parametrize("scope", ["both", "text"])
def test_the_scope_is_that_of_the_paper(scope):
    editor = make(scope=scope, threshold=0.9)
    patch = editor.edit(FACT_EDITS)
    asked = [
        *FACT_EDITS,
        Query(QUESTION, image=GREEN),
        Query(QUESTION),
        Query("Which film is this?", image=RED),
    ]
    answered = fired_under(patch, editor.vlm, asked)
    for query, fired in zip(asked, answered, strict=True):
        expected = scores(editor, patch, query)
        best = max(range(len(patch)), key=expected.__getitem__)
        if expected[best] > 0.9:
            [(edit, score)] = fired
            assert edit == best
            assert score == pytest.approx(expected[best], abs=1e-4)
        else:
            assert fired == []
    assert any(answered)
    assert scope == "text" or not all(answered)


def test_out_of_scope_rows_of_a_mixed_batch_are_bit_equal(editor):
    patch = editor.edit(FACT_EDITS[:2])
    edited = logits_under(patch, editor.vlm, MIXED)
    unedited = logits_under(editor.empty(), editor.vlm, MIXED)
    fired = fired_under(patch, editor.vlm, MIXED)
    assert fired[0]
    assert not fired[1]
    for row, found in enumerate(fired):
        assert torch.equal(edited[row], unedited[row]) != bool(found)


def test_what_answers_is_the_counterfactual_model_on_edit_and_query(editor):
    vlm = editor.vlm
    query = FACT_EDITS[0]
    patch = editor.edit([query])
    got = logits_under(patch, editor.vlm, [query])
    batch = vlm.encode([query])
    span = batch.spans[0]
    ids = batch.inputs["input_ids"]
    taken = []
    handle = vlm.layers[0].register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    vlm.logits(batch)
    handle.remove()
    words = vlm.model.get_input_embeddings()(ids[:, span.prompt[0] : span.answer[1]])
    whole = torch.cat([words, taken[0]], 1)
    mask = torch.ones(whole.shape[:2], dtype=torch.long)
    with torch.no_grad():
        states = editor.counterfactual(whole, mask)[:, words.shape[1] :]
        last = HiddenBatch(states, batch.inputs["attention_mask"], batch.labels, batch.spans)
        torch.testing.assert_close(got, vlm.resume(vlm.num_layers - 1, last), rtol=1e-4, atol=1e-4)


def test_generation_in_mixed_batches_is_that_of_each_alone(editor):
    with editor.vlm.patched(editor.edit(FACT_EDITS[:2])):
        together = editor.vlm.generate(MIXED, max_new_tokens=5)
        assert together == [editor.vlm.generate([query], max_new_tokens=5)[0] for query in MIXED]


def test_raw_generation_sees_the_edits(editor):
    vlm = editor.vlm
    query = Query(QUESTION, image=RED)
    unedited = vlm.generate([query], max_new_tokens=4)
    with vlm.patched(editor.edit(FACT_EDITS)):
        [tokens] = raw_generate(vlm, vlm.encode([query]), 4).tolist()
        assert vlm.generate([query], max_new_tokens=4) == [cut(vlm, tokens)] != unedited


def test_a_scope_of_text_confuses_images_and_one_of_both_does_not_without_them(plain):
    text = make(scope="text")
    patch = text.edit(FACT_EDITS[:1])
    for image in (RED, GREEN, None):
        assert fired_under(patch, text.vlm, [Query(QUESTION, image=image)])[0], (
            "the same question is in scope, whatever is shown"
        )
    patch = plain.edit(FACT_EDITS[:1])
    assert fired_under(patch, plain.vlm, [Query(QUESTION)]) == [[]]


def test_the_likelihood_trained_is_that_of_the_edited_model(editor):
    patch = editor.edit(FACT_EDITS[:1])
    [example] = editor.prepare(FACT_CASES[:1])
    total, terms = editor.loss([example], torch.Generator())
    assert float(total.detach()) == pytest.approx(
        sum(float(term.detach()) for term in terms.values()), rel=1e-5
    )
    queries = {"reliability": FACT_EDITS[0], "text_generality": FACT_CASES[0].probes[0].query}
    for kind, query in queries.items():
        assert fired_under(patch, editor.vlm, [query])[0]
        with editor.vlm.patched(patch):
            nll = target_loss(editor.vlm, [query])
        assert float(terms[kind].detach()) == pytest.approx(nll, rel=1e-3)


def test_the_scope_is_trained_on_every_query_and_edit_but_those_of_the_same_fact(plain):
    examples = plain.prepare(FACT_CASES)
    loss = 0.0
    patch = plain.edit([case.edits[0] for case in FACT_CASES])
    rows = [(case.edits[0], j) for j, case in enumerate(FACT_CASES)]
    rows += [(case.probes[0].query, j) for j, case in enumerate(FACT_CASES)]
    rows += [(case.probes[1].query, None) for case in FACT_CASES]
    for number, (query, own) in enumerate(rows):
        for edit, score in enumerate(scores(plain, patch, query)):
            another_fact = query.fact != FACT_EDITS[edit].fact or (number - 4) == edit
            if own == edit:
                loss -= log(score)
            elif another_fact:
                loss -= log(1 - score)
    got = plain.scope_term(examples, torch.Generator())
    assert float(got.detach()) == pytest.approx(loss / len(rows), rel=1e-4)


def test_tokens_of_edits_and_of_queries_are_hidden_in_training(plain, monkeypatch):
    hidden = []
    drop = Part.drop

    def watched(part, share, generator):
        assert share == plain.config.drop
        found = drop(part, 1.0, generator)
        hidden.append(found.mask.sum(1))
        return found

    monkeypatch.setattr(Part, "drop", watched)
    plain.scope_term(plain.prepare(FACT_CASES), torch.Generator())
    edits = len(FACT_CASES)
    rows = 3 * edits
    assert [len(kept) for kept in hidden] == [edits, edits, rows, rows]  # images and prompts
    assert all(bool((kept <= 1).all()) for kept in hidden)


def test_training_teaches_the_answer():
    editor = make(drop=0.2, eos=True)
    examples = editor.prepare(FACT_CASES)
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=1e-2)
    seen = []
    for step in range(30):
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.3 * seen[0]
    with editor.vlm.patched(editor.edit(FACT_EDITS[:2])):
        assert editor.vlm.generate(FACT_EDITS[:2], max_new_tokens=8) == ["Japan", "Rain"]


def test_a_pretrained_language_model_may_answer(tmp_path):
    sizes = {"hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 32, "num_hidden_layers": 1}
    config = transformers.OPTConfig(
        vocab_size=50, num_attention_heads=2, max_position_embeddings=128, **sizes
    )
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    editor = make(counterfactual=str(tmp_path / "opt"))
    patch = editor.edit(FACT_EDITS)
    with editor.vlm.patched(patch):
        assert editor.vlm.generate(FACT_EDITS, max_new_tokens=4) == [
            editor.vlm.generate([query], max_new_tokens=4)[0] for query in FACT_EDITS
        ]
    editor.save_pretrained(tmp_path / "editor")
    again = Serac.from_pretrained(editor.vlm, tmp_path / "editor", threshold=0.7)
    assert again.fingerprint == editor.fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"counterfactual": "/nowhere/opt"}, "no model folder"),
        ({"layer": 3}, "last layer"),
        ({"layer": 9}, "no layer 9"),
        ({"heads": 3}, "heads"),
        ({"threshold": 1.5}, "it should be less than 1"),
    ],
)
def test_wrong_settings_are_refused(plain, wrong, message):
    with pytest.raises(BadInput, match=message):
        Serac(plain.vlm, SeracConfig(**(SETTINGS | wrong)))


def test_an_edit_with_too_long_a_text_is_refused(plain):
    with pytest.raises(BadInput, match="at most 64"):
        plain.edit([Query("why " * 100, "so", RED)])
