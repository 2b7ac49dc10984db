"""LiveEdit at query time: which experts act on an input (Eq. 5 and 7), and what they add (Eq. 6).

Shapes: B rows, T tokens, E experts in the patch, n experts kept by a row, D width of the text
decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.attention import image_and_prompt, own_similarity, similarity
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.models.batch import Batch, Spans, going_on
from liveedit.models.patch import SiteFn

if TYPE_CHECKING:
    from liveedit.editors.liveedit.editor import LiveEdit

__all__ = ["LiveEditPatch", "Routing", "pictured", "reach", "residual", "soft_routing"]

SLAB = 64
"""Experts a row that are gathered at a time: bounds the memory where a router keeps very many."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router found for each row.

    Similarity in φ to every expert, ``vision`` (B, E), and to the ``sentinel`` (B,); which experts
    it keeps, ``keep`` (B, E); and their fusion ``weight`` (B, E), 0 where it does not.
    """

    vision: Tensor
    sentinel: Tensor
    keep: Tensor
    weight: Tensor

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Experts and weights, each (B, n), the heaviest first; n is the most any row keeps, 0 the
        weight beyond.
        """
        most = int(self.keep.sum(1).max())
        weight, expert = self.weight.masked_fill(~self.keep, -1.0).topk(most, dim=1)
        return expert, weight.clamp(min=0.0)


