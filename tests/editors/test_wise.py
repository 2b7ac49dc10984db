"""WISE: activation, margins, routing, editing and merging against loops over its equations."""

import pytest
import torch

from helpers.measures import predicts_targets, states_under
from helpers.samples import EDITS
from liveedit.editors.wise import WISE, WISEConfig, WISEPatch, activation, ties
from liveedit.errors import BadInput
from liveedit.models.patch import INPUT, Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

pytestmark = pytest.mark.families


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_activation(A, delta, span):
    """The mean of ‖A τᵀ‖ over a row's tokens before the answer."""
    lengths = [
        float((delta @ A[t]).square().sum().sqrt()) for t in range(span.start, span.prompt[1])
    ]
    return sum(lengths) / len(lengths)


def test_activation_is_the_mean_over_the_tokens():
    A, delta = noise(2, 4, 5), noise(3, 5, seed=1)
    tokens = torch.tensor([[True, True, True, False], [False, True, True, True]])
    found = activation(A, delta, tokens)
    for row in range(2):
        lengths = [(delta @ A[row, t]).norm() for t in range(4) if tokens[row, t]]
        assert float(found[row]) == pytest.approx(float(sum(lengths)) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("own", "other"), [(0.0, 0.0), (3.0, 9.0), (30.0, 1.0), (12.0, 4.0), (25.0, 18.0)]
)
def test_the_margins_are_those_of_equation_5(own, other):
    editor = WISE(tiny("llava"))
    wanted = max(0.0, other - 5) + max(0.0, 20 - own) + max(0.0, 10 - (own - other))
    assert float(editor.margin(torch.tensor([own]), torch.tensor([other]))) == pytest.approx(wanted)


def test_each_row_goes_to_the_most_active_memory_above_its_threshold(vlm):
    editor = WISE(vlm)
    deltas = 0.1 * noise(2, *editor.shape)
    A, batch = states_under(Patch(), vlm, EDITS, editor.down + INPUT)
    found = [
        [slow_activation(A[row], delta, span) for delta in deltas]
        for row, span in enumerate(batch.spans)
    ]
    least = (
        torch.tensor([sum(sorted(row[m] for row in found)[1:]) / 2 for m in range(2)])
        / editor.config.ratio
    )
    patch = WISEPatch(editor, {"delta": deltas, "least": least}, 2)
    plain, _ = states_under(Patch(), vlm, EDITS, editor.down)
    side, _ = states_under(patch, vlm, EDITS, editor.down)
    thresholds = (editor.config.ratio * least).tolist()
    chosen = []
    for row in range(3):
        above = [m for m in range(2) if found[row][m] > thresholds[m] + 1e-6]
        best = max(above, key=found[row].__getitem__, default=None)
        chosen.append(best)
        if best is None:
            assert torch.equal(side[row], plain[row])
        else:
            wanted = plain[row] + A[row] @ deltas[best].T
            torch.testing.assert_close(side[row], wanted, rtol=1e-4, atol=1e-5)
    assert None in chosen
    assert len(set(chosen)) > 1


