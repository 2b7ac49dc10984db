"""What LiveEdit is trained on (Eq. 8-16): its terms for one batch of examples under given draws.

B examples, R rows (the queries of all examples), N answer tokens of these rows, V size of the
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from liveedit.editors.base import Example
from liveedit.editors.common.attention import image_and_prompt, own_similarity, similarity
from liveedit.editors.common.losses import absolute_routing, hard_routing, kl, nll, relative_routing
from liveedit.editors.liveedit.routing import reach, residual, soft_routing
from liveedit.editors.liveedit.sampling import EDIT, Draws, RowName
from liveedit.models.batch import HiddenBatch

if TYPE_CHECKING:
    from liveedit.editors.liveedit.editor import LiveEdit

__all__ = ["Rows", "replay", "routing_terms"]


def replay(
    editor: "LiveEdit", examples: Sequence[Example], draws: Draws
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch under given draws, and its terms by name.

    The rows of the examples that write go through the VLM's upper layers together, once. All
    examples are routed.
    """
    terms = output_terms(editor, editor.writing(examples), draws) | editor.routing_terms(
        examples, draws
    )
    return torch.stack(list(terms.values())).sum(), terms


class Rows:
    """The rows of examples, those of a kind together, the edits first: their names and their
    states.
    """

    def __init__(self, editor: "LiveEdit", examples: Sequence[Example]) -> None:
        kinds = (EDIT, *editor.config.generality, *editor.config.locality)
        self.names: list[RowName] = [
            (kind, j)
            for kind in kinds
            for j, example in enumerate(examples)
            if kind in example.rows
        ]
        self.hidden = editor.onto(
            HiddenBatch.stack([examples[j].rows[kind] for kind, j in self.names])
        )
        self.image, self.prompt = image_and_prompt(self.hidden.hidden, self.hidden.spans)
        self.edits = torch.arange(len(examples), device=editor.device)
        asked = [examples[j].facts[kind] for kind, j in self.names]
        edited = [example.facts[EDIT] for example in examples]
        same = [[bool(fact) and fact == other for other in edited] for fact in asked]
        belongs = torch.tensor(
            [[j == other for other in range(len(examples))] for _, j in self.names]
        )
        self.rivals = (torch.tensor(same) & ~belongs).to(editor.device)
        """(R, B): whether a row asks for the fact of an edit that is not its example's: neither own
        nor a stranger.
        """


def output_terms(
    editor: "LiveEdit", examples: Sequence[Example], draws: Draws
) -> dict[str, Tensor]:
    """Eq. 9-11: for each kind the mean over its rows of their likelihood or, if they must not
    change, divergence.
    """
    rows = Rows(editor, examples)
    hidden, positions = rows.hidden, rows.hidden.answer_positions()
    mixed = (
        torch.stack([draws.mixed[kind][j] for kind, j in rows.names]).to(editor.device)
        & ~rows.rivals
    )
    changed = hidden.hidden + _change(editor, examples, rows, mixed).to(hidden.hidden.dtype)
    logits = editor.vlm.resume(editor.layer, replace(hidden, hidden=changed), positions)
    labels, row = hidden.labels.roll(-1, 1)[positions], positions.nonzero()[:, 0]
    terms = {}
    for kind in dict.fromkeys(kind for kind, _ in rows.names):
        chosen = [index for index, (other, _) in enumerate(rows.names) if other == kind]
        base = [
            examples[j].base[kind]
            for other, j in rows.names
            if other == kind and kind in examples[j].base
        ]
        here = (row >= chosen[0]) & (row <= chosen[-1])
        edited, owner, count = logits[here], row[here] - chosen[0], len(chosen)
        if base:
            terms[kind] = kl(edited, torch.cat(base).to(logits.device), owner, count).mean()
        else:
            terms[kind] = nll(edited, labels[here], owner, count).mean()
    return terms


def _change(editor: "LiveEdit", examples: Sequence[Example], rows: Rows, mixed: Tensor) -> Tensor:
    """What the experts ``mixed`` (R, B) add to the rows, (R, T, D), by soft routing alone (after
    Eq. 8).
    """
    U, V = editor.factors(
        editor.onto(HiddenBatch.stack([example.rows[EDIT] for example in examples]))
    )
    psi = editor.input_features.text_key(rows.prompt)
    z = similarity(psi, editor.edit_features.text_key(rows.prompt.pick(rows.edits)))
    change = residual(editor.norm(rows.hidden.hidden.float()), U, V, soft_routing(z, mixed))
    return change if editor.config.positions == "all" else change * reach(rows.hidden.spans, change)


def routing_terms(
    editor: "LiveEdit", examples: Sequence[Example], draws: Draws
) -> dict[str, Tensor]:
    """Eq. 13, 15 and 16 on the pairs drawn."""
    rows = Rows(editor, examples)
    place = {name: index for index, name in enumerate(rows.names)}
    bar, hat = editor.input_features, editor.edit_features
    terms: dict[str, Tensor] = {}
    for name, pairs in (("hard_neighbour", draws.neighbours), ("hard_sentinel", draws.strangers)):
        if not pairs.inputs:
            continue
        a = torch.tensor([place[row] for row in pairs.inputs], device=editor.device)
        b = torch.tensor([place[row] for row in pairs.edits], device=editor.device)
        image, prompt = rows.image.pick(a), rows.prompt.pick(a)
        own = torch.arange(len(a), device=editor.device)
        if pairs is draws.neighbours:
            z = similarity(bar.text_key(prompt), hat.text_key(rows.prompt.pick(b)))
            terms |= {"soft_relative": relative_routing(z), "soft_absolute": absolute_routing(z)}
        phi = bar.vision_key(image, prompt)
        sentinel = own_similarity(phi, bar.sentinel_key(prompt))
        wanted = own if pairs is draws.neighbours else torch.full_like(own, len(own))
        hats = hat.vision_key(rows.image.pick(b), rows.prompt.pick(b))
        terms[name] = hard_routing(similarity(phi, hats), sentinel, wanted)
    return terms
