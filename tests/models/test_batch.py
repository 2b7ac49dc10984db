"""Spans, padding, and batches that grow, shrink and are taken apart."""

import pytest
import torch

from liveedit.models.batch import (
    IGNORED,
    Batch,
    HiddenBatch,
    Spans,
    common_prefix,
    find_spans,
    pad_rows,
)


def hidden_batch(*lengths, width=3, positions=None):
    """Rows of the given lengths, padded on the left, each with one token of answer."""
    total = max(lengths)
    mask = torch.tensor([[0] * (total - length) + [1] * length for length in lengths])
    labels = torch.full_like(mask, IGNORED)
    labels[:, -1] = torch.arange(len(lengths))
    spans = find_spans(torch.zeros_like(mask), mask, [1] * len(lengths))
    states = torch.randn(len(lengths), total, width, generator=torch.Generator().manual_seed(0))
    return HiddenBatch(states, mask, labels, spans, positions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_on_the_side_asked_for(side):
    padded = pad_rows([[1, 2, 3], [4]], 9, side)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9] if side == "right" else [9, 9, 4]]
    assert padded.dtype == torch.long


def test_spans_of_an_image_row_and_a_text_row():
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    image = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert find_spans(image, mask, [2, 1]) == [
        Spans((0, 1), (1, 3), (3, 4), (4, 6)),
        Spans((2, 2), (2, 2), (2, 5), (5, 6)),
    ]
    assert find_spans(image, mask)[0] == Spans((0, 1), (1, 3), (3, 6), (6, 6))


def test_an_image_in_several_pieces_is_one_span():
    assert find_spans(torch.tensor([[0, 1, 0, 1, 0]]), torch.ones(1, 5))[0].image == (1, 4)


def test_spans_shift():
    span = Spans((2, 3), (3, 5), (5, 7), (7, 8))
    assert (span.start, span.stop) == (2, 8)
    assert span.shift(-2) == Spans((0, 1), (1, 3), (3, 5), (5, 6))


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1), ([1], [2], 0), ([1], [1], 1)],
)
def test_common_prefix(one, other, length):
    assert common_prefix(one, other) == common_prefix(other, one) == length


def test_answer_positions_predict_the_labels():
    labels = torch.tensor([[IGNORED, IGNORED, 7, 8, IGNORED], [IGNORED] * 5])
    batch = Batch({}, labels, [])
    assert batch.answer_positions().tolist() == [[False, True, True, False, False], [False] * 5]


def test_a_batch_grows_by_what_is_generated():
    ids = torch.tensor([[1, 2], [0, 3]])
    tokens = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1], [0, 1]])}
    inputs = {
        "token_type_ids": torch.ones_like(ids),
        "pixels": torch.zeros(2, 3, 4),
        "shapes": torch.zeros(2, 2),
    }
    batch = Batch(tokens | inputs, torch.full_like(ids, IGNORED), [])
    grown = batch.extended(torch.tensor([[5], [6]]))
    assert grown.inputs["input_ids"].tolist() == [[1, 2, 5], [0, 3, 6]]
    assert grown.inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert grown.inputs["token_type_ids"].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert grown.inputs["pixels"].shape == (2, 3, 4)
    assert grown.inputs["shapes"].shape == (2, 2), "as wide as the rows by chance"
    assert grown.labels.tolist() == [[IGNORED] * 3] * 2
    assert batch.inputs["input_ids"] is ids


def test_rows_lose_their_padding():
    batch = hidden_batch(4, 2)
    rows = batch.rows()
    assert [len(row) for row in rows] == [1, 1]
    assert [row.hidden.shape[1] for row in rows] == [4, 2]
    assert torch.equal(rows[1].hidden[0], batch.hidden[1, 2:])
    assert rows[1].spans == [Spans((0, 0), (0, 0), (0, 1), (1, 2))]
    assert rows[1].attention_mask.all()
    assert rows[1].labels.tolist() == [[IGNORED, 1]]


