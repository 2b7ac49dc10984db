"""RECIPE: the equations against loops, where the prompts go, and what retrieval may see."""

from math import exp, log

import pytest
import torch
import transformers

from helpers.measures import fired_under, logits_under
from helpers.samples import FACT_CASES, FACT_EDITS, GREEN, MIXED, QUESTION, RED
from liveedit.editors.common.attention import Part
from liveedit.editors.recipe import Recipe, RecipeConfig, sentinel_loss, statistics
from liveedit.errors import BadInput
from liveedit.models.tiny import tiny
from liveedit.types import Query

SETTINGS = {"layer": 1, "key_dim": 16, "prototypes": 4}


def make(family="llava", **changes):
    torch.manual_seed(0)
    return Recipe(tiny(family), RecipeConfig(**(SETTINGS | changes)))


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def editor(request):
    return make(request.param)


@pytest.fixture(scope="module")
def plain():
    return make()


def pooled(states):
    """Last state, mean, greatest and least of states (n, D), by loops."""
    columns = list(zip(*states.tolist(), strict=True))
    means = [sum(column) / len(column) for column in columns]
    return torch.tensor([*states[-1].tolist(), *means, *map(max, columns), *map(min, columns)])


@torch.no_grad()
def vector(editor, query):
    """r_q of one query, from the model's states over image and text."""
    batch = editor.vlm.encode([query])
    span = batch.spans[0]
    words = editor.vlm.model.get_input_embeddings()(batch.inputs["input_ids"])[0]
    if editor.config.scope == "text":
        x = pooled(words[slice(*span.prompt)])
    else:
        states = editor.vlm.hidden(batch, editor.config.layer).hidden[0]
        image = states[slice(*span.image)]
        shown = torch.zeros(4 * states.shape[1]) if query.image is None else pooled(image)
        x = torch.cat([pooled(states[slice(*span.prompt)]), shown])
    return through(editor, x)


def through(editor, x):
    net = editor.retriever
    x = net.first(net.norm(x))
    x = x + net.second(x).clamp(min=0)
    return x / x.norm() * exp(0.5 * float(net.scale))


@torch.no_grad()
def sentinel(editor):
    tokens = [torch.cat([states[0][1:], states[0][:1]]) for states in editor.retriever.prototypes]
    return through(editor, torch.cat([pooled(some) for some in tokens]))


@pytest.mark.parametrize("scope", ["both", "text"])
def test_retrieval_is_that_of_the_paper(scope):
    editor = make(scope=scope, margin=5.0)
    patch = editor.edit(FACT_EDITS)
    threshold = sentinel(editor)
    asked = [
        *MIXED,
        Query(QUESTION, image=GREEN),
        Query(QUESTION),
        Query("Which film is this?", image=RED),
    ]
    fired = fired_under(patch, editor.vlm, asked)
    for query, found in zip(asked, fired, strict=True):
        r = vector(editor, query)
        score = [float(r @ vector(editor, edit) - r @ threshold) for edit in FACT_EDITS]
        if scope == "both":
            pairs = zip(score, FACT_EDITS, strict=True)
            score = [
                s if (edit.image is None) == (query.image is None) else -100.0 for s, edit in pairs
            ]
        best = max(range(3), key=score.__getitem__)
        assert [edit for edit, _ in found] == ([best] if score[best] > 5.0 else [])
        assert all(value == pytest.approx(score[best], abs=1e-3) for _, value in found)
    assert fired[0]
    assert any(fired)


def test_a_scope_of_text_does_not_see_the_image(plain):
    text = make(scope="text")
    patch = text.edit(FACT_EDITS[:1])
    scores = []
    for image in (RED, GREEN):
        scores += fired_under(patch, text.vlm, [Query(QUESTION, image=image)])[0]
    assert scores[0] == scores[1]
    patch = plain.edit(FACT_EDITS[:1])
    assert fired_under(patch, plain.vlm, [Query(QUESTION)]) == [[]]