class Copied(Patch):
    """The side memory as the paper has it: another matrix in the place of W_v."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def weights(self):
        return {self.name: self.value}


def slow_descent(editor, query):
    """Δ of one edit, the loss before each step, and the states of its tokens at the layer."""
    vlm = editor.vlm
    config = editor.config
    mask = editor.mask(0)
    name = f"{vlm.decoder_path}.{editor.down}.weight"
    value = start = vlm.model.get_parameter(name).detach().clone()
    [own], batch = states_under(Patch(), vlm, [query], editor.down + INPUT)
    irrelevant = [Query(config.irrelevant)]
    [other], unrelated = states_under(Patch(), vlm, irrelevant, editor.down + INPUT)
    losses = []
    for _ in range(config.steps):
        value = value.detach().requires_grad_()
        with vlm.patched(Copied(name, value)):
            logits = vlm.logits(batch)[0]
        first, last = batch.spans[0].answer
        likelihood = [
            -logits[t - 1].log_softmax(0)[batch.inputs["input_ids"][0, t]]
            for t in range(first, last)
        ]
        d_own = (own[: batch.spans[0].prompt[1]] @ (value - start).T).norm(dim=1).mean()
        d_other = (other[: unrelated.spans[0].prompt[1]] @ (value - start).T).norm(dim=1).mean()
        loss = sum(likelihood) / len(likelihood) + (d_other - config.alpha).clamp(min=0)
        loss = (
            loss
            + (config.beta - d_own).clamp(min=0)
            + (config.gamma - (d_own - d_other)).clamp(min=0)
        )
        losses.append(float(loss.detach()))
        if len(losses) > 1 and losses[-1] <= 0.02 and abs(losses[-2] - losses[-1]) <= 1e-4:
            break
        [slope] = torch.autograd.grad(loss, [value])
        value = start + (value - config.lr * mask * slope - start).clamp(
            -config.clamp, config.clamp
        )
    return (value - start).detach(), losses, own


@pytest.mark.families("llava", "blip2")
def test_an_edit_is_masked_descent_on_a_copy_of_the_matrix(vlm):
    config = WISEConfig(lr=0.3, steps=3, alpha=0.1, beta=2.0, gamma=1.5, clamp=0.2, mask=0.5)
    editor = WISE(vlm, config)
    patch = editor.edit(EDITS[:1])
    delta, losses, own = slow_descent(editor, EDITS[0])
    assert len(losses) == 3
    torch.testing.assert_close(patch.values["delta"][0], delta, rtol=1e-3, atol=1e-4)
    assert float(patch.values["least"][0]) == pytest.approx(
        slow_activation(own, patch.values["delta"][0], editor.vlm.encode(EDITS[:1]).spans[0]),
        rel=1e-4,
    )


def test_an_edit_ends_once_its_loss_is_small_and_no_longer_falls():
    vlm = tiny("llava")
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight.mul_(4)  # or no answer would be sure enough
    editor = WISE(vlm, WISEConfig(lr=1.0, steps=200, alpha=100.0, beta=0.0, gamma=0.0))
    patch = editor.edit(EDITS[:1])
    delta, losses, _ = slow_descent(editor, EDITS[0])
    assert len(losses) < 200
    assert sum(loss <= 0.02 for loss in losses) > 2
    torch.testing.assert_close(patch.values["delta"][0], delta, rtol=1e-3, atol=1e-4)


def test_only_a_shard_s_own_share_of_entries_moves(vlm):
    editor = WISE(vlm, WISEConfig(steps=2, shard=1, merge=4))
    patch = editor.edit(EDITS)
    masks = [editor.mask(shard) for shard in range(3)]
    assert all(0.15 < float(mask.mean()) < 0.25 for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    for delta, mask in zip(patch.values["delta"], masks, strict=True):
        assert bool((delta[mask == 1] != 0).any())
        assert bool((delta[mask == 0] == 0).all())


def test_the_least_activation_is_that_of_the_weakest_edit(vlm):
    editor = WISE(vlm, WISEConfig(steps=3))
    made = None
    least = []
    for query in EDITS:
        made = editor.edit([query], made)
        A, batch = states_under(Patch(), vlm, [query], editor.down + INPUT)
        least.append(slow_activation(A[0], made.values["delta"][0], batch.spans[0]))
    assert len(made.values["delta"]) == 1
    assert float(made.values["least"][0]) == pytest.approx(min(least), rel=1e-4)


def slow_ties(deltas, weights, density):
    """TIES entry by entry."""
    kept = []
    for delta in deltas:
        order = delta.abs().flatten().argsort(descending=True)[: int(density * delta.numel())]
        kept.append({int(place): float(delta.flatten()[place]) for place in order})
    merged = torch.zeros_like(deltas[0]).flatten()
    for place in range(merged.numel()):
        entries = [(w, delta.get(place, 0.0)) for w, delta in zip(weights, kept, strict=True)]
        sign = 1.0 if sum(w * x for w, x in entries) >= 0 else -1.0
        agree = [(w, x) for w, x in entries if x * sign > 0]
        if agree:
            merged[place] = sum(w * x for w, x in agree) / sum(w for w, _ in agree)
    return merged.reshape(deltas[0].shape)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.6, 0.2, 0.2]])
def test_merging_is_that_of_ties(weights):
    deltas = noise(len(weights), 6, 7)
    found = ties(deltas, torch.tensor(weights), 0.53)
    torch.testing.assert_close(found, slow_ties(list(deltas), weights, 0.53), rtol=1e-5, atol=1e-6)
    assert bool((found == 0).any())


def test_what_was_trimmed_away_stays_away():
    apart = torch.zeros(2, 4, 4)
    apart[0, 0] = 1.0
    apart[1, 1] = -2.0  # masks that do not overlap
    torch.testing.assert_close(ties(apart, torch.tensor([0.5, 0.5]), 0.53), apart.sum(0))


@pytest.mark.parametrize("memory", ["merge", "retrieve"])
def test_shards_are_merged_and_kept_as_the_memory_says(memory):
    vlm = tiny("llava")
    config = WISEConfig(steps=2, shard=1, merge=2, memory=memory)
    editor = WISE(vlm, config)
    made = None
    counts, shards, least = [], [], []
    for query in [*EDITS, EDITS[0]]:
        made = editor.edit([query], made)
        counts.append(len(made.values["delta"]))
        shards.append(made.values["delta"])
        least.append(made.values["least"])
    if memory == "merge":
        assert counts == [1, 1, 2, 1]
        old, third = shards[1][0], shards[2][1]
        assert torch.equal(shards[2][0], old)
        unrelated = editor.read(Query(config.irrelevant))[1:]
        fourth = editor.fit(torch.zeros(editor.shape), editor.mask(3), EDITS[0], *unrelated)
        wanted = ties(
            torch.stack([old, third, fourth[0]]), torch.tensor([0.6, 0.2, 0.2]), config.density
        )
        torch.testing.assert_close(shards[3][0], wanted)
        assert float(least[3][0]) == pytest.approx(min([*least[2].tolist(), float(fourth[1])]))
    else:
        assert counts == [1, 1, 2, 2]
        assert torch.equal(shards[3][0], shards[1][0])


@pytest.mark.families("llava", "blip2")
def test_an_edit_is_answered_with_its_target(vlm):
    assert not predicts_targets(vlm, EDITS[:1])
    with vlm.patched(WISE(vlm, WISEConfig(steps=30)).edit(EDITS[:1])):
        assert predicts_targets(vlm, EDITS[:1])


def test_the_layer_is_after_five_sixths_by_default(vlm):
    assert WISE(vlm).layer == 3
    assert WISE(vlm).down.startswith("layers.3.")
    assert WISE(vlm, WISEConfig(layer=2)).down.startswith("layers.2.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shard": 0}, "shard"),
        ({"merge": 750}, "merge"),
        ({"memory": "none"}, "memory"),
        ({"layer": 0}, "layer"),
        ({"layer": 9}, "layer"),
    ],
)
def test_settings_out_of_range_are_refused(vlm, wrong, message):
    with pytest.raises(BadInput, match=message):
        WISE(vlm, WISEConfig(**wrong))
