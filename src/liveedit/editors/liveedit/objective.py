"""LiveEdit's training objective (Chen et al., CVPR 2025, Eq. 8–16) for one batch of examples.

Shapes: B examples, R rows (the queries of all examples), N answer tokens of these rows, V size of
the vocabulary, T tokens of a row, D width of the text decoder.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from liveedit.editors.common.attention import image_and_prompt, similarity
from liveedit.editors.common.examples import EDIT, Example, chunks, row_names, same_fact
from liveedit.editors.common.losses import kl, nll
from liveedit.editors.liveedit.experts import ExpertEditor
from liveedit.editors.liveedit.losses import absolute_routing, hard_routing, relative_routing
from liveedit.editors.liveedit.routing import reach, residual, soft_routing
from liveedit.editors.liveedit.sampling import Draws, Pairs, draw
from liveedit.models.batch import HiddenBatch

__all__ = ["Rows", "draw_batch", "replay", "routing_terms"]

TOGETHER = 16
"""Rows that go through the upper layers together."""

Terms = dict[str, Tensor]
"""The terms of a loss, by name."""


def draw_batch(
    editor: ExpertEditor, examples: Sequence[Example], generator: torch.Generator
) -> Draws:
    """The random choices for a batch of examples."""
    kinds = []
    for example in editor.writing(examples):
        rows = example.rows.items()
        kinds.append([kind for kind, row in rows if row.spans[0].has_image])
    return draw(kinds, editor.config.generality, editor.config.locality, generator)


def replay(editor: ExpertEditor, examples: Sequence[Example], draws: Draws) -> tuple[Tensor, Terms]:
    """The loss of a batch under given draws, and its terms.

    The rows of :meth:`ExpertEditor.writing`'s examples go through the VLM's upper layers together,
    once. All examples train the routing.
    """
    terms = output_terms(editor, editor.writing(examples), draws)
    terms |= editor.routing_terms(examples, draws)
    return torch.stack(list(terms.values())).sum(), terms


class Rows:
    """The rows of a batch of examples, those of one kind together, the edits first."""

    def __init__(self, editor: ExpertEditor, examples: Sequence[Example]) -> None:
        kinds = (EDIT, *editor.config.generality, *editor.config.locality)
        self.names = row_names(examples, kinds)
        self.states = [examples[j].rows[kind] for kind, j in self.names]
        self.hidden = editor.on_device(HiddenBatch.stack(self.states))
        self.image, self.prompt = image_and_prompt(self.hidden.hidden, self.hidden.spans)
        self.edits = torch.arange(len(examples), device=editor.device)
        """The rows of the edits, (B,)."""
        self.same_fact = same_fact(examples, self.names).to(editor.device)
        """Pairs of a row and an edit of another example that are about one fact, boolean (R, B).

        Such an edit is neither the row's own nor an unrelated one.
        """


def output_terms(editor: ExpertEditor, examples: Sequence[Example], draws: Draws) -> Terms:
    """Eq. 9–11: for each kind the mean loss of its rows.

    The loss is the likelihood of the answer or, for rows that must not change, the divergence from
    the unedited model.
    """
    rows = Rows(editor, examples)
    mixed = torch.stack([draws.mixed[kind][j] for kind, j in rows.names]).to(editor.device)
    change = _change(editor, examples, rows, mixed & ~rows.same_fact)
    logits = answer_logits(editor, rows, change)
    terms = Terms()
    for kind in dict.fromkeys(kind for kind, _ in rows.names):
        chosen = [index for index, (other, _) in enumerate(rows.names) if other == kind]
        here = torch.cat([logits[index] for index in chosen])
        counts = torch.tensor([len(logits[index]) for index in chosen], device=here.device)
        owner = torch.arange(len(chosen), device=here.device).repeat_interleave(counts)
        members = [examples[rows.names[index][1]] for index in chosen]
        base = [example.base[kind] for example in members if kind in example.base]
        if base:
            known = torch.cat(base).to(here.device)
            terms[kind] = kl(here, known, owner, len(chosen)).mean()
        else:
            labels = torch.cat([rows.states[index].answer_tokens() for index in chosen])
            terms[kind] = nll(here, labels.to(here.device), owner, len(chosen)).mean()
    return terms


def answer_logits(editor: ExpertEditor, rows: Rows, change: Tensor) -> list[Tensor]:
    """For each row, the logits (n, V) that predict the n tokens of its answer.

    ``change`` (R, T, D) is added to the states. Rows of similar length go through the upper layers
    together, few at a time: little is padding, and the states of a few rows fit in a CPU's cache.
    """
    order = sorted(range(len(rows.names)), key=lambda row: rows.states[row].labels.shape[1])
    changes = torch.split(change[torch.tensor(order, device=change.device)], TOGETHER)
    found: dict[int, Tensor] = {}
    for chunk, here in zip(chunks(order, TOGETHER), changes, strict=True):
        hidden = editor.on_device(HiddenBatch.stack([rows.states[row] for row in chunk]))
        added = here[:, : hidden.hidden.shape[1]].to(hidden.hidden.dtype)
        hidden = replace(hidden, hidden=hidden.hidden + added)
        positions = hidden.answer_positions()
        logits = editor.vlm.resume(editor.layer, hidden, positions)
        parts = logits.split_with_sizes(positions.sum(1).tolist())
        found |= dict(zip(chunk, parts, strict=True))
    return [found[row] for row in range(len(rows.names))]


def _change(editor: ExpertEditor, examples: Sequence[Example], rows: Rows, mixed: Tensor) -> Tensor:
    """The residuals (R, T, D) of the experts ``mixed`` (R, B), by soft routing (after Eq. 8)."""
    edits = HiddenBatch.stack([example.rows[EDIT] for example in examples])
    U, V = editor.factors(editor.on_device(edits))
    psi = editor.input_features.text_key(rows.prompt)
    z = similarity(psi, editor.edit_features.text_key(rows.prompt.pick(rows.edits)))
    weight = soft_routing(z, mixed)
    change = residual(editor.norm(rows.hidden.hidden.float()), U, V, weight)
    if editor.config.positions == "all":
        return change
    return change * reach(rows.hidden.last_prompt_tokens(), change)


def routing_terms(editor: ExpertEditor, examples: Sequence[Example], draws: Draws) -> Terms:
    """Eq. 13, 15 and 16 on the pairs drawn."""
    rows = Rows(editor, examples)
    terms = Terms()
    if draws.neighbours.inputs:
        terms |= soft_terms(editor, rows, draws.neighbours)
        own = torch.arange(len(draws.neighbours.inputs), device=editor.device)
        terms["hard_neighbour"] = hard_term(editor, rows, draws.neighbours, own)
    if draws.unrelated.inputs:
        count = len(draws.unrelated.inputs)
        sentinel = torch.full((count,), count, device=editor.device)
        terms["hard_sentinel"] = hard_term(editor, rows, draws.unrelated, sentinel)
    return terms


def soft_terms(editor: ExpertEditor, rows: Rows, pairs: Pairs) -> Terms:
    """Eq. 15 and 16 on pairs that belong together."""
    inputs, edits = pair_rows(editor, rows, pairs)
    psi = editor.input_features.text_key(rows.prompt.pick(inputs))
    z = similarity(psi, editor.edit_features.text_key(rows.prompt.pick(edits)))
    return {"soft_relative": relative_routing(z), "soft_absolute": absolute_routing(z)}


def hard_term(editor: ExpertEditor, rows: Rows, pairs: Pairs, wanted: Tensor) -> Tensor:
    """Eq. 13 on pairs; ``wanted`` (n,) is the column that must win, n for the sentinel."""
    inputs, edits = pair_rows(editor, rows, pairs)
    image = rows.image.pick(inputs)
    prompt = rows.prompt.pick(inputs)
    phi, sentinel = editor.input_features.vision_key_and_sentinel(image, prompt)
    keys = editor.edit_features.vision_key(rows.image.pick(edits), rows.prompt.pick(edits))
    return hard_routing(similarity(phi, keys), sentinel, wanted)


def pair_rows(editor: ExpertEditor, rows: Rows, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The indices (n,) of the rows whose input side, and whose edit side, n pairs compare."""
    index = {name: row for row, name in enumerate(rows.names)}
    inputs = torch.tensor([index[name] for name in pairs.inputs], device=editor.device)
    edits = torch.tensor([index[name] for name in pairs.edits], device=editor.device)
    return inputs, edits
