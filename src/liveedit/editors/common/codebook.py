"""Codebook: entries of key and value at one layer; a prompt that finds one gets its value.

The shared part of GRACE and HoReN: which entry a prompt finds, and what its value does, is theirs.

Shapes: B rows, T tokens, E entries, D width of the text decoder.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.bank_editor import BankPatch
from liveedit.editors.common.branch import Branch
from liveedit.models.batch import Batch
from liveedit.models.patch import Patch, SiteFn
from liveedit.models.vlm import VLM

__all__ = ["CodebookBranch", "CodebookPatch", "fit_outputs"]


class CodebookPatch(BankPatch):
    """A codebook; ``bank`` holds at least ``value`` (E, D)."""

    reads: str
    """The site of the states that entries are found by."""
    writes: str
    """The site where an entry's value goes, at the last prompt token."""

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        return CodebookBranch(self, batch).sites() if len(self) else {}

    @abstractmethod
    def find(self, x: Tensor, batch: Batch) -> Tensor:
        """The entry (B,) that each row's prompt finds, -1 for none, given the states x (B, T, ·).

        Its scores are noted in ``batch``, if they are wanted.
        """

    @abstractmethod
    def written(self, output: Tensor, values: Tensor) -> Tensor:
        """The replacement of the ``output`` (n, D) of n rows, given their ``values`` (n, D)."""


class CodebookRoute(NamedTuple):
    """The codebook entry of each row.

    Arguments:
        entry: The entry, (B,), -1 for none.
        column: The row's last prompt token, (B,), where the entry's value is written.
    """

    entry: Tensor
    column: Tensor


class CodebookBranch(Branch[CodebookRoute]):
    """Writes values of the codebook at the last prompt tokens; generated tokens are left alone."""

    def __init__(self, patch: CodebookPatch, batch: Batch) -> None:
        super().__init__(patch.reads, patch.writes)
        self.patch = patch
        self.batch = batch

    def route(self, x: Tensor) -> CodebookRoute:
        """Find each row's entry."""
        entry = self.patch.find(x, self.batch)
        fired = [[(found, 1.0)] if found >= 0 else [] for found in entry.tolist()]
        self.batch.fired[self.patch] = fired
        return CodebookRoute(entry, self.batch.last_prompt_tokens())

    def change(self, x: Tensor, output: Tensor, routing: CodebookRoute) -> Tensor:  # noqa: ARG002
        """See :meth:`Branch.change`."""
        column = routing.column - self.start
        here = (column >= 0) & (column < output.shape[1])
        rows = (here & (routing.entry >= 0)).nonzero()[:, 0]
        if not len(rows):
            return output
        places = (rows, column[rows])
        values = self.patch.bank["value"][routing.entry[rows]]
        return output.index_put(places, self.patch.written(output[places], values).to(output.dtype))


@torch.enable_grad()
def fit_outputs(
    vlm: VLM, batch: Batch, site: str, layer: int, start: Tensor, lr: float, steps: int
) -> Tensor:
    """The outputs (B, D) of ``site`` in ``layer`` at the last prompt tokens that give the answers.

    They minimise −(1/|o|) Σ_t log f(o_t | output, p, o_<t) of each row, by ``steps`` of Adam from
    ``start`` (B, D). Rows are independent, so they are fitted together.
    """
    hidden = vlm.hidden(batch, layer - 1)
    positions = hidden.answer_positions()
    targets = hidden.answer_tokens()
    share = 1.0 / positions.sum(1)[hidden.answer_rows()]
    outputs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([outputs], lr=lr)
    trial = LastTokenPatch(site, outputs)
    for _ in range(steps):
        with vlm.patched(trial):
            logits = vlm.resume(layer - 1, hidden, positions)
        loss = (F.cross_entropy(logits.float(), targets, reduction="none") * share).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return outputs.detach()


class LastTokenPatch(Patch):
    """Replaces the state at ``site`` at each row's last prompt token by ``values`` (B, D)."""

    def __init__(self, site: str, values: Tensor) -> None:
        self.site = site
        self.values = values

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        rows = torch.arange(len(batch), device=self.values.device)
        index = (rows, batch.last_prompt_tokens())
        return {self.site: lambda output: output.index_put(index, self.values.to(output.dtype))}
