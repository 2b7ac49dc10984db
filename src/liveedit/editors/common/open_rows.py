"""Edits that a patch keeps, as rows of hidden states, because later edits are trained with them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from liveedit.models.batch import HiddenBatch, Spans

__all__ = ["open_rows", "open_values"]

EXTRA = "open.extra."


def open_values(rows: HiddenBatch) -> dict[str, Tensor]:
    """The values of a patch that keep ``rows``; their names begin with ``open.``."""
    spans = [[span.before, span.image, span.prompt, span.answer] for span in rows.spans]
    values = {
        "open.hidden": rows.hidden,
        "open.mask": rows.attention_mask,
        "open.labels": rows.labels,
        "open.spans": torch.tensor(spans, device=rows.labels.device),
    }
    values |= {f"{EXTRA}{name}": value for name, value in rows.extra.items()}
    if rows.position_ids is not None:
        values["open.positions"] = rows.position_ids
    return values


def open_rows(values: Mapping[str, Tensor]) -> list[HiddenBatch]:
    """Each of the rows that the values of a patch keep; none where they keep none."""
    if "open.hidden" not in values:
        return []
    spans = []
    for row in values["open.spans"].tolist():
        spans.append(Spans(*((int(start), int(stop)) for start, stop in row)))
    extra = {
        name.removeprefix(EXTRA): value for name, value in values.items() if name.startswith(EXTRA)
    }
    rows = HiddenBatch(
        hidden=values["open.hidden"],
        attention_mask=values["open.mask"],
        labels=values["open.labels"],
        spans=spans,
        position_ids=values.get("open.positions"),
        extra=extra,
    )
    return rows.rows()