@pytest.mark.parametrize("axes", [(), (3,)])
def test_rows_stack_again_with_their_positions(axes):
    positions = torch.arange(8).reshape(2, 4).expand(*axes, 2, 4)
    batch = hidden_batch(4, 2, positions=positions)
    rows = batch.rows()
    assert rows[1].position_ids.shape == (*axes, 1, 2)
    stacked = HiddenBatch.stack(rows[::-1])
    assert stacked.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert stacked.labels.tolist() == [
        [IGNORED, 1, IGNORED, IGNORED],
        [IGNORED, IGNORED, IGNORED, 0],
    ]
    assert stacked.position_ids.shape == (*axes, 2, 4)
    assert stacked.position_ids.reshape(-1, 4)[0].tolist() == [6, 7, 0, 0]
    assert torch.equal(stacked.hidden[0, :2], batch.hidden[1, 2:])
    assert stacked.hidden[0, 2:].abs().max() == 0
    assert torch.equal(stacked.answer_positions().sum(1), torch.tensor([1, 1]))


@pytest.mark.parametrize("axes", [(), (3,)])
def test_rows_without_positions_count_them_from_0_beside_rows_that_have_some(axes):
    known = hidden_batch(2, positions=torch.tensor([[6, 7]]).expand(*axes, 1, 2))
    stacked = HiddenBatch.stack([known, hidden_batch(3)])
    assert stacked.position_ids.shape == (*axes, 2, 3)
    assert stacked.position_ids.reshape(-1, 2, 3)[-1].tolist() == [[6, 7, 0], [0, 1, 2]]


def test_stacking_batches_of_several_rows():
    one, other = hidden_batch(4, 2), hidden_batch(5)
    stacked = HiddenBatch.stack([one, other])
    assert len(stacked) == 3
    assert stacked.spans == [*one.spans, *other.spans]
    assert stacked.position_ids is None


def test_moving():
    batch = hidden_batch(2, positions=torch.zeros(1, 2)).to("meta")
    assert {
        value.device.type
        for value in (batch.hidden, batch.attention_mask, batch.labels, batch.position_ids)
    } == {"meta"}
    assert hidden_batch(2).to("cpu").position_ids is None


def asked(*parts, side):
    """A batch whose rows have so many (image, prompt, answer) tokens, padded on ``side``.

    Their token ids count from 1.
    """
    length = max(map(sum, parts))
    gaps = [length - sum(row) if side == "left" else 0 for row in parts]
    spans = [Spans(*edges(*row)).shift(gap) for row, gap in zip(parts, gaps, strict=True)]
    ids = torch.zeros(len(parts), length, dtype=torch.long)
    labels = torch.full((len(parts), length), IGNORED)
    for row, span in enumerate(spans):
        ids[row, span.start : span.stop] = torch.arange(1, span.stop - span.start + 1)
        labels[row, slice(*span.answer)] = ids[row, slice(*span.answer)]
    return Batch({"input_ids": ids, "attention_mask": (ids > 0).long()}, labels, spans)


def edges(image, prompt, answer):
    return (0, 0), (0, image), (image, image + prompt), (image + prompt, image + prompt + answer)


@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors_before_the_text_of_some_rows(side):
    batch = asked((2, 3, 0), (0, 2, 0), (1, 1, 0), side=side)
    prefix = {0: torch.ones(2, 4), 2: 2 * torch.ones(1, 4)}
    longer, places = batch.prefixed(prefix, 99)
    text = [[1, 2, 99, 99, 3, 4, 5], [1, 2], [1, 99, 2]]
    gaps = [7 - len(row) if side == "left" else 0 for row in text]
    real = [
        [int(0 <= at - gap < len(row)) for at in range(7)]
        for row, gap in zip(text, gaps, strict=True)
    ]
    assert longer.inputs["attention_mask"].tolist() == real
    for row, span in enumerate(longer.spans):
        assert longer.inputs["input_ids"][row, span.start : span.stop].tolist() == text[row]
        assert span.image[1] - span.image[0] == [2, 0, 1][row]
    assert torch.equal(longer.inputs["input_ids"].gather(1, places), batch.inputs["input_ids"])
    embedded = longer.embedded(torch.zeros(3, 7, 4))
    assert [row.nonzero()[:, 0].unique().tolist() for row in embedded] == [
        [at + gap for at, token in enumerate(row) if token == 99]
        for row, gap in zip(text, gaps, strict=True)
    ]
    assert embedded[2].max() == 2


def test_answers_move_with_their_labels():
    batch = asked((2, 3, 2), (0, 2, 1), side="right")
    longer, places = batch.prefixed({1: torch.ones(3, 4)}, 99)
    assert torch.equal(longer.labels.gather(1, places), batch.labels)
    for row, span in enumerate(longer.spans):
        assert torch.equal(
            longer.labels[row, slice(*span.answer)], batch.labels[row][batch.labels[row] != IGNORED]
        )
