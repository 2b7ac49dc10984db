"""Limits of methods: values just on a threshold, images and texts, and how an edit starts."""

from itertools import product

import pytest
import torch
import transformers

from helpers.measures import states_under
from helpers.samples import BLUE, GREEN, QUESTION, RED
from helpers.samples import ONE_QUESTION as EDITS
from helpers.tiny_settings import SMALL
from liveedit.editors import new_editor
from liveedit.editors.common import retriever
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.gradients import Factors
from liveedit.editors.common.in_context import fact_text
from liveedit.editors.common.retrieval import Match, best_match, compatible
from liveedit.editors.common.retriever import Retriever
from liveedit.editors.ke import Constraint, KEConfig
from liveedit.editors.mend import GradientTransform
from liveedit.editors.serac import Counterfactual
from liveedit.editors.tpatcher import TPatcher, TPatcherConfig, TPatcherPatch
from liveedit.editors.wise import WISE, WISEConfig
from liveedit.errors import BadInput, Mismatch
from liveedit.models.batch import find_spans
from liveedit.models.patch import Patch
from liveedit.types import Query

LIVEEDIT = SMALL["liveedit"] | {"layer": 1}
SERAC = SMALL["serac"] | {"layer": 1}


# On the limit itself


def test_a_score_that_only_reaches_the_threshold_is_not_above_it():
    assert best_match(torch.tensor([[0.25, 0.5]]), 0.5) == Match([], [], [[]])
    assert best_match(torch.tensor([[0.25, 0.5]]), 0.49).edits == [1]


def test_an_edit_on_the_retrievers_threshold_is_not_found(vlm, sentence_encoder):
    keys = Retriever(vlm, sentence_encoder, "both").keys([edit.prompt for edit in EDITS], EDITS)
    text = float(keys["text_key"][2] @ keys["text_key"][2])
    image = float(keys["image_key"][0] @ keys["image_key"][0])
    for threshold, found in ((text, None), (text - 1e-3, 2)):
        one = Retriever(vlm, sentence_encoder, "both", threshold, 0.0)
        assert one.find(Bank(keys), EDITS[2]) == found
    for least, found in ((image, None), (image - 1e-3, 0)):
        one = Retriever(vlm, sentence_encoder, "both", 0.0, least)
        assert one.find(Bank(keys).select([0]), EDITS[0]) == found


def test_the_nearest_edit_is_the_nearest_by_text_and_image_together(vlm, sentence_encoder):
    nearest = Retriever(vlm, sentence_encoder, "both")
    held = Bank(nearest.keys([edit.prompt for edit in EDITS], EDITS))
    assert [nearest.find(held, edit) for edit in EDITS[:2]] == [0, 1]
    assert nearest.find(held, Query(QUESTION, image=[BLUE, RED])) == 0, (
        "of two images the last is asked about"
    )
    assert nearest.find(held, Query(QUESTION, image=[BLUE, RED], about=0)) == 1


@torch.no_grad()
def test_an_expert_on_the_margin_is_not_kept(vlm):
    torch.manual_seed(0)
    editor = new_editor(vlm, "liveedit", LIVEEDIT)
    patch = editor.edit(EDITS[:2])
    batch = vlm.encode(EDITS[:1])
    hidden = vlm.hidden(batch, 1).hidden
    found = patch.route(hidden, batch.spans)
    above = float(found.vision[0, 0] - found.sentinel[0])
    for margin, kept in ((above, False), (above - 1e-3, True)):
        other = new_editor(vlm, "liveedit", LIVEEDIT | {"margin": margin})
        other.networks().load_state_dict(editor.networks().state_dict())
        assert bool(type(patch)(other, patch.bank).route(hidden, batch.spans).keep[0, 0]) == kept


def test_the_gate_of_both_requires_the_text_too(vlm):
    above, z = torch.tensor([[2.0, 2.0]]), torch.tensor([[5.0, -5.0]])
    for gate, kept in (("both", [True, False]), ("vision", [True, True])):
        editor = new_editor(vlm, "pinpoint", LIVEEDIT | {"gate": gate, "margin": 1.0})
        assert editor.keeps(above, z).tolist() == [kept]


@pytest.mark.parametrize(("right", "margin"), [(0.85, 1000), (0.9, 1000), (0.95, 800)])
def test_the_margin_of_ke_falls_only_where_more_than_nine_in_ten_succeed(right, margin):
    constraint = Constraint(KEConfig(margin=1e-3, patience=20))
    constraint.anneal(right, 20)
    assert round(float(constraint.margin) * 1e6) == margin