def test_prompts_are_inserted_before_the_text(editor):
    vlm = editor.vlm
    patch = editor.edit(FACT_EDITS[:1])
    got = logits_under(patch, editor.vlm, FACT_EDITS[:1])
    assert fired_under(patch, editor.vlm, FACT_EDITS[:1])[0]
    taken = []
    batch = vlm.encode(FACT_EDITS[:1])
    handle = vlm.decoder.register_forward_pre_hook(
        lambda _m, _a, given: taken.append(given), with_kwargs=True
    )
    plain = vlm.logits(batch)
    with vlm.patched(patch):
        vlm.logits(batch)
    handle.remove()
    whole, longer = taken[0]["inputs_embeds"], taken[-1]["inputs_embeds"]
    at = batch.spans[0].prompt[0]
    prompts = patch.bank["prompts"]
    if longer.shape == whole.shape:  # the hook ran before the patch's own
        pytest.fail("the prompts were not put in")
    mask = torch.ones(longer.shape[:2], dtype=torch.long)
    places = taken[-1].get("position_ids")
    embedded = torch.cat([whole[:, :at], prompts, whole[:, at:]], 1)
    with torch.no_grad():
        states = vlm.decoder(inputs_embeds=embedded, attention_mask=mask, position_ids=places)[0]
        expected = vlm.predict(states)
    expected = torch.cat([expected[:, :at], expected[:, at + 3 :]], 1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(vlm.logits(batch), plain)


def test_where_nothing_is_retrieved_all_is_bit_equal(editor):
    patch = editor.edit(FACT_EDITS[:2])
    far = Recipe(editor.vlm, RecipeConfig(**(SETTINGS | {"margin": 1e4})))
    patch = type(patch)(far, patch.bank)
    assert torch.equal(
        logits_under(patch, far.vlm, MIXED), logits_under(far.empty(), far.vlm, MIXED)
    )
    text = [Query("who sang the song", "nobody"), Query("Why is it so?", "so")]
    near = editor.edit(FACT_EDITS[:2])
    assert torch.equal(
        logits_under(near, editor.vlm, text), logits_under(editor.empty(), editor.vlm, text)
    )


def test_rows_of_a_mixed_batch_are_as_they_are_alone(editor):
    patch = editor.edit(FACT_EDITS[:2])
    together, unedited = (
        logits_under(patch, editor.vlm, MIXED),
        logits_under(editor.empty(), editor.vlm, MIXED),
    )
    fired = fired_under(patch, editor.vlm, MIXED)
    assert fired[0]
    assert not fired[1]
    for row, query in enumerate(MIXED):
        one = logits_under(patch, editor.vlm, [query])[0]
        torch.testing.assert_close(together[row, : len(one)], one, rtol=1e-4, atol=1e-4)
        if not fired[row]:
            torch.testing.assert_close(
                together[row, : len(one)], unedited[row, : len(one)], rtol=1e-4, atol=1e-4
            )


def test_generation_in_mixed_batches_is_that_of_each_alone(editor):
    with editor.vlm.patched(editor.edit(FACT_EDITS[:2])):
        together = editor.vlm.generate(MIXED, max_new_tokens=5)
        assert together == [editor.vlm.generate([query], max_new_tokens=5)[0] for query in MIXED]


def test_statistics_against_loops():
    states = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    got = statistics(Part(states, mask), torch.tensor([2, 4, 0]))
    torch.testing.assert_close(got[0], pooled(states[0, :3]))
    torch.testing.assert_close(got[1], pooled(states[1]))
    assert not got[2].any()


def test_the_sentinel_counts_queries_whose_share_is_small():
    similarity = torch.tensor([[1.0, 2.0], [0.0, -9.0], [3.0, 0.0]])
    sentinel = torch.tensor([2.1, 5.0, 0.0])
    expected = []
    for row, own in zip(similarity.tolist(), sentinel.tolist(), strict=True):
        total = exp(own) + sum(map(exp, row))
        if exp(own) / total < 1.2 * max(map(exp, row)) / total:
            expected.append(-log(exp(own) / total))
    assert len(expected) == 2
    assert float(sentinel_loss(similarity, sentinel, 1.2)) == pytest.approx(sum(expected) / 2)
    assert float(sentinel_loss(similarity[1:2], sentinel[1:2], 1.2)) == 0.0


def test_retrieval_is_trained_on_every_query_and_edit_but_those_of_the_same_fact(plain):
    examples = plain.prepare(FACT_CASES)
    keys = [vector(plain, case.edits[0]) for case in FACT_CASES]
    threshold = sentinel(plain)
    rows = [(case.edits[0], j) for j, case in enumerate(FACT_CASES)]
    rows += [(case.probes[0].query, j) for j, case in enumerate(FACT_CASES)]
    rows += [(case.probes[1].query, None) for case in FACT_CASES]
    neighbour, inside, outside = [], [], []
    for number, (query, own) in enumerate(rows):
        r = vector(plain, query)
        same_fact = [
            query.fact == FACT_EDITS[e].fact and own != e and number - 4 != e for e in range(2)
        ]
        score = {e: float(r @ key) for e, key in enumerate(keys) if not same_fact[e]}
        score["sentinel"] = float(r @ threshold)
        if own is not None:
            neighbour.append(log(sum(map(exp, score.values()))) - score[own])
        left = [value for name, value in score.items() if name != own]
        others = [exp(value) for e, value in score.items() if e not in (own, "sentinel")]
        if exp(score["sentinel"]) < 1.2 * max(others):
            terms = outside if own is None else inside
            terms.append(log(sum(map(exp, left))) - score["sentinel"])
    got = {name: float(term.detach()) for name, term in plain.retrieval_terms(examples).items()}
    assert got["neighbour"] == pytest.approx(sum(neighbour) / len(neighbour), rel=1e-3)
    expected = sum(sum(some) / max(1, len(some)) for some in (inside, outside))
    assert got["sentinel"] == pytest.approx(expected, rel=1e-3)


def test_the_terms_trained_are_those_of_the_edited_model(editor):
    patch = editor.edit(FACT_EDITS[:1])
    [example] = editor.prepare(FACT_CASES[:1])
    total, terms = editor.loss([example], torch.Generator())
    assert float(total.detach()) == pytest.approx(
        sum(float(term.detach()) for term in terms.values()), rel=1e-5
    )
    always = Recipe(editor.vlm, RecipeConfig(**(SETTINGS | {"margin": -1e4})))
    always.networks().load_state_dict(editor.networks().state_dict())
    patch = type(patch)(always, patch.bank)
    asked = {
        "reliability": FACT_EDITS[0],
        "generality": FACT_CASES[0].probes[0].query,
        "locality": FACT_CASES[0].probes[1].query,
    }
    for name, query in asked.items():
        batch = editor.vlm.encode([query])
        positions = batch.answer_positions()
        base = editor.vlm.logits(batch)[positions].log_softmax(-1)
        with editor.vlm.patched(patch), torch.no_grad():
            words = editor.vlm.logits(batch)[positions].log_softmax(-1)
        assert fired_under(patch, editor.vlm, FACT_EDITS[:1])[0]
        if name == "locality":
            expected = float((words.exp() * (words - base)).sum(-1).mean())
        else:
            labels = batch.labels[batch.labels >= 0]
            expected = -float(
                torch.stack([row[label] for row, label in zip(words, labels, strict=True)]).mean()
            )
        assert float(terms[name].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_training_lowers_the_losses():
    editor = make(eos=True)
    examples = editor.prepare(FACT_CASES)
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=1e-2)
    seen = []
    for step in range(40):
        loss, terms = editor.loss(examples, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(terms["reliability"].detach()))
    assert seen[-1] < 0.7 * seen[0]


def test_a_pretrained_encoder_may_encode_the_text(tmp_path):
    sizes = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokenizer = tiny("llava").tokenizer
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=600, **sizes
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    for scope in ("text", "both"):
        editor = make(encoder=str(tmp_path / "encoder"), scope=scope)
        patch = editor.edit(FACT_EDITS)
        fired = fired_under(patch, editor.vlm, FACT_EDITS)
        assert [[edit for edit, _ in row] for row in fired] == [[0], [1], [2]]
        loss, _ = editor.loss(editor.prepare(FACT_CASES), torch.Generator())
        loss.backward()
        assert editor.encoder.get_input_embeddings().weight.grad.abs().sum() > 0
        editor.save_pretrained(tmp_path / scope)
        assert (
            Recipe.from_pretrained(editor.vlm, tmp_path / scope, margin=1.0).fingerprint
            == editor.fingerprint
        )


def test_an_encoder_that_is_not_there_is_refused(plain):
    with pytest.raises(BadInput, match="no model folder"):
        Recipe(plain.vlm, RecipeConfig(**SETTINGS, encoder="/nowhere/roberta"))
