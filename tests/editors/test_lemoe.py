"""LEMoE: experts and routing against loops over the paper's equations, training, batches that are
not full.
"""

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import fired_under, predicts_targets, states_under
from helpers.samples import EDITS, plain
from liveedit.editors.common.open_rows import open_rows
from liveedit.editors.lemoe import SCALE, LEMoE, LEMoEConfig, clusters
from liveedit.errors import BadInput
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

pytestmark = pytest.mark.families

FAST = {"rank": 3, "lr": 1e-2, "steps": 3}


def score(e, values, i):
    """k_i · v_i for one query and one expert."""
    v = values["up"][i] @ F.silu(values["down"][i] @ e)
    return float(values["key"][i] @ v)


def expert(x, values, i):
    """f_i of one token."""
    return values["B2"][i] @ (values["A2"][i] @ F.relu(values["B1"][i] @ (values["A1"][i] @ x)))


def drawn(vlm):
    """A patch of one expert an edit, drawn until the edits are not all routed to the same one."""
    editor = LEMoE(vlm, LEMoEConfig(batch=1, steps=1))
    patch = editor.edit(EDITS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for name in ("A1", "B1", "A2", "B2", "key", "down", "up"):
            patch.values[name] = 0.3 * torch.randn(patch.values[name].shape, generator=generator)
        if len(patch.route(patch.values["e"])[1].unique()) > 1:
            return editor, patch
    raise AssertionError("every edit is routed to one expert")


def test_each_query_is_routed_to_its_best_expert_at_every_token(vlm):
    editor, patch = drawn(vlm)
    place = editor.network
    asked = [*EDITS, Query("Which film is this?", "a cup", plain("green"))]
    x, _ = states_under(Patch(), vlm, asked, place.reads)
    unedited, _ = states_under(Patch(), vlm, asked, place.writes)
    found, batch = states_under(patch, vlm, asked, place.writes)
    chosen = []
    for row, span in enumerate(batch.spans):
        e = torch.stack([x[row, t] for t in range(span.start, span.prompt[1])]).mean(0)
        z = [score(e, patch.values, i) for i in range(3)]
        g = torch.tensor(z).softmax(0)
        i = max(range(3), key=z.__getitem__)
        chosen.append(i)
        for t in range(span.start, span.stop):
            wanted = unedited[row, t] + g[i] * expert(x[row, t], patch.values, i)
            torch.testing.assert_close(found[row, t], wanted, rtol=1e-4, atol=1e-4)
        assert batch.fired_by(patch)[row] == [(i, pytest.approx(float(g[i]), abs=1e-5))]
    assert len(set(chosen)) > 1


def test_a_row_is_routed_by_itself(vlm):
    _, patch = drawn(vlm)
    batch = vlm.encode(EDITS)
    with vlm.patched(patch), torch.no_grad():
        together = vlm.logits(batch)
        for row, query in enumerate(EDITS):
            span = batch.spans[row]
            torch.testing.assert_close(
                vlm.logits(vlm.encode([query]))[0],
                together[row, span.start : span.stop],
                rtol=1e-4,
                atol=1e-4,
            )


class Slow(Patch):
    """One expert, added to each row with the row's weight, token by token."""

    def __init__(self, place, new, shares):
        self.place, self.new, self.shares = place, new, shares

    def bind(self, batch):
        taken = []

        def take(x):
            taken[:] = [x]
            return x

        def add(output):
            rows = zip(output, taken[0], self.shares, strict=True)
            return torch.stack([add_to_row(*row) for row in rows])

        def add_to_row(output, inputs, share):
            tokens = zip(output, inputs, strict=True)
            return torch.stack([before + share * expert(x, self.new, 0) for before, x in tokens])

        return {self.place.reads: take, self.place.writes: add}


@pytest.mark.families("llava", "blip2")
def test_training_is_the_paper_s_with_the_remembered_edits(vlm):
    editor = LEMoE(vlm, LEMoEConfig(batch=2, routing=0.5, **FAST))
    first = editor.edit([EDITS[2], EDITS[2]])
    made = editor.edit(EDITS[:2], first)
    reads, batch = states_under(Patch(), vlm, EDITS[:2], editor.network.reads)
    e = [reads[b, span.start : span.prompt[1]].mean(0) for b, span in enumerate(batch.spans)]
    inputs = [*first.values["e"], *e]
    owner = [0, 0, 1, 1]
    new = {name: tensor.requires_grad_() for name, tensor in editor.initial(1).items()}
    optimizer = torch.optim.Adam(list(new.values()), lr=1e-2)
    for _ in range(3):
        g = []
        for one in inputs:
            v = new["up"][0] @ F.silu(new["down"][0] @ one)
            scores = [torch.tensor(score(one, first.values, 0)), new["key"][0] @ v]
            g.append(torch.stack(scores).softmax(0))
        routing = sum(-g[k][i].log() for k, i in enumerate(owner)) / 4
        with vlm.patched(Slow(editor.network, new, [g[2][1], g[3][1]])):
            logits = vlm.logits(batch)
        terms = []
        for row, tokens, span in zip(logits, batch.inputs["input_ids"], batch.spans, strict=True):
            terms += [-row[t - 1].log_softmax(0)[tokens[t]] for t in range(*span.answer)]
        optimizer.zero_grad()
        torch.autograd.backward(sum(terms) / len(terms) + 0.5 * routing)
        optimizer.step()
    for name, tensor in new.items():
        torch.testing.assert_close(made.values[name][0], first.values[name][0], rtol=0, atol=0)
        close = (made.values[name][1] - tensor[0].detach()).abs() < 1e-4
        # Where the slope is all but zero Adam turns rounding into a step.
        assert close.float().mean() > 0.99, name


def test_the_published_loss_leaves_the_first_router_as_drawn(vlm):
    editor = LEMoE(vlm, LEMoEConfig(batch=1, routing=0.0, **FAST))
    patch = editor.edit(EDITS[:2])
    start = [editor.initial(number) for number in range(2)]
    assert torch.equal(patch.values["key"][0], start[0]["key"][0])
    assert not torch.equal(patch.values["key"][1], start[1]["key"][0])
    assert not torch.equal(patch.values["B2"][0], start[0]["B2"][0])


def test_a_batch_that_is_not_full_takes_edits_until_it_is(vlm):
    editor = LEMoE(vlm, LEMoEConfig(batch=2, **FAST))
    three = editor.edit(EDITS)
    four = editor.edit(EDITS[:1], three)
    assert three.values["expert"].tolist() == [0, 0, 1]
    assert four.values["expert"].tolist() == [0, 0, 1, 1]
    assert len(three.values["key"]) == len(four.values["key"]) == 2
    assert torch.equal(four.values["B2"][0], three.values["B2"][0])
    assert not torch.equal(four.values["B2"][1], three.values["B2"][1])
    assert len(open_rows(three.values)) == 1
    assert not open_rows(four.values)


def test_edits_continue_the_open_batch_of_a_saved_patch(vlm, tmp_path):
    editor = LEMoE(vlm, LEMoEConfig(batch=4, **FAST))
    patch = editor.edit(EDITS[:2])
    patch.save(tmp_path)
    found = editor.edit(EDITS[2:], editor.load_patch(tmp_path)).values
    wanted = editor.edit(EDITS[2:], patch).values
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_training_answers_with_the_targets_and_routes_edits_to_their_experts():
    vlm = tiny("llava")
    editor = LEMoE(vlm, LEMoEConfig(batch=1, lr=3e-2))
    patch = editor.edit(EDITS)
    fired = fired_under(patch, vlm, EDITS)
    assert [[edit for edit, _ in row] for row in fired] == [[0], [1], [2]]
    with vlm.patched(patch):
        assert predicts_targets(vlm, EDITS)


def test_clusters_are_those_of_k_means():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = centres.repeat(5, 1) + 0.1 * torch.randn(15, 2, generator=generator)
    found = clusters(points, 3, generator)
    means = torch.stack([points[found == number].mean(0) for number in found.unique()])
    kept = found.unique()[torch.cdist(points, means).argmin(1)]
    assert torch.equal(kept, found)  # each is in the cluster of the nearest mean


def test_planned_batches_hold_similar_edits_and_edits_keep_their_places(vlm):
    alike = [EDITS[index] for index in (0, 2, 0, 2)]
    planned = LEMoE(vlm, LEMoEConfig(batch=2, order="clusters", seed=1, **FAST)).edit(alike)
    given = LEMoE(vlm, LEMoEConfig(batch=2, **FAST)).edit(alike)
    expert = planned.values["expert"].tolist()
    assert expert in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert given.values["expert"].tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(planned.values["e"], given.values["e"], rtol=1e-4, atol=1e-5)


def test_an_expert_starts_small_and_differs_from_the_next(vlm):
    editor = LEMoE(vlm)
    one, other = editor.initial(0), editor.initial(1)
    assert float(one["B1"].std()) == pytest.approx(SCALE, rel=0.1)
    assert not torch.equal(one["B1"], other["B1"])
    assert editor.network.layer == vlm.num_layers - 2


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"order": "random"}, {"layer": 0}, {"layer": 9}])
def test_settings_out_of_range_are_refused(vlm, wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        LEMoE(vlm, LEMoEConfig(**wrong))
