"""LTE: the prompts, the loss against a slow loop, and the trained weights."""

import copy

import pytest
import torch

from helpers.samples import plain
from liveedit.editors.lte import LTE, LTEConfig
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query

RED, BLUE = plain("red"), plain("blue")
EDIT = Query("What is this?", "Japan", RED)
CASE = Case(
    "one",
    (EDIT,),
    (
        Probe("reliability", EDIT),
        Probe("text_generality", Query("Name it.", "Japan", RED)),
        Probe("image_generality", Query("What is this?", "Japan", BLUE)),
        Probe("image_locality", Query("What is that?", "a cup", BLUE), "before"),
        Probe("text_locality", Query("Who sang it?", "Nobody at all"), "before"),
    ),
)
pytestmark = pytest.mark.families
WEIGHTS = {"rel": 2.0, "gen": 3.0, "loc": 0.5}


@pytest.fixture
def lte(vlm, sentence_encoder):
    """An editor whose weights have moved away from the model's."""
    editor = LTE(vlm, LTEConfig(retriever=sentence_encoder, **WEIGHTS))
    with torch.no_grad():
        torch.manual_seed(0)
        for value in editor.networks().parameters():
            value += 0.05 * torch.randn_like(value)
    return editor


def trained(lte):
    """The VLM with the trained weights in place of its own."""
    vlm = copy.deepcopy(lte.vlm)
    parameters = dict(vlm.model.named_parameters())
    with torch.no_grad():
        for name, value in lte.values.items():
            parameters[name].copy_(value)
    return vlm


def predictions(vlm, query):
    """The log-probabilities (n, V) where the n answer tokens are predicted, and these tokens."""
    batch = vlm.encode([query])
    first, last = batch.spans[0].answer
    return vlm.logits(batch)[0, first - 1 : last - 1].log_softmax(-1), batch.inputs["input_ids"][
        0, first:last
    ]


def in_context(query):
    """The query with the edit as its context."""
    return Query(
        f"[Updated Information] What is this? Japan\n[Query] {query.prompt}",
        query.target,
        query.image,
    )


def test_loss_against_a_loop(lte):
    after = trained(lte)
    terms = {"rel": 0.0, "gen": 0.0, "loc": 0.0}
    for probe in CASE.probes:
        logs, target = predictions(after, in_context(probe.query))
        if probe.wanted == "target":
            kind = "rel" if probe.metric == "reliability" else "gen"
            terms[kind] -= float(
                sum(row[token] for row, token in zip(logs, target, strict=True))
            ) / len(target)
            continue
        base, _ = predictions(lte.vlm, probe.query)
        for found in (logs, predictions(after, probe.query)[0]):
            terms["loc"] += 0.5 * float((base.exp() * (base - found)).sum(-1).mean())
    total, found = lte.loss(lte.prepare([CASE, CASE]), torch.Generator())
    assert found.keys() == terms.keys()
    for name, value in terms.items():
        assert found[name].item() == pytest.approx(value, rel=1e-3)
    assert total.item() == pytest.approx(
        sum(WEIGHTS[name] * value for name, value in terms.items()), rel=1e-3
    )


def test_fresh_answers_replace_the_target_in_the_edit_and_in_its_probes(sentence_encoder):
    lte = LTE(tiny("llava"), LTEConfig(retriever=sentence_encoder, fresh=1.0))
    other_answer = Probe("image_generality", Query("What is this?", "Chad", BLUE))
    case = lte.with_fresh_answer(
        Case("one", (EDIT,), (*CASE.probes[:2], other_answer, *CASE.probes[3:]))
    )
    answer = case.edits[0].target
    assert answer not in ("", "Japan")
    assert [probe.query.target for probe in case.probes] == [
        answer,
        answer,
        "Chad",
        "a cup",
        "Nobody at all",
    ]
    queries = lte.training_queries(Case("one", (EDIT,), CASE.probes))
    assert lte.format_context(case.edits[0]) in queries["text_generality"].prompt
    assert lte.with_fresh_answer(case) != case
    assert LTE(lte.vlm, LTEConfig(retriever=sentence_encoder)).with_fresh_answer(CASE) is CASE


def test_the_loss_falls_along_its_gradient(lte):
    examples = lte.prepare([CASE])
    optimizer = torch.optim.Adam(lte.networks().parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss, _ = lte.loss(examples, torch.Generator())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(value.grad is None for value in lte.vlm.model.parameters())


def test_the_trained_weights_come_with_the_first_edit(lte):
    batch = lte.vlm.encode([CASE.probes[-1].query])
    plain = lte.vlm.logits(batch)
    with lte.vlm.patched(lte.empty()):
        assert torch.equal(lte.vlm.logits(batch), plain)
    expected = trained(lte).logits(batch)
    with lte.vlm.patched(lte.edit([EDIT])):
        torch.testing.assert_close(lte.vlm.logits(batch), expected)


def test_a_fact_is_given_as_context_where_the_query_is_about_it(lte):
    patch = lte.edit([EDIT])
    assert patch.rewrite(EDIT)[0].prompt == in_context(EDIT).prompt
    assert patch.rewrite(Query("What is this?"))[0].prompt == "What is this?"
    with lte.vlm.patched(patch), torch.no_grad():
        batch = lte.vlm.encode([EDIT])
        found = lte.vlm.logits(batch)
        assert batch.fired_by(patch) == [[(0, 1.0)]]
    torch.testing.assert_close(found, trained(lte).logits(lte.vlm.encode([in_context(EDIT)])))
