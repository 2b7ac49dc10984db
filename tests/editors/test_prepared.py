"""Training examples: which probes and tokens count, what is dropped, and edits of the same fact."""

import math
from itertools import combinations

import pytest
import torch
from PIL import Image

from helpers.samples import noise
from helpers.tiny_settings import SMALL
from liveedit.editors import new_editor
from liveedit.editors.common.attention import Part, image_and_prompt, own_similarity, similarity
from liveedit.editors.common.examples import EDIT, same_fact
from liveedit.editors.common.hard_negatives import hard_negative_loss, log_odds
from liveedit.editors.liveedit.objective import replay
from liveedit.editors.liveedit.sampling import Draws, Pairs, draw
from liveedit.models.batch import HiddenBatch
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query

PLAIN_TARGETS = {
    "eos": False,
    "positions": "all",
    "drop": 0.0,
    "locality": ("image_locality",),
}
SETTINGS = {
    "ke": SMALL["ke"] | {"generality": ("text_generality",)},
    "liveedit": SMALL["liveedit"] | {"layer": 1},
    "mend": SMALL["mend"],
    "pinpoint": SMALL["pinpoint"] | {"layer": 1, "rank": 12} | PLAIN_TARGETS,
    "serac": SMALL["serac"] | {"layer": 1},
}


def case(number, fact="", text=""):
    """An edit of one fact, two rewordings, a query about another image, and one without image."""
    edit = Query(f"Who is number {number}?", f"person {number}", noise(number), fact)
    probes = [
        Probe("text_generality", Query("Name this one.", edit.target, edit.image, fact)),
        Probe("text_generality", Query("Tell me the name.", "somebody else", edit.image, fact)),
        Probe(
            "image_locality",
            Query("Where is it?", "there", noise(10 + number), f"{number} other"),
            "before",
        ),
        Probe("text_locality", Query("who sang the song", "a singer", fact=text), "before"),
    ]
    return Case(str(number), (edit,), tuple(probes))


def make(vlm, name="liveedit", **settings):
    torch.manual_seed(0)
    return new_editor(vlm, name, SETTINGS[name] | settings)


def hard(vlm, **settings):
    editor = make(vlm, "pinpoint", **settings)
    with torch.no_grad():
        editor.edit_features.sentinel.uniform_()
    return editor


def answer_text(vlm, row):
    """The answer of a batch of one."""
    return vlm.tokenizer.decode(row.labels[row.labels >= 0]).strip()


@pytest.mark.parametrize("name", SETTINGS)
def test_of_several_probes_of_a_metric_the_first_counts(vlm, name):
    [example] = make(vlm, name).prepare([case(0)])
    assert answer_text(vlm, example.rows["text_generality"]) == "person 0"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_end_of_text_is_part_of_an_answer_where_it_is_asked_for(vlm, name):
    for eos in (False, True):
        [example] = make(vlm, name, eos=eos).prepare([case(0)])
        for row in example.rows.values():
            assert (int(row.labels[0, -1]) == vlm.tokenizer.eos_token_id) == eos


@torch.no_grad()
def test_the_end_of_text_is_part_of_an_expert_where_it_is_asked_for(vlm):
    edit = case(0).edits[0]
    for eos in (False, True):
        editor = make(vlm, eos=eos)
        hidden = vlm.hidden(vlm.encode([edit], eos=eos), editor.layer)
        wanted = editor.experts(hidden)["expert_in"]
        assert torch.equal(editor.edit([edit]).bank["expert_in"], wanted)
        other = vlm.hidden(vlm.encode([edit], eos=not eos), editor.layer)
        assert not torch.equal(editor.experts(other)["expert_in"], wanted)


def test_a_probe_without_image_is_prepared_only_where_edits_act_on_such(vlm):
    kinds = {"locality": ("image_locality", "text_locality")}
    for text_only, read in (("never", False), ("text_key", True)):
        [example] = make(vlm, **kinds, text_only=text_only).prepare([case(0)])
        assert ("text_locality" in example.rows) == ("text_locality" in example.base) == read


