"""HoReN: its equations against loops over tokens and keys, what fires, and what an edit learns."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import fired_under
from helpers.samples import EDITS
from liveedit.editors.common.branch import Recorder
from liveedit.editors.common.codebook import CodebookBranch
from liveedit.editors.horen import HoReN, HoReNConfig, settled
from liveedit.errors import BadInput
from liveedit.models.feed_forward import down_projection
from liveedit.models.patch import INPUT
from liveedit.types import Query

pytestmark = pytest.mark.families
QUICK = HoReNConfig(fit_steps=2)


def unit(vector):
    return [number / math.sqrt(sum(x * x for x in vector)) for number in vector]


def settled_by_loops(q, keys, beta, alpha, steps):
    """The damped dynamics as they are written down, one query and one key at a time."""
    for _ in range(steps):
        weights = [math.exp(beta * sum(a * b for a, b in zip(q, key, strict=True))) for key in keys]
        total = sum(weights)
        pattern = [0.0] * len(q)
        for weight, key in zip(weights, keys, strict=True):
            pattern = [old + weight / total * x for old, x in zip(pattern, key, strict=True)]
        pattern = unit(pattern)
        q = unit([(1 - alpha) * a + alpha * b for a, b in zip(q, pattern, strict=True)])
    return q


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_queries_settle_as_by_loops(alpha, steps):
    generator = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(7, 5, generator=generator), dim=1)
    queries = F.normalize(torch.randn(3, 5, generator=generator), dim=1)
    expected = [settled_by_loops(q, keys.tolist(), 6.0, alpha, steps) for q in queries.tolist()]
    found = settled(queries, keys, 6.0, alpha, steps)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_settled_query_is_nearer_to_its_key_and_no_nearer_to_others():
    keys = torch.eye(4)
    query = F.normalize(torch.tensor([[1.0, 0.5, 0.0, 0.0]]), dim=1)
    before, after = (settled(query, keys, 20.0, 0.1, steps) @ keys.T for steps in (0, 1))
    assert after[0, 0] > before[0, 0]
    assert bool((after[0, 1:] <= before[0, 1:] + 1e-6).all())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("tokens", "share"), [("question", 0.5), ("all", 0.5), ("question", 0.0)])
def test_a_key_is_the_direction_of_the_mean_of_the_last_tokens(vlm, tokens, share, side):
    editor = HoReN(vlm, HoReNConfig(tokens=tokens, share=share))
    batch = vlm.encode([*EDITS, Query("Who?", "nobody at all")], padding_side=side)
    record = Recorder(editor.down + INPUT)
    with vlm.patched(record):
        vlm.hidden(batch, editor.layer)
    x = record.seen[editor.down + INPUT]
    keys = editor.keys(x, batch.spans)
    for row, span in enumerate(batch.spans):
        first = span.prompt[0] if tokens == "question" else span.start
        count = max(1, math.ceil(share * (span.prompt[1] - first)))
        total = sum(x[row, span.prompt[1] - 1 - back].float() for back in range(count))
        torch.testing.assert_close(keys[row], total / total.norm(), rtol=1e-4, atol=1e-5)


def test_the_value_is_added_at_the_last_prompt_token_of_rows_above_the_threshold(vlm):
    editor = HoReN(vlm, HoReNConfig(fit_steps=5, threshold=0.999, steps=0))
    patch = editor.edit(EDITS)
    other = Query("Who?", "nobody", EDITS[1].image)
    batch = vlm.encode([EDITS[2], EDITS[0], other])
    spots = batch.last_prompt_tokens()
    plain, record = Recorder(editor.down), Recorder(editor.down)
    with vlm.patched(plain):
        vlm.hidden(batch, editor.layer)
    with vlm.patched(record), vlm.patched(patch):
        vlm.hidden(batch, editor.layer)
    assert batch.fired_by(patch) == [[(2, 1.0)], [(0, 1.0)], []]
    change = record.seen[editor.down] - plain.seen[editor.down]
    for row, entry in ((0, 2), (1, 0)):
        torch.testing.assert_close(
            change[row, spots[row]], patch.bank["value"][entry], rtol=1e-3, atol=1e-3
        )
    changed = (change != 0).any(-1)
    assert changed.nonzero().tolist() == [[0, int(spots[0])], [1, int(spots[1])]]


def test_only_the_nearest_of_several_keys_fires(vlm):
    patch = HoReN(vlm, HoReNConfig(fit_steps=1, threshold=-1.0)).edit(EDITS)
    assert fired_under(patch, vlm, EDITS) == [[(place, 1.0)] for place in range(len(EDITS))]


def test_keys_that_are_superseded_draw_no_query(vlm):
    editor = HoReN(vlm, HoReNConfig(fit_steps=1, threshold=-1.0, alpha=1.0, beta=1.0))
    older, other = EDITS[:2]
    newer = Query(older.prompt, "Brazil", older.image)
    patch = editor.edit([older, other, newer])
    without = editor.edit([other, newer])
    generator = torch.Generator().manual_seed(0)
    q = F.normalize(torch.randn(2, patch.bank["key"].shape[1], generator=generator), dim=1)
    torch.testing.assert_close(patch.cosine(q)[:, 1:], without.cosine(q))
    assert fired_under(patch, vlm, [older]) == [[(2, 1.0)]]


def test_generated_tokens_are_left_alone(vlm):
    patch = HoReN(vlm, HoReNConfig(fit_steps=1, threshold=-1.0)).edit(EDITS)
    batch = vlm.encode([Query(EDITS[0].prompt, image=EDITS[0].image)])
    branch = CodebookBranch(patch, batch)
    length = batch.labels.shape[1]
    branch.read(torch.randn(1, length, patch.bank["key"].shape[1]))
    prompt = torch.zeros(1, length, vlm.hidden_size)
    assert branch.write(prompt) is not prompt
    branch.rewind(length)
    generated = prompt[:, :1]
    assert branch.write(generated) is generated


def test_a_value_that_was_not_fitted_adds_nothing(vlm):
    patch = HoReN(vlm, HoReNConfig(fit_steps=0)).edit(EDITS)
    assert not patch.bank["value"].any()


def test_a_value_lowers_the_loss_of_its_answer_and_is_learned_alone(vlm):
    editor = HoReN(vlm, HoReNConfig(fit_steps=40, lr=0.1))
    for query, together in zip(EDITS, editor.edit(EDITS).bank["value"], strict=True):
        batch = vlm.encode([query])

        def loss(batch=batch):
            with torch.no_grad():
                logits = vlm.logits(batch)[batch.answer_positions()]
                return float(F.cross_entropy(logits, batch.labels[batch.labels >= 0]))

        before = loss()
        patch = editor.edit([query])
        with vlm.patched(patch):
            assert loss() < before - 0.1
        torch.testing.assert_close(patch.bank["value"][0], together, rtol=1e-3, atol=1e-3)


def test_the_layer_is_near_the_last_one_and_any_but_the_first(vlm):
    assert HoReN(vlm, QUICK).down == down_projection(vlm, 2)
    with pytest.raises(BadInput, match="layers 0 to 3"):
        HoReN(vlm, HoReNConfig(layer=0))