class LiveEditPatch(BankPatch):
    """Experts, and the editor whose networks route to them.

    ``bank`` holds ``vision_keys`` and ``text_keys`` (E, k, d_m), ``expert_in`` and ``expert_out``
    (E, r, D).
    """

    FILE = "liveedit.safetensors"

    editor: "LiveEdit"

    def __init__(self, editor: "LiveEdit", bank: Bank) -> None:
        super().__init__(editor, bank.to(editor.device))

    def __getitem__(self, index: slice) -> "LiveEditPatch":
        """Some of the edits, as in a list."""
        return self.select(index)

    def select(self, index: Sequence[int] | slice | Tensor) -> "LiveEditPatch":
        """The edits at ``index`` alone, in that order."""
        made = LiveEditPatch(self.editor, self.bank.select(index))
        return made.listed(self.ledger.select(index))

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The site is the edit layer."""
        sees = self.editor.config.text_only == "text_key" or any(
            pictured(span) for span in batch.spans
        )
        return {f"layers.{self.editor.layer}": Execution(self, batch)} if len(self) and sees else {}

    @torch.no_grad()
    def route(self, hidden: Tensor, spans: Sequence[Spans]) -> Routing:
        """Eq. 5 and 7 for rows whose states at the edit layer are ``hidden`` (B, T, D)."""
        config, features = self.editor.config, self.editor.input_features
        image, prompt = image_and_prompt(hidden, spans)
        phi = features.vision_key(image, prompt)
        vision = similarity(phi, self.bank["vision_keys"])
        sentinel = own_similarity(phi, features.sentinel_key(prompt))
        z = similarity(features.text_key(prompt), self.bank["text_keys"])
        seen = torch.tensor([pictured(span) for span in spans], device=hidden.device)[:, None]
        unseen = z > 0 if config.text_only == "text_key" else torch.zeros_like(z, dtype=torch.bool)
        above = vision - sentinel[:, None]
        keep = self.taking_part(torch.where(seen, self.editor.keeps(above, z), unseen))
        if config.top_k is not None:
            best = (
                z.masked_fill(~keep, -torch.inf).topk(min(config.top_k, len(self)), dim=1).indices
            )
            keep &= torch.zeros_like(keep).scatter(1, best, True)
        return Routing(vision, sentinel, keep, soft_routing(z, keep))


class Execution:
    """A patch at work on one batch: called with the edit layer's output for the prompt, then for
    each decoded token.

    The first call decides which experts act on which row; all others go by it, ``start`` tokens
    behind its first.
    """

    def __init__(self, patch: LiveEditPatch, batch: Batch) -> None:
        self.patch, self.batch, self.spans = patch, batch, batch.spans
        self.rows: Tensor | None = None
        self.start = 0

    def __call__(self, output: Tensor) -> Tensor:
        """The output (B, T', D) with the residuals; the very same object if no row keeps an expert."""
        rows = self.choose(output) if self.rows is None else self.rows
        if not len(rows):
            return output
        with torch.no_grad():
            change = self.change(output[rows])
            if self.patch.editor.config.positions == "answer":
                change *= reach([self.spans[row] for row in rows.tolist()], change, self.start)
        return output.index_add(0, rows, change.to(output.dtype))

    def choose(self, output: Tensor) -> Tensor:
        """Route on the prompt; the rows that keep an expert."""
        routing = self.patch.route(output, self.spans)
        experts, weights = routing.ranked()
        kept = routing.keep.sum(1)
        listed = zip(experts.tolist(), weights.tolist(), kept.tolist(), strict=True)
        self.batch.fired[self.patch] = [list(zip(e[:n], w[:n], strict=True)) for e, w, n in listed]
        self.rows = kept.nonzero()[:, 0]
        self.experts, self.weights = experts[self.rows], weights[self.rows]
        return self.rows

    def rewind(self, length: int) -> None:
        """Go on behind the first ``length`` tokens of the rows."""
        self.start = length

    def reorder(self, rows: Tensor) -> None:
        """Go on behind other rows: row i behind row ``rows[i]``."""
        if self.rows is not None:
            kept, before = going_on(self.rows.tolist(), rows)
            self.rows = torch.tensor(kept, dtype=torch.long, device=self.rows.device)
            self.experts, self.weights = self.experts[before], self.weights[before]
            self.spans = [self.spans[row] for row in rows.tolist()]

    def change(self, hidden: Tensor) -> Tensor:
        """Eq. 6 without h, for the rows that keep an expert: Σ w ρ(LN(h) Uᵀ) V, (B', T', D)."""
        U, V = self.patch.bank["expert_in"], self.patch.bank["expert_out"]
        x = self.patch.editor.norm(hidden.float())
        change = torch.zeros_like(x)
        for start in range(0, self.experts.shape[1], SLAB):
            some, weight = (
                self.experts[:, start : start + SLAB],
                self.weights[:, start : start + SLAB],
            )
            change += residual(x, U[some], V[some], weight)
        return change


def pictured(span: Spans) -> bool:
    """Whether the row has an image."""
    return span.image[0] < span.image[1]


def reach(spans: Sequence[Spans], like: Tensor, start: int = 0) -> Tensor:
    """1 from the last prompt token on and 0 before, (B, T, 1) for residuals ``like`` (B, T, D).

    The first of these are of the token ``start`` of the rows.
    """
    first = torch.tensor([span.prompt[1] - 1 - start for span in spans], device=like.device)
    return (torch.arange(like.shape[1], device=like.device) >= first[:, None]).to(like.dtype)[
        ..., None
    ]


def soft_routing(z: Tensor, keep: Tensor) -> Tensor:
    """Eq. 7: σ(z) times the softmax of z over the experts kept, 0 elsewhere. ``z`` and ``keep`` are
    (B, E).
    """
    relative = z.masked_fill(~keep, torch.finfo(z.dtype).min).softmax(-1)
    return torch.where(keep, relative * z.sigmoid(), 0.0)


def residual(x: Tensor, U: Tensor, V: Tensor, weight: Tensor) -> Tensor:
    """Σ w ρ(x Uᵀ) V, the sum in Eq. 6, (B, T, D).

    ``x`` (B, T, D) is the normalised state, ``weight`` (B, E) each expert's fusion weight in each
    row. ``U`` and ``V`` are (E, r, D) where all rows choose from the same experts, (B, E, r, D)
    where each has its own.
    """
    activation = F.relu(x @ U.flatten(-3, -2).transpose(-1, -2))
    spread = weight.repeat_interleave(U.shape[-2], -1)
    return (activation * spread[:, None]) @ V.flatten(-3, -2)