def test_the_sentinel_is_as_long_as_an_image_of_336_pixels_square():
    vlm = tiny("qwen2_vl")
    vlm.processor.image_processor.size = {
        "shortest_edge": 1,
        "longest_edge": 290 * 290,
    }  # of 512 tokens
    encoded = {
        side: vlm.encode([Query("?", image=Image.new("RGB", (side, side)))]) for side in (224, 336)
    }
    spans = {side: batch.spans[0].image for side, batch in encoded.items()}
    counts = {side: last - first for side, (first, last) in spans.items()}
    assert counts[224] < counts[336]
    assert make(vlm).input_features.sentinel.shape[1] == counts[336]


def test_fresh_answers_have_no_special_tokens(vlm):
    editor = make(vlm, "serac")
    special = set(vlm.tokenizer.all_special_ids)
    assert special
    assert set(editor.plain_tokens.tolist()) == set(range(len(vlm.tokenizer))) - special


# The objective of LiveEdit


def full(editor, examples, mixed):
    """Draws that mix the same experts into every kind of rows."""
    kinds = (EDIT, *editor.config.generality, *editor.config.locality)
    return Draws(dict.fromkeys(kinds, mixed), Pairs([], []), Pairs([], []))


@torch.no_grad()
def test_the_expert_of_an_edit_of_the_same_fact_is_not_mixed_in(vlm):
    """Two cases edit one fact: only rows about something else mix the other's expert."""
    editor = hard(vlm)
    together = torch.ones(2, 2, dtype=torch.bool)
    alone = torch.eye(2, dtype=torch.bool)
    for facts, same in ((("a", "a"), True), (("a", "b"), False), (("", ""), False)):
        examples = editor.prepare([case(number, fact) for number, fact in enumerate(facts)])
        found, wanted = (
            replay(editor, examples, full(editor, examples, mixed))[1]
            for mixed in (together, alone)
        )
        for kind in (EDIT, "text_generality"):
            assert torch.equal(found[kind], wanted[kind]) == same, (facts, kind)
        assert not torch.equal(found["image_locality"], wanted["image_locality"])


@torch.no_grad()
def test_unknown_facts_are_never_the_same(vlm):
    examples = hard(vlm).prepare([case(0), case(1)])
    names = [(EDIT, 0), ("text_generality", 1), ("image_locality", 0)]
    assert not same_fact(examples, names).any()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def test_a_query_without_image_is_routed_by_its_text_alone(vlm):
    probes = {"generality": ("text_generality",), "locality": ("text_locality",)}
    editor = hard(vlm, text_only="text_key", keys="float", **probes)
    cases = [case(0, "a", text="b"), case(1, "b"), case(2, "c")]
    examples = editor.prepare(cases)
    _, terms = editor.loss(examples, torch.Generator().manual_seed(0))
    patch = editor.edit([case.edits[0] for case in cases])
    acting = 0.0
    rows = [(case.edits[0], j) for j, case in enumerate(cases)]
    rows += [(case.probes[0].query, j) for j, case in enumerate(cases)]
    rows += [(case.probes[3].query, None) for case in cases]
    for query, own in rows:
        batch = vlm.encode([query])
        image, prompt = image_and_prompt(vlm.hidden(batch, editor.config.layer).hidden, batch.spans)
        bar = editor.input_features
        z = similarity(bar.text_key(prompt), patch.bank["text_keys"])[0]
        phi = bar.vision_key(image, prompt)
        m = similarity(phi, patch.bank["vision_keys"])[0] - own_similarity(
            phi, bar.sentinel_key(bar.question(prompt))
        )
        for e, edited in enumerate(cases):
            p = sigmoid(float(z[e])) * (1.0 if query.image is None else sigmoid(float(m[e])))
            if e == own:
                acting -= math.log(p)
            elif query.fact != edited.edits[0].fact:
                acting -= math.log(1 - p)
    assert float(terms["acting"]) == pytest.approx(acting / len(rows), rel=1e-4)


