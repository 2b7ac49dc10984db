"""Pinpoint: the aligned generator, unit keys, the gate and the losses against hard negatives,
against slow loops.
"""

import math

import pytest
import torch
from PIL import Image

from helpers.samples import noise
from liveedit.editors.common import attention, extractors
from liveedit.editors.common.hard_negatives import hard_negative_loss, log_odds
from liveedit.editors.pinpoint.editor import Pinpoint, PinpointConfig
from liveedit.editors.pinpoint.generator import AlignedGenerator
from liveedit.errors import BadInput
from liveedit.types import Case, Probe, Query

D, DM = 32, 16


@pytest.fixture(scope="module")
def edits(vlm):
    image = Image.new("RGB", (24, 24), "red")
    return [
        Query("What is it?", "a long answer", image),
        Query("Which film is this?", "Rain", image),
    ]


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return AlignedGenerator(D, DM, heads=2, rank=24, scale=5.0)


def test_rows_are_made_for_each_answer_token_alone(vlm, edits, generator):
    words = vlm.model.get_output_embeddings().weight
    together = vlm.hidden(vlm.encode(edits), 2)
    U, V = generator(together, words)
    for row, edit in enumerate(edits):
        hidden = vlm.hidden(vlm.encode([edit]), 2)
        U1, V1 = generator(hidden, words)
        torch.testing.assert_close(U[row], U1[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(V[row], V1[0], rtol=1e-4, atol=1e-5)
        start, stop = hidden.spans[0].answer
        assert (U1[0, : stop - start].abs().sum(-1) > 0).all()
        assert not U1[0, stop - start :].any()
        assert not V1[0, stop - start :].any()


def test_factors_are_those_of_the_formulas(vlm, edits, generator):
    """U_j and V_j of one edit, token by token, from the formulas in the file's head."""
    words = vlm.model.get_output_embeddings().weight
    hidden = vlm.hidden(vlm.encode(edits[:1]), 2)
    U, V = generator(hidden, words)
    [span] = hidden.spans
    h = generator.state_norm(hidden.hidden[0])
    signal = h[span.image[0] : span.answer[1]]
    for j, place in enumerate(range(*span.answer)):
        s, a = h[place - 1], h[place]
        w = generator.word_norm(words[hidden.labels[0, place]])
        z = generator.before(s) + generator.there(a) + generator.word(w) + generator.place.weight[j]
        attention = generator.context
        q = attention.query(z)
        k = attention.key(signal)
        v = attention.value(signal)
        heads = []
        for n in range(attention.heads):
            part = slice(n * DM // attention.heads, (n + 1) * DM // attention.heads)
            share = (k[:, part] @ q[part] / math.sqrt(DM // attention.heads)).softmax(0)
            heads.append(share @ v[:, part])
        z = z + torch.cat(heads)
        torch.testing.assert_close(
            U[0, j], generator.key(z) + generator.carry_state(s), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            V[0, j], generator.value(z) + generator.carry_word(w), rtol=1e-4, atol=1e-4
        )


def test_an_answer_longer_than_the_rank_is_refused(vlm, edits):
    editor = Pinpoint(vlm, PinpointConfig(module_dim=DM, heads=2, rank=2, layer=2))
    with pytest.raises(BadInput, match="at most 2"):
        editor.edit(edits[:1])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_log_odds_are_those_of_passing_in_both():
    margin, z = 3 * torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    for m, y, odds in zip(margin.tolist(), z.tolist(), log_odds(margin, z).tolist(), strict=True):
        p = sigmoid(m) * sigmoid(y)
        assert odds == pytest.approx(math.log(p / (1 - p)), rel=1e-4, abs=1e-5)


def test_contrast_is_the_sum_over_all_edits():
    odds = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([0, 2, -1, 1, -1])
    expected = 0.0
    for q in range(5):
        for e in range(3):
            p = sigmoid(float(odds[q, e]))
            expected -= math.log(p) if own[q] == e else math.log(1 - p)
    assert float(hard_negative_loss(odds, own)) == pytest.approx(expected / 5, rel=1e-5)


def test_contrast_wants_the_own_edit_in_and_the_others_out():
    margin, z = torch.zeros(2, 2, 2).requires_grad_().unbind()
    for part in torch.autograd.grad(
        hard_negative_loss(log_odds(margin, z), torch.tensor([0, -1])), (margin, z)
    ):
        assert part.sign().tolist() == [[-1.0, 1.0], [1.0, 1.0]]


def test_an_unrelated_query_that_one_of_the_two_excludes_costs_little():
    away, near = torch.tensor([[-9.0]]), torch.tensor([[9.0]])
    unrelated = torch.tensor([-1])
    assert float(hard_negative_loss(log_odds(away, near), unrelated)) < 1e-3
    assert float(hard_negative_loss(log_odds(near, away), unrelated)) < 1e-3
    assert float(hard_negative_loss(log_odds(near, near), unrelated)) > 5


def test_without_an_image_the_text_key_alone_decides():
    z = torch.tensor([[1.5, -0.5]], requires_grad=True)
    odds = log_odds(torch.full((1, 2), torch.inf), z)
    torch.testing.assert_close(odds, z)
    [gradient] = torch.autograd.grad(hard_negative_loss(odds, torch.tensor([0])), z)
    assert gradient.isfinite().all()


def test_the_gate_of_both_keeps_what_is_likelier_than_not(vlm, edits):
    config = PinpointConfig(module_dim=DM, heads=2, rank=24, layer=2, keys="float", margin=0.3)
    editor = Pinpoint(vlm, config)
    patch = editor.edit(edits)
    batch = vlm.encode(edits)
    with torch.no_grad():
        hidden = vlm.hidden(batch, 2).hidden
        routing = patch.route(hidden, batch.spans)
        _, prompt = attention.image_and_prompt(hidden, batch.spans)
        z = attention.similarity(editor.input_features.text_key(prompt), patch.bank["text_keys"])
    for q in range(2):
        for e in range(2):
            p = sigmoid(float(routing.vision[q, e] - routing.sentinel[q])) * sigmoid(float(z[q, e]))
            assert bool(routing.keep[q, e]) == (math.log(p / (1 - p)) > 0.3)
    assert routing.keep.any()


@torch.no_grad()
def test_hard_negatives_are_all_edits_of_the_batch_but_those_of_the_same_fact(vlm):
    """Every query against every edit, one pair at a time, through the router; two cases edit one
    fact.
    """
    kinds = {"generality": ("text_generality",), "locality": ("image_locality",)}
    config = PinpointConfig(
        module_dim=DM, heads=2, rank=24, layer=2, keys="float", written=2, drop=0.0, **kinds
    )
    editor = Pinpoint(vlm, config)
    editor.edit_features.sentinel.uniform_()
    facts = ["a", "b", "a"]
    edits = [
        Query(f"Who is it {i}?", f"person {i}", noise(i), fact) for i, fact in enumerate(facts)
    ]
    wordings = [
        Query(f"Name it {i}.", edit.target, edit.image, edit.fact) for i, edit in enumerate(edits)
    ]
    others = [Query("Where is it?", "there", noise(10 + i), fact) for i, fact in enumerate("xyb")]
    cases = [
        Case(
            str(i),
            (edit,),
            (Probe("text_generality", asked), Probe("image_locality", other, "before")),
        )
        for i, (edit, asked, other) in enumerate(zip(edits, wordings, others, strict=True))
    ]
    examples = editor.prepare(cases)
    _, terms = editor.loss(examples, torch.Generator().manual_seed(0))
    assert set(terms) == {
        "reliability",
        "text_generality",
        "image_locality",
        "acting",
        "soft_relative",
    }
    patch = editor.edit(edits)
    acting = 0.0
    relative = 0.0
    for place, query in enumerate([*edits, *wordings, *others]):
        batch = vlm.encode([query])
        hidden = vlm.hidden(batch, 2).hidden
        routing = patch.route(hidden, batch.spans)
        _, prompt = attention.image_and_prompt(hidden, batch.spans)
        z = attention.similarity(editor.input_features.text_key(prompt), patch.bank["text_keys"])[0]
        own = place % 3 if place < 6 else -1
        for e in range(3):
            p = sigmoid(float(routing.vision[0, e] - routing.sentinel[0])) * sigmoid(float(z[e]))
            if e == own:
                acting -= math.log(p)
            elif query.fact != facts[e]:
                acting -= math.log(1 - p)
        if own >= 0:
            scores = [float(z[e]) for e in range(3) if e == own or facts[e] != query.fact]
            relative += math.log(sum(map(math.exp, scores))) - float(z[own])
    assert float(terms["acting"]) == pytest.approx(acting / 9, rel=1e-4)
    assert float(terms["soft_relative"]) == pytest.approx(relative / 6, rel=1e-4, abs=1e-6)


def test_metric_features_are_scaled_cosines_with_thresholds(vlm, edits):
    """m and z of metric.py, pair by pair, from the released extractor's keys."""
    editor = Pinpoint(vlm, PinpointConfig(module_dim=DM, heads=2, rank=24, layer=2, keys="float"))
    bar = editor.input_features
    with torch.no_grad():
        tau = editor.edit_features.sentinel.uniform_().flatten()
        bar.vision_scale.fill_(math.log(3.0))
        bar.text_scale.fill_(math.log(5.0))
        patch = editor.edit(edits)
        batch = vlm.encode(edits)
        hidden = vlm.hidden(batch, 2).hidden
        image, prompt = attention.image_and_prompt(hidden, batch.spans)
        everywhere = attention.Part(
            bar.sentinel, torch.ones(bar.sentinel.shape[:2], dtype=torch.bool)
        )
        plain = extractors.FeatureExtractor  # the released keys, of the same weights
        phi = plain.vision_key(bar, image, prompt).flatten(1)
        psi = plain.text_key(bar, prompt).flatten(1)
        theta = plain.vision_key(bar, everywhere, prompt).flatten(1)
        routing = patch.route(hidden, batch.spans)
        z = attention.similarity(bar.text_key(prompt), patch.bank["text_keys"])
        for q in range(2):
            above = phi[q].dot(theta[q]) / (phi[q].norm() * theta[q].norm())
            for e in range(2):
                m = phi[q].dot(phi[e]) / (phi[q].norm() * phi[e].norm()) - above
                assert float(routing.vision[q, e] - routing.sentinel[q]) == pytest.approx(
                    3 * float(m), abs=1e-4
                )
                cosine = psi[q].dot(psi[e]) / (psi[q].norm() * psi[e].norm())
                wanted = 5 * float(cosine - psi[q].dot(tau) / psi[q].norm())
                assert float(z[q, e]) == pytest.approx(wanted, abs=1e-4)


def test_the_input_side_is_registered_once(vlm):
    editor = Pinpoint(vlm, PinpointConfig(module_dim=DM, heads=2, rank=24, layer=2, keys="float"))
    names = [name for name, _ in editor.networks().named_parameters() if "edit_features" in name]
    assert names == ["edit_features.sentinel"]


def test_dropping_keeps_the_last_state_and_about_the_share_asked_for():
    states = torch.zeros(400, 20, 1)
    lengths = torch.tensor([20, 5, 0, 12]).repeat(100)
    part = attention.Part(states, torch.arange(20) < lengths[:, None]).drop(
        0.25, torch.Generator().manual_seed(0)
    )
    for mask, length in zip(part.mask, lengths, strict=True):
        assert not mask[length:].any()
        assert length == 0 or mask[length - 1]
    left = [
        float(mask[: length - 1].float().mean())
        for mask, length in zip(part.mask, lengths, strict=True)
        if length
    ]
    assert sum(left) / len(left) == pytest.approx(0.75, abs=0.03)
