"""Token ids that records hold, from labels and logits.

Shapes: B rows, T tokens (padding included), V size of the vocabulary.
"""

from collections.abc import Collection

from torch import Tensor

__all__ = ["answer_tokens", "predictions", "shown_answer"]


def answer_tokens(labels: Tensor) -> list[tuple[int, ...]]:
    """The answer tokens of each row of ``labels`` (B, T), negative on all other tokens."""
    return [tuple(row[row >= 0].tolist()) for row in labels]


def predictions(logits: Tensor, positions: Tensor) -> list[tuple[int, ...]]:
    """The most likely token at each of the ``positions`` of each row.

    ``logits`` are (B, T, V), ``positions`` boolean (B, T).

    At the positions that predict answer tokens these are the tokens that the papers' accuracy
    compares under teacher forcing: with the target's tokens, or for locality with the unedited
    model's predictions at the same positions.
    """
    return [
        tuple(row[marked].argmax(-1).tolist())
        for row, marked in zip(logits, positions, strict=True)
    ]


def shown_answer(
    forced: tuple[int, ...], predicted: tuple[int, ...], stops: Collection[int], limit: int
) -> tuple[int, ...] | None:
    """The tokens of the greedy answer, where forcing other tokens shows them; otherwise ``None``.

    ``predicted`` holds the model's choice in place of each token of ``forced``, and one more: its
    choice after all of them. As long as it chooses what is forced, both are the greedy answer. That
    ends with one of ``stops``, or after ``limit`` tokens.
    """
    for at, chosen in enumerate(predicted[:limit]):
        if chosen in stops:
            return forced[:at]
        if forced[at : at + 1] != (chosen,):
            return None
    return forced[:limit]