def stacked(examples, kinds):
    """The rows of all examples, one kind after another."""
    rows = []
    for kind in kinds:
        rows += [example.rows[kind] for example in examples]
    return HiddenBatch.stack(rows)


def last_of(part):
    """The last state of each row alone; where there is none, as it is."""
    states = part.states[torch.arange(len(part.mask)), part.mask.sum(1) - 1][:, None]
    return Part(states, torch.ones(len(part.mask), 1, dtype=torch.bool))


@torch.no_grad()
def test_of_dropped_states_both_sides_use_the_last_alone(vlm):
    """With a share of 1 what is drawn does not matter."""
    editor = hard(vlm, drop=1.0)
    examples = editor.prepare([case(number, fact) for number, fact in enumerate("abc")])
    found = editor.loss(examples, torch.Generator().manual_seed(0))[1]
    kinds = (EDIT, "text_generality", "image_locality")
    rows = stacked(examples, kinds)
    image, prompt = map(last_of, image_and_prompt(rows.hidden, rows.spans))
    edits = torch.arange(3)
    own = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, -1])
    bar, hat = editor.input_features, editor.edit_features
    phi = bar.vision_key(image, prompt)
    margin = similarity(phi, hat.vision_key(image.pick(edits), prompt.pick(edits)))
    margin = margin - own_similarity(phi, bar.sentinel_key(bar.question(prompt)))[:, None]
    z = similarity(bar.text_key(prompt), hat.text_key(prompt.pick(edits)))
    torch.testing.assert_close(
        found["acting"], hard_negative_loss(log_odds(margin, z), own), rtol=1e-4, atol=1e-5
    )
    plain = hard(vlm).loss(examples, torch.Generator().manual_seed(0))[1]
    assert not torch.allclose(found["acting"], plain["acting"], rtol=1e-3)


@torch.no_grad()
def test_of_dropped_states_the_scope_of_serac_uses_the_last_alone(vlm):
    editor = make(
        vlm, "serac", drop=1.0, locality=("image_locality",), generality=("text_generality",)
    )
    editor.edit_features.sentinel.uniform_()
    examples = editor.prepare([case(number, fact) for number, fact in enumerate("abc")])
    found = editor.scope_term(examples, torch.Generator().manual_seed(0))
    kinds = (EDIT, "text_generality", "image_locality")
    rows = stacked(examples, kinds)
    image, prompt = map(last_of, image_and_prompt(rows.hidden, rows.spans))
    edits = torch.arange(3)
    own = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, -1])
    keys = editor.keys(image.pick(edits), prompt.pick(edits)) | {
        "pictured": torch.ones(3, dtype=torch.bool)
    }
    wanted = hard_negative_loss(editor.scope_log_odds(image, prompt, rows.spans, keys), own)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# Draws and batches


def test_edits_and_probes_mix_experts_of_their_own():
    kinds = [[EDIT, "text_generality", "image_locality"]] * 4
    seen = [
        draw(kinds, ("text_generality",), ("image_locality",), torch.Generator().manual_seed(s))
        for s in range(20)
    ]
    for one, other in combinations((EDIT, "text_generality", "image_locality"), 2):
        assert any(not torch.equal(drawn.mixed[one], drawn.mixed[other]) for drawn in seen)