# Images and texts


def test_edits_with_an_image_fire_for_queries_with_one_alone():
    mask = torch.ones(2, 4)
    spans = find_spans(torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]), mask)
    assert compatible(spans, torch.tensor([True, False])).tolist() == [[True, False], [False, True]]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "settings"),
    [("serac", {"threshold": 0.01}), ("recipe", {"margin": -100.0})],
)
def test_a_question_about_an_image_is_never_answered_by_an_edit_without_one(vlm, name, settings):
    torch.manual_seed(0)
    editor = new_editor(vlm, name, SMALL[name] | {"layer": 1} | settings)
    queries = [Query(QUESTION, "Japan"), Query(QUESTION, "Japan", RED)]
    for edit, query in product(queries, queries):
        batch = vlm.encode([query])
        plain = vlm.logits(batch)
        with vlm.patched(editor.edit([edit])):
            assert torch.equal(vlm.logits(batch), plain) == (query is not edit)


def test_only_an_editor_s_own_edits_are_taken_back(vlm, sentence_encoder):
    settings = {"liveedit": LIVEEDIT, "grace": {"steps": 0}, "t-patcher": {"steps": 0}}
    settings["ike"] = {"retriever": sentence_encoder}
    patches = {name: new_editor(vlm, name, some).edit(EDITS[:2]) for name, some in settings.items()}
    for name, some in settings.items():
        others = next(patch for other, patch in patches.items() if other != name)
        with pytest.raises(Mismatch, match="another editor"):
            new_editor(vlm, name, some).select(others, [0])


# What methods count and draw


def test_a_token_has_a_gradient_where_both_its_factors_are_there():
    """MEND leaves all other tokens out of its statistics and of its change."""
    torch.manual_seed(0)
    u, delta = torch.randn(1, 4, 3), torch.randn(1, 4, 2)
    u[0, 1] = 0
    delta[0, 2] = 0
    network, alone = GradientTransform(2, 3, 2, 1), GradientTransform(2, 3, 2, 1)
    network.observe(Factors(u, delta))
    alone.observe(Factors(u[:, [0, 3]], delta[:, [0, 3]]))
    for name, value in alone.named_buffers():
        torch.testing.assert_close(network.get_buffer(name), value)
    with torch.no_grad():
        network.first.bias.fill_(1.0)
        found = network(Factors(u, delta), 0)
    assert (
        found.u[0].any(1).tolist() == found.delta[0].any(1).tolist() == [True, False, False, True]
    )


def test_each_neuron_of_t_patcher_is_drawn_anew_and_by_the_seed(vlm):
    def keys(seed):
        editor = TPatcher(vlm, TPatcherConfig(steps=0, seed=seed))
        return editor.edit([EDITS[0], EDITS[0]]).bank["key"]

    assert not torch.equal(*keys(0))
    assert torch.equal(keys(0), keys(0))
    assert not torch.equal(keys(0)[0], keys(7)[0])


def test_t_patcher_remembers_tokens_of_earlier_edits_and_of_no_answer(vlm):
    editor = TPatcher(vlm, TPatcherConfig(steps=3, lr=0.1, silent=1.0))
    held = editor.edit(EDITS[:1])
    loud = {name: rows.clone() for name, rows in held.bank.tensors().items()}
    loud["memory"] *= 10
    after = [
        editor.edit(EDITS[1:2], TPatcherPatch(editor, bank)).bank["key"][1]
        for bank in (held.bank, Bank(loud))
    ]
    assert not torch.allclose(*after), (
        "what is remembered of the first edit moves the second neuron"
    )


def test_t_patcher_weighs_what_is_to_be_active(vlm):
    """Where nothing else is to be learnt but that the neuron is active, its bias rises."""
    biases = [
        float(
            TPatcher(vlm, TPatcherConfig(steps=5, active=active, silent=0.0))
            .edit(EDITS[:1])
            .bank["bias"][0]
        )
        for active in (0.0, 1.0)
    ]
    assert biases[0] < biases[1]
    assert biases[1] > 0


