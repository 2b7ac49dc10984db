import pytest
import torch

from helpers.samples import EDITS, GREEN, QUESTION, RED
from liveedit.editors import new_editor
from liveedit.editors.common import sketch
from liveedit.editors.common.bank import Bank
from liveedit.editors.liveedit.experts import ExpertPatch
from liveedit.types import Query

WIDTH = 200
SETTINGS = {"margin": -2.0, "text_only": "text_key"}


def keys(count, seed=0, width=WIDTH, decay=0.97):
    """Keys most of whose length is in few directions, as features have it."""
    chance = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(width, width, generator=chance))[0]
    return torch.randn(count, width, generator=chance) * decay ** torch.arange(width) @ axes


def above(rows, queries, least):
    return ((queries @ rows.float().T) > least[:, None]).any(0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("decay", [0.8, 0.97, 1.0])
@pytest.mark.parametrize("count", [sketch.LEAST - 1, sketch.LEAST, 4 * sketch.LEAST])
def test_no_key_above_a_threshold_is_left_out(count, decay, quantile, half):
    rows = keys(count, decay=decay).to(torch.float16 if half else torch.float32)
    queries = torch.cat([keys(2, 1, decay=decay), rows[:1].float()])
    bank = Bank({"key": rows[: count // 2]}).append({"key": rows[count // 2 :]})
    least = (queries @ rows.float().T).quantile(quantile, 1) - 1e-6
    found = bank.near("key", queries, least)
    assert found.tolist() == sorted(set(found.tolist()))
    assert set(above(rows, queries, least)) <= set(found.tolist())


def test_few_of_many_keys_are_compared():
    rows = keys(4000)
    queries = rows[:3] + 0.1 * keys(3, 1)
    least = 0.7 * (queries * rows[:3]).sum(1)
    found = Bank({"key": rows}).near("key", queries, least)
    assert {0, 1, 2} <= set(found.tolist())
    assert len(found) < 100


def test_banks_that_part_have_sketches_of_their_own():
    rows = keys(sketch.LEAST)
    one = Bank({"key": rows})
    query = rows[:1]
    one.near("key", query, torch.tensor([0.0]))
    first = one.append({"key": 2 * query})
    other = one.append({"key": -query})
    for _ in range(2):
        for bank, expected in ((first, True), (other, False)):
            found = bank.near("key", query, 0.99 * (query @ query.T)[0])
            assert (sketch.LEAST in found.tolist()) == expected


def test_rows_that_were_given_back_leave_no_trace():
    rows = keys(sketch.LEAST + 1)
    bank = Bank({"key": rows}).with_room(4)
    query = rows[:1]
    grown = bank.append({"key": 5 * query})
    grown.near("key", query, torch.tensor([0.0]))
    grown.give_back(len(bank))
    again = bank.append({"key": -query})
    assert len(bank) not in again.near("key", query, torch.tensor([0.0])).tolist()


def test_keys_without_image_are_near_nothing():
    rows = keys(sketch.LEAST + 1)
    rows[3::7] = torch.nan
    found = Bank({"key": rows}).near("key", rows[:1], torch.tensor([-1e6]))
    assert not set(range(3, len(rows), 7)) & set(found.tolist())
    every = Bank({"key": torch.full((sketch.LEAST, WIDTH), torch.nan)})
    assert not len(every.near("key", rows[:1], torch.tensor([-1e6])))


@pytest.mark.parametrize(
    "name", ["liveedit", "pinpoint", pytest.param("direct", marks=pytest.mark.slow)]
)
def test_a_large_pool_fires_as_if_all_its_edits_were_compared(vlm, name, monkeypatch):
    editor = new_editor(vlm, name, {} if name == "direct" else SETTINGS)
    made = editor.edit(EDITS)
    chance = torch.Generator().manual_seed(0)
    bank = made.bank
    while len(bank) < 2 * sketch.LEAST:
        noisy = {
            tensor: value * (1 + 0.5 * torch.randn(value.shape, generator=chance))
            for tensor, value in made.bank.tensors().items()
        }
        bank = bank.append(noisy)
    patch = type(made)(editor, bank)
    asked = [Query(QUESTION, image=RED), Query("Which city?", image=GREEN), Query("who sang")]
    batch = vlm.encode(asked)
    with torch.no_grad(), vlm.patched(patch):
        vlm.logits(batch)
    fired = batch.fired_by(patch)
    assert any(fired)
    monkeypatch.setattr(ExpertPatch, "within_reach", lambda patch, _: torch.arange(len(patch)))
    with torch.no_grad(), vlm.patched(patch):
        vlm.logits(batch)
    for few, every in zip(fired, batch.fired_by(patch), strict=True):
        assert dict(few) == pytest.approx(dict(every), rel=1e-4)