@torch.no_grad()
def test_routing_terms_are_those_of_the_pairs_drawn(vlm):
    """Eq. 13, 15 and 16 of one row after another; of an unrelated pair the sentinel is to win."""
    editor = make(vlm)
    examples = editor.prepare([case(number) for number in range(3)])
    near = Pairs(
        [(EDIT, 0), ("text_generality", 1), ("image_locality", 2)],
        [("text_generality", 0), (EDIT, 1), (EDIT, 2)],
    )
    far = Pairs([(EDIT, 0), ("image_locality", 1)], [("image_locality", 0), ("text_generality", 1)])
    mixed = dict.fromkeys(
        (EDIT, "text_generality", "image_locality"), torch.eye(3, dtype=torch.bool)
    )
    _, terms = replay(editor, examples, Draws(mixed, near, far))

    def keys(side, name):
        kind, j = name
        row = examples[j].rows[kind]
        image, prompt = image_and_prompt(row.hidden, row.spans)
        return side.vision_key(image, prompt), side.text_key(prompt), prompt

    bar, hat = editor.input_features, editor.edit_features
    for name, pairs, wanted in (("hard_neighbour", near, range(3)), ("hard_sentinel", far, (2, 2))):
        hats = [keys(hat, edit) for edit in pairs.edits]
        loss = 0.0
        texts = []
        for own, row in zip(wanted, pairs.inputs, strict=True):
            phi, psi, prompt = keys(bar, row)
            scores = [own_similarity(phi, vision) for vision, *_ in hats]
            scores.append(own_similarity(phi, bar.sentinel_key(bar.question(prompt))))
            loss -= float(torch.cat(scores).log_softmax(0)[own])
            texts.append(torch.cat([own_similarity(psi, text) for _, text, _ in hats]))
        assert float(terms[name]) == pytest.approx(loss / len(hats), rel=1e-4)
        if pairs is near:
            z = torch.stack(texts)
            relative = -z.log_softmax(1).diagonal().mean()
            absolute = -(
                z.diagonal().sigmoid().log() + (1 - z.roll(1, 1).diagonal().sigmoid()).log()
            ).mean()
            torch.testing.assert_close(terms["soft_relative"], relative, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(terms["soft_absolute"], absolute, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["pinpoint", "serac"])
def test_the_first_examples_write_and_all_are_routed(vlm, name):
    settings = SETTINGS[name] | {"drop": 0.0}
    editors = []
    for written in (1, None):
        torch.manual_seed(0)
        editors.append(new_editor(vlm, name, settings | {"written": written}))
    examples = editors[0].prepare([case(number, fact) for number, fact in enumerate("ab")])
    some, all = (editor.loss(examples, torch.Generator().manual_seed(0))[1] for editor in editors)
    routed = "acting" if name == "pinpoint" else "scope"
    assert torch.equal(some[routed], all[routed])
    if name == "serac":
        alone = editors[1].loss(examples[:1], torch.Generator().manual_seed(0))[1]
        torch.testing.assert_close(some[EDIT], alone[EDIT])
    assert not torch.equal(some[EDIT], all[EDIT])


@torch.no_grad()
def test_rows_without_image_are_no_pairs_of_the_released_routing(vlm):
    """Then no row is unrelated to these edits, but rows that must not change are trained on."""
    settings = {"text_only": "text_key", "generality": ("text_generality",)}
    for locality, unrelated in (
        (("text_locality",), False),
        (("image_locality", "text_locality"), True),
    ):
        editor = make(vlm, **settings, locality=locality)
        examples = editor.prepare([case(number) for number in range(2)])
        total, terms = editor.loss(examples, torch.Generator().manual_seed(0))
        assert total.isfinite()
        assert "text_locality" in terms
        assert ("hard_sentinel" in terms) == unrelated


def test_success_is_that_of_the_edits_alone_over_all_their_tokens(vlm):
    """With a change of zero: the first edit's target is the model's answer, the other's is not."""
    editor = make(vlm, "ke", max_scale=1e-9)
    examples = editor.prepare([case(0), case(11)])
    rows = [example.rows[EDIT] for example in examples]
    with torch.no_grad():
        predicted = [
            vlm.resume(editor.below, row).argmax(-1)[row.answer_positions()] for row in rows
        ]
    rows[0].labels[rows[0].labels >= 0] = predicted[0]
    right = [
        int((row.labels[row.labels >= 0] == tokens).sum())
        for row, tokens in zip(rows, predicted, strict=True)
    ]
    total = sum(map(len, predicted))
    assert 0 < sum(right) < total
    editor.loss(examples, torch.Generator())
    assert float(editor.constraint.right) == pytest.approx(2 * sum(right) / total)
    assert float(editor.constraint.seen) == 2