def test_masks_of_wise_are_drawn_by_shard_and_seed(vlm):
    masks = [
        WISE(vlm, WISEConfig(seed=seed)).mask(shard) for seed, shard in ((0, 0), (0, 1), (5, 0))
    ]
    assert not any(torch.equal(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(masks[0], WISE(vlm, WISEConfig(seed=0)).mask(0))


@torch.no_grad()
def test_the_counterfactual_model_counts_places_from_the_first_real_token(vlm, tmp_path):
    """Of a pretrained model whose places are learnt, padded on the left as in a batch, and with a
    cache.
    """
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    config = transformers.OPTConfig(
        vocab_size=50, num_attention_heads=2, max_position_embeddings=64, **sizes
    )
    torch.manual_seed(0)
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
    h = Counterfactual(vlm, str(tmp_path), 16, 1, 2)
    x = torch.randn(1, 5, vlm.hidden_size)
    wanted = h.writes(h.model(inputs_embeds=h.reads(x)).last_hidden_state)
    mask = torch.ones(1, 5, dtype=torch.long)
    torch.testing.assert_close(h(x, mask), wanted, rtol=1e-4, atol=1e-5)
    padded = torch.cat([torch.zeros(1, 3, vlm.hidden_size), x], 1)
    gap = torch.zeros(1, 3, dtype=torch.long)
    torch.testing.assert_close(
        h(padded, torch.cat([gap, mask], 1))[:, 3:], wanted, rtol=1e-4, atol=1e-5
    )
    cache = transformers.DynamicCache()
    parts = [
        h(x[:, :3], mask[:, :3], cache),
        h(x[:, 3:4], mask[:, :4], cache),
        h(x[:, 4:], mask, cache),
    ]
    torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=1e-4, atol=1e-5)


def test_before_the_second_token_mend_normalises_nothing():
    network = GradientTransform(2, 3, 2, 1)
    one = Factors(torch.ones(1, 1, 3), torch.ones(1, 1, 2))
    network.observe(one)
    assert torch.equal(network(one, 0).u, one.u)


def test_t_patcher_acts_in_the_last_layer_and_keeps_tokens_that_predict_no_answer(vlm):
    editor = TPatcher(vlm, TPatcherConfig(steps=0, memory=8))
    assert editor.network.layer == vlm.num_layers - 1
    patch = editor.edit(EDITS[:1])
    states, batch = states_under(Patch(), vlm, EDITS[:1], editor.network.reads)
    rest = states[~batch.answer_positions()]
    near = torch.cdist(patch.bank["memory"][0], rest).min(1).values
    assert float(near.max()) < 1e-4


def test_networks_with_a_learning_rate_of_their_own(vlm):
    ke = new_editor(vlm, "ke", SMALL["ke"] | {"multiplier_lr": 0.3})
    assert ke.rates() == {"constraint": 0.3}
    assert new_editor(vlm, "mend", {"rank": 4, "alpha_lr": 0.2}).rates() == {"alpha": 0.2}
    assert {"constraint", "learner"} == set(ke.networks())


def test_a_text_may_be_as_long_as_the_limit(vlm):
    """SERAC keeps the text of an edit, question and answer."""
    span = vlm.encode(EDITS[:1]).spans[0]
    length = span.stop - span.prompt[0]
    assert len(new_editor(vlm, "serac", SERAC | {"tokens": length}).edit(EDITS[:1])) == 1
    with pytest.raises(BadInput, match=f"{length} tokens"):
        new_editor(vlm, "serac", SERAC | {"tokens": length - 1}).edit(EDITS[:1])


def test_facts_in_words_go_with_their_edits(vlm, sentence_encoder):
    assert fact_text(Query(" Who is it? ", " Ann\n")) == "Who is it? Ann"
    editor = new_editor(vlm, "ike", {"retriever": sentence_encoder})
    patch = editor.edit(EDITS)
    assert editor.select(patch, [2, 0]).contexts == (patch.contexts[2], patch.contexts[0])
    assert len(set(patch.contexts)) == 3


def test_only_so_many_image_keys_are_remembered(vlm, sentence_encoder, monkeypatch):
    monkeypatch.setattr(retriever, "REMEMBERED", 2)
    one = Retriever(vlm, sentence_encoder, "both")
    for image in (RED, BLUE, GREEN, RED):
        one.image_key(Query("?", image=image))
        assert 0 < len(one.image_keys) <= 2


def test_inference_settings_leave_the_fingerprint_alone(vlm):
    torch.manual_seed(0)
    one, other, third = (
        new_editor(vlm, "serac", SERAC | {"threshold": limit, "eos": eos})
        for limit, eos in ((0.5, False), (0.7, False), (0.5, True))
    )
    for editor in (other, third):
        editor.networks().load_state_dict(one.networks().state_dict())
    assert one.fingerprint == other.fingerprint != third.fingerprint
