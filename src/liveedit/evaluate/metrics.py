"""From logits to what records hold. Tensors in, plain values out; nothing here knows a model.

Shapes: B rows, T tokens (padding included), V size of the vocabulary.
"""

from torch import Tensor

__all__ = ["RANKS", "answers", "best", "kept", "predictions"]

RANKS = 10
"""How many of the best tokens VLKEB's locality compares."""


def answers(labels: Tensor) -> list[tuple[int, ...]]:
    """The answer tokens of each row of ``labels`` (B, T), which are negative on all other tokens."""
    return [tuple(row[row >= 0].tolist()) for row in labels]


def predictions(logits: Tensor, positions: Tensor) -> list[tuple[int, ...]]:
    """The likeliest token at each of the ``positions``, boolean (B, T), of each row of ``logits``
    (B, T, V).

    At the positions that predict answer tokens this is what the papers' accuracy compares, under
    teacher forcing: with the target's tokens, or for locality with the unedited model's predictions
    at the same positions.
    """
    return [
        tuple(row[marked].argmax(-1).tolist())
        for row, marked in zip(logits, positions, strict=True)
    ]


def best(logits: Tensor, real: Tensor) -> Tensor:
    """The :data:`RANKS` likeliest tokens, the likeliest first, at each real position: (n, ranks) on
    the CPU.

    ``logits`` (T, V) and ``real``, boolean (T), are those of one row.
    """
    return logits[real].topk(min(RANKS, logits.shape[-1])).indices.int().cpu()


def kept(before: Tensor, after: Tensor, ranks: int = RANKS) -> float:
    """The share of (position, rank) slots that hold the same token in both of :func:`best`'s lists,
    each (n, RANKS).

    Over all positions, those of the image included, the first ten ``ranks`` are image locality in
    VLKEB's and EasyEdit's released code, and the first alone is their text locality. Where a method
    has put text in front of the query, so that its row is longer, the last positions are compared.
    """
    return float((before == after[-len(before) :])[:, :ranks].double().mean())
