"""LiveEdit against loops over the paper's equations, a sample and an expert at a time."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.samples import noise
from liveedit.editors import load_editor, new_editor
from liveedit.editors.common import attention, extractors, losses
from liveedit.editors.common.examples import EDIT
from liveedit.editors.liveedit import generators, routing
from liveedit.editors.liveedit import losses as routing_losses
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.objective import replay
from liveedit.editors.liveedit.sampling import draw
from liveedit.errors import BadInput, Mismatch
from liveedit.models.batch import HiddenBatch, Spans
from liveedit.models.tiny import tiny
from liveedit.types import Case, Probe, Query

D, DM, HEADS, RANK, K, NV = 16, 8, 2, 3, 4, 5
CONFIG = LiveEditConfig(
    module_dim=16, heads=4, layer=1, margin=-0.15, keys="float"
)  # at which a query keeps from 0 to 9 experts


# Loops from the paper (with the released heads, scale and biases)


def slow_attention(net, x, y):
    """CA(x, y), Eq. 2, for one sample: (n, out)."""
    q = net.query(x)
    k = net.key(y)
    v = net.value(y)
    out = []
    for a in range(len(x)):
        parts = []
        for head in range(net.heads):
            qh, kh, vh = (z.chunk(net.heads, -1)[head] for z in (q, k, v))
            scores = torch.stack([qh[a] @ key / math.sqrt(len(key)) for key in kh])
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(w * value for w, value in zip(weights, vh, strict=True)))
        out.append(torch.cat(parts))
    return torch.stack(out)


def slow_vision_key(net, h_v, h_p):
    question = slow_attention(net.ask, net.phi[0], net.vision_norm(h_p))
    return slow_attention(net.look, question, net.vision_norm(h_v))


def slow_text_key(net, h_p):
    return slow_attention(net.read, net.psi[0], net.text_norm(h_p))


def slow_similarity(a, b):
    return sum(x @ y for x, y in zip(a, b, strict=True)) / len(a) / math.sqrt(a.shape[1])


def slow_residual(x, experts, weights):
    """The sum in Eq. 6 for one sample, x (T, D) normalised."""
    out = torch.zeros_like(x)
    for (U, V), w in zip(experts, weights, strict=True):
        for t in range(len(x)):
            for u, v in zip(U, V, strict=True):
                out[t] += w * max(0.0, float(x[t] @ u)) * v
    return out


def slow_weights(z):
    """Eq. 7."""
    total = sum(math.exp(other) for other in z)
    return [1 / (1 + math.exp(-one)) * math.exp(one) / total for one in z]


def slow_nce(a, positive, others):
    """Eq. 14 with the similarity for the inner product; ``others`` includes the positive."""
    total = sum(torch.exp(slow_similarity(a, b)) for b in others)
    return -torch.log(torch.exp(slow_similarity(a, positive)) / total)


@pytest.fixture
def spans():
    """Two rows of 14 tokens, one padded on the left, with parts of different lengths."""
    return [Spans((0, 1), (1, 6), (6, 9), (9, 12)), Spans((2, 4), (4, 7), (7, 12), (12, 14))]


@pytest.fixture
def hidden():
    torch.manual_seed(0)
    return torch.randn(2, 14, D)


def part(h, span):
    return h[span[0] : span[1]]


def test_attention_eq2(hidden, spans):
    net = attention.CrossAttention(DM, D, 6, HEADS)
    x = torch.randn(1, K, DM)
    y = attention.cut(hidden, [span.prompt for span in spans])
    for row, span in enumerate(spans):
        torch.testing.assert_close(
            net(x, y)[row], slow_attention(net, x[0], part(hidden[row], span.prompt))
        )


def test_expert_generation_eq1(hidden, spans):
    net = generators.ReleasedGenerator(D, DM, HEADS, RANK, 5.0)
    U, V = net(HiddenBatch(hidden, torch.ones(2, 14), torch.zeros(2, 14), spans), torch.empty(0))
    for row, span in enumerate(spans):
        h = torch.cat(
            [part(hidden[row], where) for where in (span.image, span.prompt, span.answer)]
        )
        for factor, side in ((U, net.expert_in), (V, net.expert_out)):
            expected = slow_attention(side.attention, side.rows[0], side.norm(h)) / (
                5.0 * math.sqrt(RANK)
            )
            torch.testing.assert_close(factor[row], expected)


def test_features_eq3_4_and_sentinel(hidden, spans):
    net = extractors.InputExtractor(D, DM, HEADS, K, NV)
    image, prompt = attention.image_and_prompt(hidden, spans)
    for row, span in enumerate(spans):
        h_v, h_p = part(hidden[row], span.image), part(hidden[row], span.prompt)
        torch.testing.assert_close(
            net.vision_key(image, prompt)[row], slow_vision_key(net, h_v, h_p)
        )
        torch.testing.assert_close(net.text_key(prompt)[row], slow_text_key(net, h_p))
        torch.testing.assert_close(
            net.sentinel_key(net.question(prompt))[row], slow_vision_key(net, net.sentinel[0], h_p)
        )


def test_soft_routing_eq7_and_fusion_eq6():
    torch.manual_seed(1)
    E, T = 6, 7
    z = torch.randn(3, E)
    keep = torch.rand(3, E) < 0.5
    keep[1] = False
    x, U, V = torch.randn(3, T, D), torch.randn(E, RANK, D), torch.randn(E, RANK, D)
    weight = routing.soft_routing(z, keep)
    shared, own = (
        routing.residual(x, U, V, weight),
        routing.residual(x, U.expand(3, -1, -1, -1), V.expand(3, -1, -1, -1), weight),
    )
    for row in range(3):
        chosen = keep[row].nonzero()[:, 0].tolist()
        weights = slow_weights(z[row, chosen].tolist())
        torch.testing.assert_close(weight[row, chosen], torch.tensor(weights))
        assert weight[row].count_nonzero() == len(chosen)
        expected = slow_residual(x[row], [(U[e], V[e]) for e in chosen], weights)
        torch.testing.assert_close(shared[row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own[row], expected, rtol=1e-4, atol=1e-5)


def test_likelihood_and_divergence_eq9_to_11():
    torch.manual_seed(2)
    V = 9
    lengths = [2, 1, 4]
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    logits = torch.randn(7, V)
    base = torch.randn(7, V).log_softmax(-1)
    labels = torch.randint(V, (7,))
    nll = losses.nll(logits, labels, owner, 3)
    kl = losses.kl(logits, base, owner, 3)
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    start = 0
    for row, length in enumerate(lengths):
        tokens = range(start, start + length)
        assert float(nll[row]) == pytest.approx(
            sum(-math.log(p[t, labels[t]]) for t in tokens) / length, rel=1e-5
        )
        divergences = [
            sum(p[t, v] * (p[t, v].log() - base[t, v]) for v in range(V)) for t in tokens
        ]
        assert float(kl[row]) == pytest.approx(float(sum(divergences)) / length, rel=1e-4)
        start += length


@pytest.fixture
def keys():
    """Input-side keys, edit-side keys and sentinel keys of B = 4 examples."""
    torch.manual_seed(3)
    return torch.randn(3, 4, K, DM)


def test_soft_routing_losses_eq15_16(keys):
    psi, psi_hat, _ = keys
    z = attention.similarity(psi, psi_hat)
    relative = [slow_nce(psi[j], psi_hat[j], psi_hat) for j in range(4)]
    absolute = []
    for j in range(4):
        own, other = slow_similarity(psi[j], psi_hat[j]), slow_similarity(psi[j], psi_hat[j - 1])
        absolute.append(-torch.log(torch.sigmoid(own)) - torch.log(1 - torch.sigmoid(other)))
    torch.testing.assert_close(routing_losses.relative_routing(z), sum(relative) / 4)
    torch.testing.assert_close(routing_losses.absolute_routing(z), sum(absolute) / 4)


def test_hard_routing_losses_eq13_14(keys):
    phi, phi_hat, theta = keys
    z = attention.similarity(phi, phi_hat)
    sentinel = attention.own_similarity(phi, theta)
    own = torch.arange(4)
    foreign = torch.full((4,), 4)
    expected = [slow_nce(phi[j], phi_hat[j], [*phi_hat, theta[j]]) for j in range(4)]
    torch.testing.assert_close(routing_losses.hard_routing(z, sentinel, own), sum(expected) / 4)
    expected = [slow_nce(phi[j], theta[j], [*phi_hat, theta[j]]) for j in range(4)]
    torch.testing.assert_close(routing_losses.hard_routing(z, sentinel, foreign), sum(expected) / 4)


# Draws of the training


def test_draws_are_as_released():
    B = 5
    generality = ("text_generality", "image_generality")
    locality = ("image_locality",)
    inside = {EDIT, *generality}
    seen = {"input": set(), "mixed": set(), "flip": set()}
    rows = [[EDIT, *generality, *locality]] * B
    for seed in range(200):
        drawn = draw(rows, generality, locality, torch.Generator().manual_seed(seed))
        assert drawn.mixed["text_generality"] is drawn.mixed["image_generality"]
        for j in range(B):
            for kind in (EDIT, "text_generality", "image_locality"):
                rest = torch.cat([drawn.mixed[kind][j, :j], drawn.mixed[kind][j, j + 1 :]])
                assert (rest.int().diff() <= 0).all()  # a prefix
            assert drawn.mixed[EDIT][j, j]
            assert drawn.mixed["text_generality"][j, j]
            seen["mixed"].add(int(drawn.mixed["image_locality"][j].sum()))
        near, far = drawn.neighbours, drawn.unrelated
        for j in range(B):
            (a, first), (b, second) = near.inputs[j], near.edits[j]
            assert first == second == j
            assert (a in inside) == (b in inside)
            seen["input"].add((a, b))
            (a, first), (b, second) = far.inputs[j], far.edits[j]
            assert first == second == j
            assert (a in inside) != (b in inside)
            seen["flip"].add((a in inside, a, b))
    assert seen["mixed"] == set(range(B + 1))
    assert len(seen["input"]) == 3 * 3 + 1
    assert len(seen["flip"]) == 3 + 3


def test_examples_without_some_probes_are_drawn_for():
    kinds = [[EDIT], [EDIT, "image_locality"], [EDIT, "text_generality"]]
    for seed in range(50):
        drawn = draw(
            kinds, ("text_generality",), ("image_locality",), torch.Generator().manual_seed(seed)
        )
        pairs = [
            *drawn.neighbours.inputs,
            *drawn.neighbours.edits,
            *drawn.unrelated.inputs,
            *drawn.unrelated.edits,
        ]
        assert all(kind in kinds[j] for kind, j in pairs)
        assert [j for _, j in drawn.unrelated.inputs] == [1]


# The editor on a tiny VLM


@pytest.fixture(scope="module")
def editor(vlm):
    return made(vlm)


def made(vlm, **settings) -> LiveEdit:
    """An editor of reproducible random networks whose experts are strong enough to be seen."""
    torch.manual_seed(10)
    editor = LiveEdit(vlm, replace(CONFIG, scale=0.05, **settings))
    with torch.no_grad():
        editor.input_features.sentinel.zero_()
    return editor


EDITS = [Query(f"What is number {i}?", f"answer {i}", noise(i)) for i in range(9)]
PLAIN = Query("Who is this?", "nobody", noise(100))
TEXT = Query("Who sang the song?", "nobody")


@pytest.fixture(scope="module")
def patch(editor):
    return editor.edit(EDITS)


def slow_edited(editor, patch, query):
    """The edited output (T, D) of the edit layer for one query, and what fired."""
    hidden = editor.vlm.hidden(editor.vlm.encode([query]), editor.config.layer)
    h = hidden.hidden[0]
    span = hidden.spans[0]
    net = editor.input_features
    h_v, h_p = part(h, span.image), part(h, span.prompt)
    phi = slow_vision_key(net, h_v, h_p)
    psi = slow_text_key(net, h_p)
    theta = slow_vision_key(net, net.sentinel[0], h_p)
    bank = patch.bank
    threshold = slow_similarity(phi, theta) + editor.config.margin
    kept = [
        e for e in range(len(patch)) if slow_similarity(phi, bank["vision_keys"][e]) > threshold
    ]
    weights = slow_weights([float(slow_similarity(psi, bank["text_keys"][e])) for e in kept])
    experts = [(bank["expert_in"][e], bank["expert_out"][e]) for e in kept]
    return h + slow_residual(editor.norm(h), experts, weights), dict(
        zip(kept, weights, strict=True)
    )


@torch.no_grad()
def test_the_whole_method_in_one_batch(vlm, editor, patch):
    queries = [*EDITS[:4], PLAIN, TEXT]
    with vlm.patched(patch):
        batch = vlm.encode(queries, padding_side="left")
        edited = vlm.hidden(batch, editor.config.layer)
    fired = batch.fired_by(patch)
    counts = []
    for row, query in enumerate(queries[:-1]):
        expected, weights = slow_edited(editor, patch, query)
        torch.testing.assert_close(edited.row(row).hidden[0], expected, rtol=1e-4, atol=1e-4)
        assert dict(fired[row]) == pytest.approx(weights, rel=1e-4)
        assert fired[row] == sorted(fired[row], key=lambda pair: -pair[1])
        counts.append(len(weights))
    assert min(counts) == 0
    assert max(counts) > 1
    assert fired[-1] == []


@torch.no_grad()
def test_rows_that_nothing_fires_in_are_bit_equal(vlm, editor, patch):
    batch = vlm.encode([TEXT, EDITS[0]])
    before = vlm.logits(batch)
    with vlm.patched(patch):
        after = vlm.logits(batch)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    closed = editor.edit(EDITS)
    closed.editor = made(vlm, margin=1e9)
    output = vlm.hidden(batch, 1).hidden
    assert closed.bind(batch)["layers.1"](output) is output
    assert batch.fired_by(closed) == [[], []]
    assert patch.bind(vlm.encode([TEXT])) == {}
    assert editor.empty().bind(batch) == {}


@torch.no_grad()
@pytest.mark.parametrize("positions", ["all", "answer"])
def test_generation_keeps_the_prompts_routing(vlm, patch, positions):
    patch = editor_with(patch, vlm, positions=positions)
    queries = [Query(query.prompt, image=query.image) for query in [*EDITS[:2], PLAIN]]
    with vlm.patched(patch):
        replies = vlm.answers(queries, max_new_tokens=5)
        answers, fired = [reply.text for reply in replies], [list(reply.fired) for reply in replies]
        for query, answer in zip(queries, answers, strict=True):  # one by one, without cache
            batch = vlm.encode([query])
            for _ in range(5):
                batch = batch.extended(vlm.logits(batch)[:, -1:].argmax(-1))
            ids = batch.inputs["input_ids"][0, -5:]
            assert vlm.tokenizer.decode(ids, skip_special_tokens=True).strip() == answer
    assert len(fired) == 3
    assert answers != vlm.generate(queries, max_new_tokens=5)


def test_editing_is_pure_and_batched(vlm, editor, patch):
    first = editor.edit(EDITS[:4])
    both = editor.edit(EDITS[4:], first)
    assert (len(first), len(both), len(editor.empty())) == (4, 9, 0)
    for name, tensor in patch.bank.tensors().items():
        torch.testing.assert_close(both.bank[name], tensor, rtol=1e-4, atol=1e-5)
    with vlm.patched(patch), pytest.raises(BadInput, match="unedited"):
        editor.edit(EDITS)


def test_forgetting(editor, patch):
    kept = editor.select(patch, [0, 2])
    assert len(kept) == len(patch[:2]) == 2
    assert torch.equal(kept.bank["expert_in"], patch.bank["expert_in"][[0, 2]])


@torch.no_grad()
def test_top_k_executes_the_heaviest(vlm, patch):
    batch = vlm.encode(EDITS[:3])
    hidden = vlm.hidden(batch, 1)
    every = patch.route(hidden.hidden, hidden.spans)
    one = editor_with(patch, vlm, top_k=1).route(hidden.hidden, hidden.spans)
    assert one.keep.sum(1).tolist() == every.keep.any(1).int().tolist()
    fired = every.keep.any(1)
    assert torch.equal(one.weight.argmax(1)[fired], every.weight.argmax(1)[fired])


@torch.no_grad()
def test_margin_is_added_to_the_sentinel(vlm, patch):
    batch = vlm.encode([EDITS[0]])
    hidden = vlm.hidden(batch, 1)
    every = patch.route(hidden.hidden, hidden.spans)
    gaps = (every.vision - every.sentinel[:, None])[0].sort().values
    margin = float(gaps[-2:].mean())
    assert (
        int(editor_with(patch, vlm, margin=margin).route(hidden.hidden, hidden.spans).keep.sum())
        == 1
    )


@torch.no_grad()
def test_positions_answer_leaves_the_prompt_alone(vlm, patch):
    batch = vlm.encode(EDITS[:3], padding_side="left")
    before = vlm.hidden(batch, 1)
    changes = []
    for positions in ("all", "answer"):
        with vlm.patched(editor_with(patch, vlm, positions=positions)):
            changes.append(vlm.hidden(batch, 1).hidden - before.hidden)
    for row, span in enumerate(batch.spans):
        last = span.prompt[1] - 1
        assert not changes[1][row, :last].any()
        assert torch.equal(changes[1][row, last:], changes[0][row, last:])


@torch.no_grad()
def test_edits_can_fire_for_text_only_queries(vlm):
    editor = made(vlm, text_only="text_key")
    mixed = editor.edit([*EDITS[:3], TEXT])
    hidden = vlm.hidden(vlm.encode([TEXT, EDITS[0]]), 1)
    found = mixed.route(hidden.hidden, hidden.spans)
    psi = editor.input_features.text_key(attention.image_and_prompt(hidden.hidden, hidden.spans)[1])
    assert torch.equal(found.keep[0], attention.similarity(psi, mixed.bank["text_keys"])[0] > 0)
    assert not found.keep[1, 3]  # an edit without image does not fire for an image
    with pytest.raises(BadInput, match="no image"):
        made(vlm).edit([TEXT])


def editor_with(patch, vlm, **settings):
    """The same edits and networks under other inference settings."""
    other = made(vlm, **settings)
    other.networks().load_state_dict(patch.editor.networks().state_dict())
    return type(patch)(other, patch.bank)


def test_more_experts_than_are_gathered_at_a_time(vlm, patch, monkeypatch):
    batch = vlm.encode(EDITS[:3])
    with vlm.patched(patch), torch.no_grad():
        whole = vlm.logits(batch)
        assert max(map(len, batch.fired_by(patch))) > 2
        monkeypatch.setattr("liveedit.editors.liveedit.experts.SLAB", 2)
        torch.testing.assert_close(vlm.logits(batch), whole)


# Files


def test_editor_and_patch_are_saved_and_loaded(vlm, editor, patch, tmp_path):
    editor.save_pretrained(tmp_path / "editor")
    patch.save(tmp_path / "patch")
    opened = load_editor(vlm, tmp_path / "editor")
    assert (opened.config, opened.fingerprint) == (editor.config, editor.fingerprint)
    again = opened.load_patch(tmp_path / "patch")
    assert all(
        torch.equal(again.bank[name], tensor) for name, tensor in patch.bank.tensors().items()
    )
    assert len(opened.edit([PLAIN], again)) == len(patch) + 1
    assert len(
        LiveEdit.from_pretrained(vlm, tmp_path / "editor", margin=1e9).load_patch(
            tmp_path / "patch"
        )
    ) == len(patch)
    with pytest.raises(BadInput, match="cannot differ"):
        LiveEdit.from_pretrained(vlm, tmp_path / "editor", rank=2)


def test_files_of_another_editor_or_model_are_refused(vlm, editor, patch, tmp_path):
    editor.save_pretrained(tmp_path / "editor")
    patch.save(tmp_path / "patch")
    other_editor = LiveEdit(vlm, editor.config)
    with pytest.raises(Mismatch, match="another editor"):
        other_editor.load_patch(tmp_path / "patch")
    with pytest.raises(Mismatch, match="another editor"):
        other_editor.edit([PLAIN], patch)
    other = tiny("llava", seed=1)
    with pytest.raises(Mismatch, match="another model"):
        load_editor(other, tmp_path / "editor")
    with pytest.raises(Mismatch, match="another model"):
        made(other).load_patch(tmp_path / "patch")
    with pytest.raises(BadInput, match="no editor"):
        load_editor(vlm, tmp_path)
    with pytest.raises(BadInput, match="trained"):
        load_editor(vlm, "liveedit")
    with pytest.raises(BadInput, match="not a setting"):
        new_editor(vlm, "liveedit", {"widht": 3})


# Training


def cases(count=4):
    return [
        Case(
            str(i),
            (edit,),
            (
                Probe("reliability", edit),
                Probe("text_generality", Query(f"Tell me number {i}.", edit.target, edit.image)),
                Probe("image_generality", Query(edit.prompt, edit.target, noise(50 + i))),
                Probe(
                    "image_locality",
                    Query("Where is this?", f"place {i}", noise(80 + i)),
                    "before",
                ),
                Probe("text_locality", TEXT, "before"),
            ),
        )
        for i, edit in enumerate(EDITS[:count])
    ]


@torch.no_grad()
@pytest.mark.parametrize("positions", ["all", "answer"])
def test_training_terms_against_a_loop(vlm, positions):
    """Eq. 8-11: likelihood and divergence, one sample at a time through the patched model's upper
    layers.
    """
    editor = made(vlm, positions=positions)
    examples = editor.prepare(cases())
    assert set(examples[0].rows) == {
        "reliability",
        "text_generality",
        "image_generality",
        "image_locality",
    }
    kinds = [list(example.rows) for example in examples]
    config = editor.config
    draws = draw(kinds, config.generality, config.locality, torch.Generator().manual_seed(1))
    _, terms = replay(editor, examples, draws)
    keys = editor.experts(HiddenBatch.stack([example.rows["reliability"] for example in examples]))
    for kind in kinds[0]:
        values = []
        for j, example in enumerate(examples):
            row = example.rows[kind]
            h, span = row.hidden[0], row.spans[0]
            psi = slow_text_key(editor.input_features, part(h, span.prompt))
            chosen = draws.mixed[kind][j].nonzero()[:, 0].tolist()
            weights = slow_weights(
                [float(slow_similarity(psi, keys["text_keys"][e])) for e in chosen]
            )
            change = slow_residual(
                editor.norm(h),
                [(keys["expert_in"][e], keys["expert_out"][e]) for e in chosen],
                weights,
            )
            if positions == "answer":
                change[: span.prompt[1] - 1] = 0
            logits = vlm.resume(1, replace(row, hidden=(h + change)[None]))[0]
            tokens = range(*span.answer)
            p = logits.log_softmax(-1)
            if kind == "image_locality":
                base = vlm.resume(1, row)[0].log_softmax(-1)
                values.append(
                    sum((p[t - 1].exp() * (p[t - 1] - base[t - 1])).sum() for t in tokens)
                    / len(tokens)
                )
            else:
                values.append(sum(-p[t - 1, row.labels[0, t]] for t in tokens) / len(tokens))
        torch.testing.assert_close(terms[kind], sum(values) / len(values), rtol=1e-4, atol=1e-5)


def test_a_cached_row_is_what_the_model_computes(vlm, editor):
    example = editor.prepare(cases(1))[0]
    query = cases(1)[0].probes[3].query
    batch = vlm.encode([query])
    torch.testing.assert_close(example.rows["image_locality"].hidden, vlm.hidden(batch, 1).hidden)
    expected = vlm.logits(batch)[batch.answer_positions()].log_softmax(-1)
    torch.testing.assert_close(example.base["image_locality"], expected, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss_and_reproduces(vlm):
    runs = []
    for _ in range(2):
        editor = made(vlm, eos=True)
        examples = editor.prepare(cases())
        optimizer = torch.optim.Adam(editor.networks().parameters(), lr=3e-3)
        history = []
        for step in range(12):
            total, terms = editor.loss(examples, torch.Generator().manual_seed(step))
            assert total.item() == pytest.approx(
                sum(float(term.detach()) for term in terms.values()), rel=1e-5
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            history.append(total.item())
        runs.append(history)
    assert runs[0] == runs[1]
    assert sum(runs[0][-3:]) < 0.9 * sum(runs[0][:3])


def test_every_network_learns(vlm, editor):
    total, _ = editor.loss(editor.prepare(cases()), torch.Generator().manual_seed(3))
    total.backward()
    assert all(parameter.grad is not None for parameter in editor.networks().parameters())
    editor.networks().zero_grad(set_to_none=True)


def test_cases_that_cannot_be_learnt_from(editor):
    with pytest.raises(BadInput, match="case x"):
        editor.prepare([Case("x", (EDITS[0], EDITS[1]), ())])
    with pytest.raises(BadInput, match="case y"):
        editor.prepare([Case("y", (TEXT,), ())])


def test_info_nce_is_a_softmax_over_the_row():
    similarity = torch.tensor([[1.0, 2.0, 0.0]])
    assert float(losses.info_nce(similarity, torch.tensor([1]))) == pytest.approx(
        -math.log(math.exp(2) / (math.e + math.exp(2) + 1))
    )
